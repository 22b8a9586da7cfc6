"""A picture with what lies on it, and which of it still counts after something was cut off or covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.resizing import Boxes, Image, Masks

#: Boxes of which less than this share is left after a move, a cut or a cover are dropped.
MIN_VISIBLE = 0.1
#: Boxes narrower or lower than this many pixels are dropped from training.
MIN_SIDE = 2.0


@dataclass(slots=True)
class Piece:
    """One picture on its way to a sample: what mosaic, mixup and copy-paste are made of.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        boxes: (n, 4) float32 xyxy in pixels of ``image``.
        labels: (n,) int64.
        masks: (n, h, w) uint8 of 0 and 1, or None.
    """

    image: Image
    boxes: Boxes
    labels: NDArray[np.int64]
    masks: Masks | None = None

    def keep(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Piece:
        """The same picture with only these objects."""
        masks = None if self.masks is None else self.masks[rows]
        return Piece(self.image, self.boxes[rows], self.labels[rows], masks)


def clip_boxes(boxes: Boxes, height: float, width: float) -> Boxes:
    """Clip (n, 4) boxes to a picture."""
    limit = np.array([width, height, width, height], dtype=np.float32)
    return np.clip(boxes, 0, limit).astype(np.float32, copy=False)


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """(n,) areas, 0 for boxes turned inside out."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def short_sides(boxes: Boxes) -> NDArray[np.float32]:
    """(n,) the shorter side of each box."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf), dtype=np.float32)


def still_count(before: Boxes, after: Boxes) -> NDArray[np.bool_]:
    """(n,) whether enough of each box is left.

    Args:
        before: (n, 4) boxes in the scale of ``after``, not clipped.
        after: (n, 4) the part of them that can be seen.

    Example:
        >>> before = np.array([[-9, 0, 1, 10], [-5, 0, 5, 10]], np.float32)
        >>> still_count(before, np.array([[0, 0, 1, 10], [0, 0, 5, 10]], np.float32)).tolist()
        [False, True]
    """
    enough = areas(after) >= MIN_VISIBLE * areas(before)
    return np.asarray(enough & (short_sides(after) >= MIN_SIDE))


def mask_extents(masks: Masks) -> tuple[Boxes, NDArray[np.bool_]]:
    """Smallest boxes around masks.

    Args:
        masks: (n, h, w), 0 or not.

    Returns:
        (n, 4) float32 xyxy, zeros for an empty mask, and (n,) bool, whether there is anything in it.

    Example:
        >>> mask_extents(np.array([[[0, 0, 0], [0, 1, 1]]], np.uint8))[0].tolist()
        [[1.0, 1.0, 3.0, 2.0]]
    """
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    some = np.zeros(len(masks), dtype=bool)
    for k, mask in enumerate(masks):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(columns):
            boxes[k], some[k] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), True
    return boxes, some
