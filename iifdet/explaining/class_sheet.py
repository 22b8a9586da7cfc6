"""One picture an image: a column for each classifier; the likeliest classes, and what one of them rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iifdet.explaining.classes import ClassExplanation
from iifdet.explaining.explanation import normalised
from iifdet.explaining.panels import (
    CURVES,
    Pixels,
    colour_scale,
    draw_curves,
    heat,
    panel_size,
    plain,
    reduced,
    say,
    show,
)
from iifdet.plots.figure import new_figure, save, shorten


def draw_class_sheet(
    image: Pixels, explanations: Sequence[ClassExplanation], titles: Sequence[str], path: str | Path
) -> None:
    """Write the sheet of one image.

    Args:
        image: (H, W, 3) uint8 RGB, the original.
        explanations: one a model, in the pixels of ``image``.
        titles: one a model.
        path: the picture; its suffix names the format.
    """
    picture = reduced(image)
    height, width = image.shape[:2]
    across, down = panel_size(height, width)
    curves = any(seen.curves is not None for seen in explanations)
    figure = new_figure(len(explanations) * across + 0.8, 2 * (down + 0.6) + 0.3 + curves * CURVES)
    shares = [across] * len(explanations) + [0.12]  # the scale of the heat maps stands in a narrow column of its own
    heights = [down, down] + [CURVES * 0.75] * curves
    panels = figure.subplots(len(heights), len(shares), squeeze=False, width_ratios=shares, height_ratios=heights)
    for column, (seen, title) in enumerate(zip(explanations, titles, strict=True)):
        upper, lower = panels[:2, column]
        show(upper, picture, seen)
        heat(lower, picture, seen, normalised(seen.cam))
        if not seen.cam.any():
            say(lower, "no place speaks for it: the map is zero")
        upper.set_title(f"{plain(title, 44)}\n{_classes(seen)}", loc="left", fontsize=9)
        lower.set_title(
            f"{plain(seen.names[seen.chosen], 24)} {seen.score:.2f}, {seen.scalar} {seen.value:.2f}\n"
            f"{seen.method} at {shorten(seen.layer, 28)}",
            loc="left",
            fontsize=9,
        )
        for ax in (upper, lower):
            ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
        if curves:
            draw_curves(panels[2, column], seen)
    for ax, what in zip(panels[:2, 0], ("image", "class activation"), strict=True):
        ax.set_ylabel(what, fontsize=10, fontweight="bold")
    for row, ax in enumerate(panels[:, -1]):
        colour_scale(ax) if row == 1 else ax.set_axis_off()
    save(figure, path)


def _classes(seen: ClassExplanation) -> str:
    """The likeliest classes on two lines."""
    said = [
        f"{plain(seen.names[c], 16)} {p:.2f}" for c, p in zip(seen.labels.tolist(), seen.scores.tolist(), strict=True)
    ]
    return f"{', '.join(said[:2])}\n{', '.join(said[2:])}"
