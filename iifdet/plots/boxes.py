"""Pictures with boxes, and many pictures in one. OpenCV alone: fast enough for every batch."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from iifdet.plots.figure import COLOURS, as_array, shorten, write_atomically

FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Longest side of a grid of pictures, pixels.
MAX_GRID = 2560
GOLDEN = 0.61803398875
#: Of a mask's filling: masks lie on one another, and the picture is to be seen through three of them.
OPACITY = 0.35

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """RGB of a class: the same in every picture of every run, however many classes there are."""
    if 0 <= label < len(COLOURS) - 2:  # without grey and black, which mean other things
        text = COLOURS[label]
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    hue, value = (label * GOLDEN) % 1, (1.0, 0.8, 0.6)[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: np.ndarray,
    boxes: Any,
    labels: Any,
    names: Sequence[str],
    scores: Any | None = None,
    masks: Any | None = None,
) -> np.ndarray:
    """Draw boxes with class names, and scores and masks where given, on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy pixels; boxes with values that are not finite are left out.
        labels: (N,) classes, 0…C-1.
        names: the C class names.
        scores: (N,); the best score lies on top. Without scores the first box does.
        masks: (N, H, W), drawn where > 0.5: filled, and with an outline.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    boxes, labels = as_array(boxes).reshape(-1, 4), as_array(labels).astype(int).reshape(-1)
    sure = None if scores is None else np.nan_to_num(as_array(scores)).reshape(-1)
    ranks = np.arange(len(boxes), 0, -1) if sure is None else sure
    order = [i for i in np.argsort(ranks, kind="stable") if np.isfinite(boxes[i]).all()]
    if masks is not None:
        shapes = {i: (as_array(masks[i]) > 0.5).astype(np.uint8) for i in order}
        for i in order:
            _blend_mask(canvas, shapes[i], class_colour(labels[i]))
        for i in order:  # after all fillings, which would cover them
            _draw_outline(canvas, shapes[i], class_colour(labels[i]))
    for i in order:
        _draw_frame(canvas, boxes[i], class_colour(labels[i]))
    for i in order:  # after all frames, so that no line runs through a text
        text = names[labels[i]] if 0 <= labels[i] < len(names) else str(labels[i])
        text = shorten(text) if sure is None else f"{shorten(text)} {sure[i]:.2f}"
        _draw_text(canvas, text, boxes[i], class_colour(labels[i]))
    return canvas


def as_picture(image: Tensor) -> np.ndarray:
    """(3, H, W) uint8, or float in [0, 1], on any device -> (H, W, 3) uint8."""
    image = (image.detach() * 255).round().clamp(0, 255).byte() if image.is_floating_point() else image
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def enlarged(picture: np.ndarray, zoom: int) -> np.ndarray:
    """Every pixel ``zoom`` times, to the right and downwards."""
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def write_note(image: np.ndarray, text: str) -> np.ndarray:
    """A line of text in the upper left corner of a copy of an (H, W, 3) uint8 image."""
    canvas = np.ascontiguousarray(image).copy()
    _draw_text(canvas, text, np.array([0.0, 0.0, 0.0, 0.0]), (64, 64, 64))
    return canvas


def mosaic_grid(images: Sequence[np.ndarray], path: str | Path, columns: int = 4) -> None:
    """Write pictures of any sizes as one grid, left to right and top to bottom.

    Args:
        images: each (H, W, 3) uint8 RGB.
        path: the picture; its suffix names the format.
        columns: pictures in a row.
    """
    gap = 4
    if not images:
        blank = np.full((64, 256, 3), 255, np.uint8)
        images = [cv2.putText(blank, "no images", (8, 40), FONT, 0.7, (90, 90, 90), 1, cv2.LINE_AA)]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    shrink = MAX_GRID / max(grid.shape[:2])
    if shrink < 1:
        grid = cv2.resize(grid, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(Path(path).suffix or ".jpg", grid[..., ::-1])
    if not ok:
        raise ValueError(f"{path}: cannot be encoded as a picture")
    write_atomically(path, lambda file: file.write(data.tobytes()))


def _blend_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    inside = mask > 0
    canvas[inside] = ((1 - OPACITY) * canvas[inside] + OPACITY * np.array(colour)).astype(np.uint8)


def _draw_outline(canvas: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)  # holes too
    cv2.drawContours(canvas, contours, -1, (255, 255, 255), 3)
    cv2.drawContours(canvas, contours, -1, colour, 1)


def _corners(canvas: np.ndarray, box: np.ndarray) -> list[int]:
    """Integer corners, clipped to just outside the picture: OpenCV overflows on far larger ones."""
    height, width = canvas.shape[:2]
    return [int(v) for v in np.clip(box.round(), -2, [width + 1, height + 1, width + 1, height + 1])]


def _line_width(canvas: np.ndarray) -> int:
    return max(2, round(min(canvas.shape[:2]) / 250))


def _draw_frame(canvas: np.ndarray, box: np.ndarray, colour: Colour) -> None:
    x1, y1, x2, y2 = _corners(canvas, box)
    width = _line_width(canvas)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), (255, 255, 255), width + 2)  # seen on a background of its own colour too
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width)


def _draw_text(canvas: np.ndarray, text: str, box: np.ndarray, colour: Colour) -> None:
    """Text on a plate of the class's colour, above the box or, at the upper edge, inside it."""
    scale = max(0.36, min(canvas.shape[:2]) / 1100)
    weight = 1 if scale < 0.9 else 2
    (width, height), base = cv2.getTextSize(text, FONT, scale, weight)
    x1, y1, _, _ = _corners(canvas, box)
    left = max(0, min(x1, canvas.shape[1] - width - 4))
    bottom = y1 if y1 - height - base >= 0 else min(y1 + height + base + 2, canvas.shape[0])
    bottom = min(max(bottom, height + base), canvas.shape[0] - 1)
    cv2.rectangle(canvas, (left, bottom - height - base), (left + width + 4, bottom), colour, cv2.FILLED)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(canvas, text, (left + 2, bottom - base + 1), FONT, scale, ink, weight, cv2.LINE_AA)
