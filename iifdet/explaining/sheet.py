"""One picture an image: a column for each model; detections, confidence, classes, and what one score rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iifdet.errors import counted
from iifdet.explaining.explanation import Explanation, normalised
from iifdet.explaining.grid import Row, draw_grid
from iifdet.explaining.heat import NO_CLASS
from iifdet.explaining.panels import Pixels, faded, frame, heat, middle, name_plate, plain, say, show
from iifdet.plots.boxes import Colour, class_colour
from iifdet.plots.figure import shorten

#: Most detections drawn, and most classes named in a class map.
MOST_BOXES, MOST_NAMES = 20, 8
#: Detections that the title lists, and the share of the width below which a box is too narrow for its name.
MOST_LISTED, NARROW = 3, 0.14


def draw_sheet(image: Pixels, explanations: Sequence[Explanation], titles: Sequence[str], path: str | Path) -> None:
    """Write the sheet of one image.

    Args:
        image: (H, W, 3) uint8 RGB, the original.
        explanations: one a model, in the pixels of ``image``.
        titles: one a model.
        path: the picture; its suffix names the format.
    """
    rows = (
        Row("detections", _detections, False),
        Row("confidence", _confidence, True),
        Row("best class", _classes, False),
        Row("class activation", _cam, True),
    )
    draw_grid(rows, image, explanations, titles, path, gap=0.4, margin=0.55)


def _detections(ax: Any, picture: Pixels, seen: Explanation) -> None:
    show(ax, picture, seen)
    shown = range(min(MOST_BOXES, len(seen.boxes)))
    for i in reversed(shown):  # the surest on top
        box, colour = seen.boxes[i], class_colour(int(seen.labels[i]))
        frame(ax, box, colour, 1.8)
        _name_box(ax, box, i + 1, seen, colour)
    if seen.chosen is None:
        say(ax, seen.line)
    of = f", {len(shown)} shown" if len(shown) < len(seen.boxes) else ""
    first = ", ".join(f"{i + 1} {seen.names[seen.labels[i]]} {seen.scores[i]:.2f}" for i in shown[:MOST_LISTED])
    count = f"{counted(len(seen.boxes), 'detection')} above {seen.conf:g}{of}"
    ax.set_title(f"{count}\n{plain(first, 54) or ' '}", loc="left", fontsize=9)


def _name_box(ax: Any, box: Any, number: int, seen: Explanation, colour: Colour) -> None:
    """Number, class and score on a box; on a narrow one the number alone, or neighbours would hide one another."""
    height, width = seen.confidence.shape
    i = number - 1
    narrow = box[2] - box[0] < NARROW * width
    text = f"{number}" if narrow else f"{number} {seen.names[seen.labels[i]]} {seen.scores[i]:.2f}"
    above = box[1] > 0.06 * height  # at the upper edge there is no room above the box
    at_right = box[0] > 0.75 * width and not narrow
    name_plate(ax, box[2 if at_right else 0], box[1], text, colour, "bottom" if above else "top", at_right)


def _confidence(ax: Any, picture: Pixels, seen: Explanation) -> None:
    heat(ax, picture, seen, seen.confidence)
    ax.set_title(f"that there is an object; highest {seen.confidence.max():.2f}", loc="left", fontsize=9)


def _classes(ax: Any, picture: Pixels, seen: Explanation) -> None:
    show(ax, faded(picture), seen)
    shape = picture.shape[1], picture.shape[0]
    labels = cv2.resize(seen.classes.labels, shape, interpolation=cv2.INTER_NEAREST)
    scores = cv2.resize(seen.classes.scores, shape, interpolation=cv2.INTER_NEAREST)
    paint = np.zeros((*labels.shape, 4), dtype=np.float32)
    present = [int(c) for c in np.unique(labels) if c != NO_CLASS]
    for label in present:
        paint[labels == label, :3] = np.array(class_colour(label)) / 255
    # The surer, the less see-through; even a low score must be seen.
    paint[..., 3] = np.where(labels == NO_CLASS, 0, 0.3 + 0.5 * np.clip(scores, 0, 1))
    show(ax, paint, seen)
    best = sorted(present, key=lambda c: -float(scores[labels == c].max()))
    for label in reversed(best[:MOST_NAMES]):
        x, y = middle((labels == label).astype(np.uint8))
        scale = seen.confidence.shape[1] / shape[0]
        name_plate(ax, x * scale, y * scale, seen.names[label], class_colour(label), "center")
    rest = f", {MOST_NAMES} named" if len(present) > MOST_NAMES else ""
    count = f"{counted(len(present), 'class', 'classes')} above {seen.classes_above:g}{rest}"
    ax.set_title(f"of each cell: {count}", loc="left", fontsize=9)


def _cam(ax: Any, picture: Pixels, seen: Explanation) -> None:
    if seen.cam is None or seen.chosen is None:
        show(ax, faded(picture), seen)
        say(ax, seen.line)
        ax.set_title("nothing to explain", loc="left", fontsize=9)
        return
    heat(ax, picture, seen, normalised(seen.cam))
    if seen.truth is not None:
        frame(ax, seen.truth, (255, 255, 255), 1.2, "--")
    frame(ax, seen.chosen.box.numpy(), class_colour(seen.chosen.label), 1.8)
    if seen.point is not None:
        ax.plot(*seen.point, marker="+", markersize=12, markeredgewidth=2.4, color="white")
        ax.plot(*seen.point, marker="+", markersize=11, markeredgewidth=1.2, color="black")
    if not seen.cam.any():
        say(ax, "no place speaks for it: the map is zero")
    name = plain(seen.names[seen.chosen.label], 20)
    ax.set_title(
        f"{name} {seen.chosen.score:.2f}, {seen.scalar} {seen.value:.2f}, {seen.method} at {shorten(seen.layer, 24)}\n"
        f"{seen.note}",
        loc="left",
        fontsize=9,
    )
