"""One picture an image: a column for each model; detections, confidence, classes, and what one score rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.explaining.explanation import Explanation, normalised
from iifdet.explaining.heat import NO_CLASS
from iifdet.plots.boxes import Colour, class_colour
from iifdet.plots.figure import new_figure, save, shorten

#: Inches a panel is wide, or high where the image stands upright; and the longest side of the pixels drawn in it.
PANEL, MAX_SIDE = 4.4, 720
#: Most detections drawn, and most classes named in a class map.
MOST_BOXES, MOST_NAMES = 20, 8
#: Detections that the title lists, and the share of the width below which a box is too narrow for its name.
MOST_LISTED, NARROW = 3, 0.14
COLD, HOT = 0.05, 0.85  # opacity of a heat map where it is lowest and highest
CURVES = 2.4  # inches that the curves take
CAM_COLOURS = "inferno"  # even in brightness, for colour-blind readers and grey printers too

Pixels = NDArray[np.uint8]


def draw_sheet(image: Pixels, explanations: Sequence[Explanation], titles: Sequence[str], path: str | Path) -> None:
    """Write the sheet of one image.

    Args:
        image: (H, W, 3) uint8 RGB, the original.
        explanations: one a model, in the pixels of ``image``.
        titles: one a model.
        path: the picture; its suffix names the format.
    """
    zoom = min(1.0, MAX_SIDE / max(image.shape[:2]))
    picture: Any = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA) if zoom < 1 else image
    height, width = image.shape[:2]
    across, down = PANEL * min(1, width / height), PANEL * min(1, height / width)
    across = max(across, 3.0)
    curves = any(seen.curves is not None for seen in explanations)
    figure = new_figure(len(explanations) * across + 0.8, 4 * (down + 0.4) + 0.55 + curves * CURVES)
    shares = [across] * len(explanations) + [0.12]  # the scale of the heat maps stands in a narrow column of its own
    heights = [down] * 4 + [CURVES * 0.75] * curves
    panels = figure.subplots(len(heights), len(shares), squeeze=False, width_ratios=shares, height_ratios=heights)
    for column, (seen, title) in enumerate(zip(explanations, titles, strict=True)):
        for draw, ax in zip((_detections, _confidence, _classes, _cam), panels[:4, column], strict=True):
            ax.set_xticks([])
            ax.set_yticks([])
            draw(ax, picture, seen)
            ax.set_xlim(0, width)
            ax.set_ylim(height, 0)
        if curves:
            draw_curves(panels[4, column], seen)
        top = panels[0, column]
        top.set_title(f"{_plain(title, 44)}\n{top.get_title(loc='left')}", loc="left", fontsize=9)
    for ax, what in zip(panels[:4, 0], ("detections", "confidence", "best class", "class activation"), strict=True):
        ax.set_ylabel(what, fontsize=10, fontweight="bold")
    for row, ax in enumerate(panels[:, -1]):
        _scale(ax) if row in (1, 3) else ax.set_axis_off()
    save(figure, path)


def _detections(ax: Any, picture: Pixels, seen: Explanation) -> None:
    _show(ax, picture, seen)
    shown = range(min(MOST_BOXES, len(seen.boxes)))
    for i in reversed(shown):  # the surest on top
        box, colour = seen.boxes[i], class_colour(int(seen.labels[i]))
        _frame(ax, box, colour, 1.8)
        _name_box(ax, box, i + 1, seen, colour)
    if seen.chosen is None:
        _say(ax, seen.line)
    of = f", {len(shown)} shown" if len(shown) < len(seen.boxes) else ""
    plural = "" if len(seen.boxes) == 1 else "s"
    first = ", ".join(f"{i + 1} {seen.names[seen.labels[i]]} {seen.scores[i]:.2f}" for i in shown[:MOST_LISTED])
    count = f"{len(seen.boxes)} detection{plural} above {seen.conf:g}{of}"
    ax.set_title(f"{count}\n{_plain(first, 54) or ' '}", loc="left", fontsize=9)


def _name_box(ax: Any, box: Any, number: int, seen: Explanation, colour: Colour) -> None:
    """Number, class and score on a box; on a narrow one the number alone, or neighbours would hide one another."""
    height, width = seen.confidence.shape
    i = number - 1
    narrow = box[2] - box[0] < NARROW * width
    text = f"{number}" if narrow else f"{number} {seen.names[seen.labels[i]]} {seen.scores[i]:.2f}"
    above = box[1] > 0.06 * height  # at the upper edge there is no room above the box
    at_right = box[0] > 0.75 * width and not narrow
    _name(ax, box[2 if at_right else 0], box[1], text, colour, "bottom" if above else "top", at_right)


def _confidence(ax: Any, picture: Pixels, seen: Explanation) -> None:
    _heat(ax, picture, seen, seen.confidence)
    ax.set_title(f"that there is an object; highest {seen.confidence.max():.2f}", loc="left", fontsize=9)


def _classes(ax: Any, picture: Pixels, seen: Explanation) -> None:
    _show(ax, _faded(picture), seen)
    shape = picture.shape[1], picture.shape[0]
    labels = cv2.resize(seen.classes.labels, shape, interpolation=cv2.INTER_NEAREST)
    scores = cv2.resize(seen.classes.scores, shape, interpolation=cv2.INTER_NEAREST)
    paint = np.zeros((*labels.shape, 4), dtype=np.float32)
    present = [int(c) for c in np.unique(labels) if c != NO_CLASS]
    for label in present:
        paint[labels == label, :3] = np.array(class_colour(label)) / 255
    # The surer, the less see-through; even a low score must be seen.
    paint[..., 3] = np.where(labels == NO_CLASS, 0, 0.3 + 0.5 * np.clip(scores, 0, 1))
    _show(ax, paint, seen)
    best = sorted(present, key=lambda c: -float(scores[labels == c].max()))
    for label in reversed(best[:MOST_NAMES]):
        x, y = _middle((labels == label).astype(np.uint8))
        scale = seen.confidence.shape[1] / shape[0]
        _name(ax, x * scale, y * scale, seen.names[label], class_colour(label), "center")
    rest = f", {MOST_NAMES} named" if len(present) > MOST_NAMES else ""
    count = f"{len(present)} class{'' if len(present) == 1 else 'es'} above {seen.classes_above:g}{rest}"
    ax.set_title(f"of each cell: {count}", loc="left", fontsize=9)


def _cam(ax: Any, picture: Pixels, seen: Explanation) -> None:
    if seen.cam is None or seen.chosen is None:
        _show(ax, _faded(picture), seen)
        _say(ax, seen.line)
        ax.set_title("nothing to explain", loc="left", fontsize=9)
        return
    _heat(ax, picture, seen, normalised(seen.cam))
    if seen.truth is not None:
        _frame(ax, seen.truth, (255, 255, 255), 1.2, "--")
    _frame(ax, seen.chosen.box.numpy(), class_colour(seen.chosen.label), 1.8)
    if seen.point is not None:
        ax.plot(*seen.point, marker="+", markersize=12, markeredgewidth=2.4, color="white")
        ax.plot(*seen.point, marker="+", markersize=11, markeredgewidth=1.2, color="black")
    if not seen.cam.any():
        _say(ax, "no place speaks for it: the map is zero")
    name = _plain(seen.names[seen.chosen.label], 20)
    ax.set_title(
        f"{name} {seen.chosen.score:.2f}, {seen.scalar} {seen.value:.2f}, {seen.method} at {shorten(seen.layer, 24)}\n"
        f"{seen.note}",
        loc="left",
        fontsize=9,
    )


def draw_curves(ax: Any, seen: Explanation) -> None:
    """Scores while the pixels of the map go (deletion) or come (insertion), and the same by chance."""
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the pixels")
    ax.tick_params(labelsize=7)
    if seen.curves is None:
        ax.set_title("no curves: nothing to explain", loc="left", fontsize=9)
        return
    for curves, style, where in zip(seen.curves, ("-", ":"), ("by the map", "by chance"), strict=True):
        ax.plot(curves.share, curves.deletion, style, color="#d55e00", label=f"deleted {where}")
        ax.plot(curves.share, curves.insertion, style, color="#0072b2", label=f"inserted {where}")
    ax.set_ylim(0, max(0.05, 1.1 * max(float(v.max()) for c in seen.curves for v in (c.deletion, c.insertion))))
    ax.legend(fontsize=6.5, ncols=2, frameon=False, loc="upper center")
    mine, chance = seen.curves
    ax.set_title(
        f"area by the map (chance): deleted {mine.deletion_area:.2f} ({chance.deletion_area:.2f}),\n"
        f"inserted {mine.insertion_area:.2f} ({chance.insertion_area:.2f})",
        loc="left",
        fontsize=9,
    )


# -- pieces ------------------------------------------------------------------------------------------------------------


def _show(ax: Any, pixels: Any, seen: Explanation, **options: Any) -> Any:
    """Pixels of any size over the whole image, in coordinates of the original."""
    height, width = seen.confidence.shape
    return ax.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", aspect="equal", **options)


def _scale(ax: Any) -> None:
    """The colours of the heat maps from 0 to 1."""
    ax.imshow(np.linspace(1, 0, 256)[:, None], cmap=CAM_COLOURS, aspect="auto", extent=(0, 1, 0, 1), vmin=0, vmax=1)
    ax.set_xticks([])
    ax.yaxis.tick_right()
    ax.set_yticks([0, 0.5, 1])
    ax.tick_params(labelsize=7)


def _heat(ax: Any, picture: Pixels, seen: Explanation, values: NDArray[np.float32]) -> None:
    """A map in [0, 1] over the grey picture."""
    _show(ax, _faded(picture), seen)
    small = cv2.resize(values, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_AREA)
    opacity = COLD + (HOT - COLD) * np.sqrt(np.clip(small, 0, 1))
    _show(ax, small, seen, cmap=CAM_COLOURS, vmin=0, vmax=1, alpha=opacity)


def _faded(picture: Pixels) -> Pixels:
    """Grey and a little paler, so that colours on top mean one thing only."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    pale = (grey * 0.8 + 40).clip(0, 255).astype(np.uint8)
    return np.repeat(pale[..., None], 3, axis=2)


def _frame(ax: Any, box: Any, colour: Colour, width: float, style: str = "-") -> None:
    x1, y1, x2, y2 = (float(v) for v in box)
    x, y = (x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1)
    ax.plot(x, y, color="white" if sum(colour) < 700 else "black", linewidth=width + 1.6, solid_joinstyle="miter")
    ax.plot(x, y, color=_share(colour), linewidth=width, linestyle=style, solid_joinstyle="miter")


def _name(ax: Any, x: float, y: float, text: str, colour: Colour, side: str, at_right: bool = False) -> None:
    """Text on a plate of the class's colour: its lower or upper left corner (``bottom``, ``top``; right, ``at_right``),
    or its middle (``center``), is at a point.
    """
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ax.text(
        x,
        y,
        _plain(text, 30),
        fontsize=7.5,
        color="black" if bright else "white",
        ha="center" if side == "center" else "right" if at_right else "left",
        va=side,
        bbox={"facecolor": _share(colour), "edgecolor": "white", "linewidth": 0.6, "pad": 1.2},
        clip_on=True,
    )


def _say(ax: Any, text: str) -> None:
    ax.text(
        0.5,
        0.5,
        text.replace(": ", ":\n", 1),
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "#666666", "pad": 5},
    )


def _middle(mask: NDArray[np.uint8]) -> tuple[float, float]:
    """(x, y) of a pixel well inside the largest connected part of a mask."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    largest = (parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(largest, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _share(colour: Colour) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def _plain(text: str, length: int) -> str:
    """Shortened, and without the dollar signs that would start a formula."""
    return shorten(text, length).replace("$", r"\$")
