"""Mosaic and mixup: several pictures in one (Bochkovskiy et al. 2020, section 3.3; Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.pieces import Piece, clip_boxes, still_count
from iifdet.datasets.resizing import PAD, Boxes, Image, Masks, letterbox_shape, resize_masks, smooth
from iifdet.datasets.transforms import Transformed

#: Both parameters of mixup's beta distribution: shares near one half.
MIXUP_BETA = 32.0


def mosaic(pieces: Sequence[Piece], size: tuple[int, int], rng: np.random.Generator) -> Piece:
    """Four pictures around a common corner on a canvas of twice the tensor's sides.

    Each is brought to the size that it has in a letterbox, and cut where the canvas ends. The corner is drawn from the
    middle half of the canvas. What the middle of the canvas shows is the sample.

    Args:
        pieces: upper left, upper right, lower left, lower right.
        size: (H, W) of the tensor.
        rng: two numbers are drawn from it.

    Returns:
        A piece of (2H, 2W).
    """
    height, width = size
    corner_y, corner_x = int(rng.uniform(0.5, 1.5) * height), int(rng.uniform(0.5, 1.5) * width)
    canvas = np.full((2 * height, 2 * width, 3), PAD, dtype=np.uint8)
    tiles = []
    for place, piece in enumerate(pieces):
        shape = letterbox_shape(piece.image.shape[0], piece.image.shape[1], size)
        top = corner_y - shape[0] if place < 2 else corner_y
        left = corner_x - shape[1] if place % 2 == 0 else corner_x
        tiles.append(_lay(canvas, piece, shape, (top, left)))
    boxes, labels = np.concatenate([t.boxes for t in tiles]), np.concatenate([t.labels for t in tiles])
    masks = [t.masks for t in tiles if t.masks is not None]
    return Piece(canvas, boxes, labels, np.concatenate(masks) if masks else None)


def _lay(canvas: Image, piece: Piece, shape: tuple[int, int], where: tuple[int, int]) -> Piece:
    """Paint a piece, resized to ``shape``, onto the canvas with its corner at (top, left); its objects there."""
    height, width = piece.image.shape[:2]
    image = piece.image
    if shape != (height, width):
        image = np.asarray(cv2.resize(image, shape[::-1], interpolation=smooth(image, *shape)), dtype=np.uint8)
    top, left = max(where[0], 0), max(where[1], 0)
    bottom, right = min(where[0] + shape[0], canvas.shape[0]), min(where[1] + shape[1], canvas.shape[1])
    seen = (slice(top - where[0], bottom - where[0]), slice(left - where[1], right - where[1]))
    canvas[top:bottom, left:right] = image[seen]
    before = piece.boxes * np.array([shape[1] / width, shape[0] / height] * 2, dtype=np.float32)
    before += np.array([where[1], where[0]] * 2, dtype=np.float32)
    # Boxes end where their own picture ends: the next tile hides the rest.
    after = _clip_to(before, (top, left, bottom, right))
    rows = np.flatnonzero(still_count(before, after))
    masks = None
    if piece.masks is not None:
        masks = np.zeros((len(rows), *canvas.shape[:2]), dtype=np.uint8)
        masks[:, top:bottom, left:right] = resize_masks(piece.masks[rows], shape)[:, seen[0], seen[1]]
    return Piece(canvas, after[rows], piece.labels[rows], masks)


def _clip_to(boxes: Boxes, window: tuple[int, int, int, int]) -> Boxes:
    top, left, bottom, right = window
    corner = np.array([left, top, left, top], dtype=np.float32)
    return clip_boxes(boxes - corner, bottom - top, right - left) + corner


def mixup(first: Transformed, second: Transformed, rng: np.random.Generator) -> Transformed:
    """Blend two samples of one size; the objects of both are targets in full."""
    share = float(rng.beta(MIXUP_BETA, MIXUP_BETA))
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0)
    boxes, labels = np.concatenate([first.boxes, second.boxes]), np.concatenate([first.labels, second.labels])
    masks: Masks | None = None
    if first.masks is not None and second.masks is not None:
        masks = np.concatenate([first.masks, second.masks])
    return Transformed(np.asarray(image, np.uint8), boxes, labels, masks, first.scale, first.offset)


def others(rng: np.random.Generator, length: int, row: int, count: int) -> NDArray[np.int64]:
    """``count`` rows drawn evenly from all but this one, repeats allowed; the row itself where there is no other.

    Example:
        >>> set(others(np.random.default_rng(0), 3, 1, 50).tolist())
        {0, 2}
    """
    if length == 1:
        return np.zeros(count, dtype=np.int64)
    drawn = rng.integers(0, length - 1, count)
    return drawn + (drawn >= row)
