"""A sheet's grid: a row for each thing shown, a column for each model, the curves below, the colours at the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iifdet.explaining.panels import CURVES, Pixels, colour_scale, draw_curves, panel_size, plain, reduced
from iifdet.plots.figure import new_figure, save


class Row(NamedTuple):
    """One thing about an image: its name, what draws it into ``(axes, picture, explanation)``, and whether as heat."""

    name: str
    draw: Callable[[Any, Pixels, Any], None]
    is_heat: bool


def draw_grid(
    rows: Sequence[Row],
    image: Pixels,
    explanations: Sequence[Any],
    titles: Sequence[str],
    path: str | Path,
    *,
    gap: float,
    margin: float,
) -> None:
    """Write a sheet: rows x models, each column under its model's title.

    Args:
        rows: from the top.
        image: (H, W, 3) uint8 RGB, the original.
        explanations: one a model, in the pixels of ``image``.
        titles: one a model.
        path: the picture; its suffix names the format.
        gap, margin: inches for the titles of one row, and beside all rows.
    """
    picture = reduced(image)
    height, width = image.shape[:2]
    across, down = panel_size(height, width)
    curves = any(seen.curves is not None for seen in explanations)
    count = len(rows)
    figure = new_figure(len(explanations) * across + 0.8, count * (down + gap) + margin + curves * CURVES)
    shares = [across] * len(explanations) + [0.12]  # the scale of the heat maps stands in a narrow column of its own
    heights = [down] * count + [CURVES * 0.75] * curves
    panels = figure.subplots(len(heights), len(shares), squeeze=False, width_ratios=shares, height_ratios=heights)
    for column, (seen, title) in enumerate(zip(explanations, titles, strict=True)):
        for row, ax in zip(rows, panels[:count, column], strict=True):
            row.draw(ax, picture, seen)
            ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
        if curves:
            draw_curves(panels[count, column], seen)
        top = panels[0, column]
        top.set_title(f"{plain(title, 44)}\n{top.get_title(loc='left')}", loc="left", fontsize=9)
    for number, ax in enumerate(panels[:, -1]):
        colour_scale(ax) if number < count and rows[number].is_heat else ax.set_axis_off()
    for row, ax in zip(rows, panels[:count, 0], strict=True):
        ax.set_ylabel(row.name, fontsize=10, fontweight="bold")
    save(figure, path)
