"""One picture an image: a column for each classifier; the likeliest classes, and what one of them rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iifdet.explaining.classes import ClassExplanation
from iifdet.explaining.explanation import normalised
from iifdet.explaining.grid import Row, draw_grid
from iifdet.explaining.panels import Pixels, heat, plain, say, show
from iifdet.plots.figure import shorten


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
    rows = Row("image", _image, False), Row("class activation", _cam, True)
    draw_grid(rows, image, explanations, titles, path, gap=0.6, margin=0.3)


def _image(ax: Any, picture: Pixels, seen: ClassExplanation) -> None:
    """The picture under its likeliest classes, which take two lines."""
    show(ax, picture, seen)
    said = [
        f"{plain(seen.names[c], 16)} {p:.2f}" for c, p in zip(seen.labels.tolist(), seen.scores.tolist(), strict=True)
    ]
    ax.set_title(f"{', '.join(said[:2])}\n{', '.join(said[2:])}", loc="left", fontsize=9)


def _cam(ax: Any, picture: Pixels, seen: ClassExplanation) -> None:
    heat(ax, picture, seen, normalised(seen.cam))
    if not seen.cam.any():
        say(ax, "no place speaks for it: the map is zero")
    ax.set_title(
        f"{plain(seen.names[seen.chosen], 24)} {seen.score:.2f}, {seen.scalar} {seen.value:.2f}\n"
        f"{seen.method} at {shorten(seen.layer, 28)}",
        loc="left",
        fontsize=9,
    )
