"""Pieces of a sheet: pixels over an image, heat maps, frames, text."""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.explaining.curves import Curves
from iifdet.plots.boxes import Colour
from iifdet.plots.figure import shorten

#: Inches a panel is wide, or high where the image stands upright; and the longest side of the pixels drawn in it.
PANEL, MAX_SIDE = 4.4, 720
CURVES = 2.4  # inches that the curves take
COLD, HOT = 0.05, 0.85  # opacity of a heat map where it is lowest and highest
CAM_COLOURS = "inferno"  # even in brightness, for colour-blind readers and grey printers too

Pixels = NDArray[np.uint8]


class Sized(Protocol):
    """An explanation, as far as its panels go: the (H, W) of the original image."""

    @property
    def size(self) -> tuple[int, int]: ...


class Curved(Protocol):
    """An explanation, as far as its curves go: by the map, and by chance."""

    @property
    def curves(self) -> tuple[Curves, Curves] | None: ...


def panel_size(height: int, width: int) -> tuple[float, float]:
    """Inches (across, down) of a panel for an image of this shape."""
    return max(PANEL * min(1, width / height), 3.0), PANEL * min(1, height / width)


def reduced(image: Pixels) -> Pixels:
    """No larger than it is drawn."""
    zoom = MAX_SIDE / max(image.shape[:2])
    if zoom >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def show(ax: Any, pixels: Any, seen: Sized, **options: Any) -> Any:
    """Pixels of any size over the whole image, in coordinates of the original."""
    height, width = seen.size
    return ax.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", aspect="equal", **options)


def colour_scale(ax: Any) -> None:
    """The colours of the heat maps from 0 to 1."""
    ax.imshow(np.linspace(1, 0, 256)[:, None], cmap=CAM_COLOURS, aspect="auto", extent=(0, 1, 0, 1), vmin=0, vmax=1)
    ax.set_xticks([])
    ax.yaxis.tick_right()
    ax.set_yticks([0, 0.5, 1])
    ax.tick_params(labelsize=7)


def heat(ax: Any, picture: Pixels, seen: Sized, values: NDArray[np.float32]) -> None:
    """A map in [0, 1] over the grey picture."""
    show(ax, faded(picture), seen)
    small = cv2.resize(values, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_AREA)
    opacity = COLD + (HOT - COLD) * np.sqrt(np.clip(small, 0, 1))
    show(ax, small, seen, cmap=CAM_COLOURS, vmin=0, vmax=1, alpha=opacity)


def faded(picture: Pixels) -> Pixels:
    """Grey and a little paler, so that colours on top mean one thing only."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    pale = (grey * 0.8 + 40).clip(0, 255).astype(np.uint8)
    return np.repeat(pale[..., None], 3, axis=2)


def frame(ax: Any, box: Any, colour: Colour, width: float, style: str = "-") -> None:
    x1, y1, x2, y2 = (float(v) for v in box)
    x, y = (x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1)
    ax.plot(x, y, color="white" if sum(colour) < 700 else "black", linewidth=width + 1.6, solid_joinstyle="miter")
    ax.plot(x, y, color=share_of(colour), linewidth=width, linestyle=style, solid_joinstyle="miter")


def name_plate(ax: Any, x: float, y: float, text: str, colour: Colour, side: str, at_right: bool = False) -> None:
    """Text on a plate of the class's colour: its lower or upper left corner (``bottom``, ``top``; right, ``at_right``),
    or its middle (``center``), is at a point.
    """
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ax.text(
        x,
        y,
        plain(text, 30),
        fontsize=7.5,
        color="black" if bright else "white",
        ha="center" if side == "center" else "right" if at_right else "left",
        va=side,
        bbox={"facecolor": share_of(colour), "edgecolor": "white", "linewidth": 0.6, "pad": 1.2},
        clip_on=True,
    )


def say(ax: Any, text: str) -> None:
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


def middle(mask: NDArray[np.uint8]) -> tuple[float, float]:
    """(x, y) of a pixel well inside the largest connected part of a mask."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    largest = (parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(largest, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def share_of(colour: Colour) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def plain(text: str, length: int) -> str:
    """Shortened, and without the dollar signs that would start a formula."""
    return shorten(text, length).replace("$", r"\$")


def draw_curves(ax: Any, seen: Curved) -> None:
    """Scores while the pixels of the map go (deletion) or come (insertion), and the same by chance."""
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the pixels", ylabel="score")
    ax.tick_params(labelsize=7)
    if seen.curves is None:
        ax.set_title("no curves: nothing to explain", loc="left", fontsize=9)
        return
    for curves, style, where in zip(seen.curves, ("-", ":"), ("by the map", "by chance"), strict=True):
        ax.plot(curves.share, curves.deletion, style, color="#d55e00", label=f"deleted {where}")
        ax.plot(curves.share, curves.insertion, style, color="#0072b2", label=f"inserted {where}")
    ax.set_ylim(0, max(0.05, 1.45 * max(float(v.max()) for c in seen.curves for v in (c.deletion, c.insertion))))
    ax.legend(fontsize=6.5, ncols=2, frameon=False, loc="upper center")
    mine, chance = seen.curves
    ax.set_title(
        f"area by the map (chance): deleted {mine.deletion_area:.2f} ({chance.deletion_area:.2f}),\n"
        f"inserted {mine.insertion_area:.2f} ({chance.insertion_area:.2f})",
        loc="left",
        fontsize=9,
    )
