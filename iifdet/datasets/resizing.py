"""Bring an image and its boxes to the network's size: letterbox (keeps the aspect) or the paper's square (does not)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Masks = NDArray[np.uint8]
Size = int | tuple[int, int]

#: Grey of the padding, the one that YOLO models are used to.
PAD = 128


class Resized(NamedTuple):
    """What a resize gives; ``x_new = x_old * scale + offset`` as in ImageInfo.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: (n, 4) float32 xyxy in pixels of ``image``.
        masks: (n, H, W) uint8 or None.
        scale: (sx, sy).
        offset: (dx, dy).
    """

    image: Image
    boxes: Boxes
    masks: Masks | None
    scale: tuple[float, float]
    offset: tuple[float, float]


def letterbox(image: Image, boxes: Boxes, size: Size, pad: int = PAD, masks: Masks | None = None) -> Resized:
    """Scale to fit into ``size`` and pad the rest evenly. Never distorts by more than the rounding to whole pixels.

    Args:
        image: (h, w, 3) uint8.
        boxes: (n, 4) xyxy.
        size: side of the square, or (H, W).
        pad: grey value of the padding.
        masks: (n, h, w) of 0 and 1.

    Example:
        >>> out = letterbox(np.zeros((50, 100, 3), np.uint8), np.array([[0, 0, 100, 50]], np.float32), 200)
        >>> out.boxes.tolist(), out.scale, out.offset
        ([[0.0, 50.0, 200.0, 150.0]], (2.0, 2.0), (0.0, 50.0))
    """
    height, width = pair(size)
    new_height, new_width = letterbox_shape(image.shape[0], image.shape[1], (height, width))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    inner = _stretch(image, boxes, (new_height, new_width), masks, smooth(image, new_height, new_width))
    if (new_height, new_width) == (height, width):
        return inner
    canvas = np.full((height, width, 3), pad, dtype=np.uint8)
    canvas[top : top + new_height, left : left + new_width] = inner.image
    if inner.masks is not None:
        space = ((0, 0), (top, height - new_height - top), (left, width - new_width - left))
        inner = inner._replace(masks=np.pad(inner.masks, space))
    moved = inner.boxes + np.array([left, top, left, top], dtype=np.float32)
    return inner._replace(image=canvas, boxes=moved, offset=(float(left), float(top)))


def squash(image: Image, boxes: Boxes, size: Size, masks: Masks | None = None) -> Resized:
    """Stretch to ``size`` whatever the aspect, by cubic interpolation: the paper's square resize."""
    return _stretch(image, boxes, pair(size), masks, cv2.INTER_CUBIC)


def letterbox_shape(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width of an image's content after :func:`letterbox`."""
    target_height, target_width = pair(size)
    scale = min(target_height / height, target_width / width)
    # Rounding 0.5 up, and never past the target: the longer side lands on it exactly.
    new = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    return min(new[0], target_height), min(new[1], target_width)


def squash_shape(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width of an image's content after :func:`squash`."""
    return pair(size)


#: name -> (resize, shape of the content it gives). ``resize(image, boxes, size, masks=…)``.
RESIZES: dict[str, tuple[Callable[..., Resized], Callable[[int, int, Size], tuple[int, int]]]] = {
    "letterbox": (letterbox, letterbox_shape),
    "square": (squash, squash_shape),
}


def content(image: Image, shape: tuple[int, int], resize: str) -> Image:
    """The pixels that a resize of RESIZES gives an image before it pads, of the shape that it is known to have then."""
    return resized(image, shape, cv2.INTER_CUBIC if resize == "square" else None)


def pair(size: Size) -> tuple[int, int]:
    """(H, W) of a size."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def smooth(image: Image, height: int, width: int) -> int:
    """Averaging when the image shrinks, or thin objects fall between the samples."""
    shrinks = height < image.shape[0] or width < image.shape[1]
    return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR


def resized(image: Image, shape: tuple[int, int], interpolation: int | None = None) -> Image:
    """An image at (h, w), itself where it has that already; by :func:`smooth` unless told otherwise."""
    if image.shape[:2] == shape:
        return image
    how = smooth(image, *shape) if interpolation is None else interpolation
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=how), dtype=np.uint8)


def _stretch(image: Image, boxes: Boxes, shape: tuple[int, int], masks: Masks | None, interpolation: int) -> Resized:
    height, width = shape
    sx, sy = width / image.shape[1], height / image.shape[0]
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4) * np.array([sx, sy, sx, sy], dtype=np.float32)
    masks = None if masks is None else resize_masks(masks, shape)
    return Resized(resized(image, shape, interpolation), boxes, masks, (sx, sy), (0.0, 0.0))


def resize_masks(masks: Masks, shape: tuple[int, int]) -> Masks:
    """Resize (n, h, w) masks of 0 and 1 to (n, *shape)."""
    height, width = shape
    if masks.shape[1:] == shape:
        return masks
    # Linear and rounded rather than nearest: cv2's nearest samples pixel corners and moves a mask by half a pixel.
    soft = [cv2.resize(m * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR) > 127 for m in masks]
    return np.array(soft, dtype=np.uint8).reshape(-1, height, width)
