"""What every reader does with raw boxes: clip them to their image, and say what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.index import Problem

#: Code -> reason. 0 is a sound box; CLIPPED is kept, all others are dropped. Earlier reasons win.
REASONS = (
    "",
    "unknown image id",
    "unknown category id",
    "class out of range",
    "box is not four finite numbers",
    "box without size",
    "box outside the image",
    "duplicate box",
    "box reaches beyond the image, clipped",
)
UNKNOWN_IMAGE, UNKNOWN_CATEGORY, CLASS_RANGE, NOT_FINITE, NO_SIZE, OUTSIDE, DUPLICATE, CLIPPED = range(1, 9)
#: Boxes that reach beyond the image by less than this many pixels are rounding, not a fault.
ROUNDING = 1.0


def check_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Clip boxes to their images and judge them.

    Args:
        boxes: (M, 4) xyxy in pixels, anything goes.
        sizes: (M, 2) height and width of each box's image.

    Returns:
        (M, 4) float32 clipped boxes and (M,) codes into REASONS.

    Example:
        >>> boxes, codes = check_boxes(np.array([[-5.0, 2, 3, 4], [9, 9, 12, 12]]), np.array([[8, 8], [8, 8]]))
        >>> boxes[0].tolist(), [REASONS[c] for c in codes]
        ([0.0, 2.0, 3.0, 4.0], ['box reaches beyond the image, clipped', 'box outside the image'])
    """
    finite = np.asarray(np.isfinite(boxes).all(axis=1), dtype=bool)
    boxes = np.where(finite[:, None], boxes, 0.0)
    limit = sizes[:, [1, 0, 1, 0]].astype(np.float64)
    clipped = np.clip(boxes, 0.0, limit)
    small = clipped.astype(np.float32)
    overhang = np.abs(boxes - clipped).max(axis=1, initial=0.0)
    codes = np.where(overhang >= ROUNDING, CLIPPED, 0)
    codes = np.where((small[:, 2:] <= small[:, :2]).any(axis=1), OUTSIDE, codes)
    # In float32 as well, or a box thinner than its rounding would pass here and have no size later.
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    codes = np.where(flat, NO_SIZE, codes)
    return small, np.where(finite, codes, NOT_FINITE).astype(np.int8)


def find_duplicates(
    box_image: NDArray[np.int64], labels: NDArray[np.int64], boxes: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Mark every repetition of the same (image, label, box); the first of them stays unmarked."""
    if not len(labels):
        return np.zeros(0, dtype=bool)
    rows = np.concatenate([box_image[:, None], labels[:, None], boxes], axis=1)
    _, first = np.unique(rows, axis=0, return_index=True)
    again = np.ones(len(labels), dtype=bool)
    again[first] = False
    return again


def box_problems(codes: NDArray[np.int8], file_of: Callable[[int], str], ids: NDArray[np.int64]) -> list[Problem]:
    """One Problem for each box whose code is not 0."""
    return [
        Problem(file_of(m), "notice" if codes[m] == CLIPPED else "box", REASONS[codes[m]], int(ids[m]))
        for m in np.flatnonzero(codes).tolist()
    ]


def lookup(keys: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each value among distinct ``keys``, -1 where it is none of them.

    Example:
        >>> lookup(np.array([7, 3]), np.array([3, 3, 9, 7])).tolist()
        [1, 1, -1, 0]
    """
    if not len(keys):
        return np.full(len(values), -1, dtype=np.int64)
    order = np.argsort(keys)
    ordered = keys[order]  # once, and not with ``sorter`` at each comparison of each value
    place = np.searchsorted(ordered, values).clip(max=len(keys) - 1)
    found = order[place]
    return np.where(keys[found] == values, found, -1).astype(np.int64)
