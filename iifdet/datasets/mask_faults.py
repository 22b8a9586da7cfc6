"""Masks that do not fit: their image, their box, or anything at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.checking import ROUNDING
from iifdet.datasets.findings import (
    MASK_BEYOND,
    MASK_EMPTY,
    MASK_MISFIT,
    MASK_MISSING,
    MASK_OUTSIDE,
)
from iifdet.datasets.index import DatasetIndex
from iifdet.datasets.segments import Segments, run_lengths

#: A mask's extent and its box may lie apart by this share of the box's longer side, and at least by MISFIT_PIXELS.
#: Tools round to whole pixels, and polygons are simplified; what is further off is another object or another scale.
MISFIT_SHARE = 0.05
MISFIT_PIXELS = 2.0


class MaskFault(NamedTuple):
    """The row of a box in its index, what is wrong with its mask, and by how much."""

    box: int
    reason: str
    detail: str = ""


def mask_faults(index: DatasetIndex) -> Iterator[MaskFault]:
    """Judge the masks of an index: 1) none 2) run lengths 3) polygons 4) extent against image and box."""
    if index.segments is None:
        return
    segments = index.segments.plain()
    extents = np.full((len(segments), 4), np.nan)
    by_polygon = segments.parts[1:] > segments.parts[:-1]
    missing = ~by_polygon
    missing[list(segments.rles)] = False
    yield from (MaskFault(m, MASK_MISSING) for m in np.flatnonzero(missing).tolist())
    _fill_polygon_extents(segments, by_polygon, extents)
    for m, rle in segments.rles.items():
        reason = _fill_rle_extent(m, rle, extents)
        if reason:
            yield MaskFault(m, reason)
    for m in _thin(segments, by_polygon, extents):
        if _covers_nothing(segments.coco(m), *index.sizes[index.box_image[m]].tolist()):
            extents[m] = np.nan
            yield MaskFault(m, MASK_EMPTY)
    yield from _misplaced(index, extents)


def _fill_polygon_extents(segments: Segments, rows: NDArray[np.bool_], extents: NDArray[np.float64]) -> None:
    """Write xyxy of the polygons' corners into ``extents`` (M, 4)."""
    starts = segments.rings[segments.parts[:-1][rows]]
    if len(starts):
        extents[rows, :2] = np.minimum.reduceat(segments.points, starts)
        extents[rows, 2:] = np.maximum.reduceat(segments.points, starts)


def _fill_rle_extent(row: int, rle: dict[str, Any], extents: NDArray[np.float64]) -> str | None:
    """Write xyxy of a run-length mask into its row, or say what is wrong with it; its runs were checked on reading."""
    from pycocotools import mask as coco_mask

    (height, width), counts = rle["size"], rle["counts"]
    lengths = np.array(counts, np.int64) if isinstance(counts, list) else run_lengths(counts)
    if lengths[1::2].sum() == 0:
        return MASK_EMPTY
    packed = coco_mask.frPyObjects(rle, height, width) if isinstance(counts, list) else rle
    x, y, w, h = coco_mask.toBbox(packed).tolist()
    extents[row] = x, y, x + w, y + h
    return None


def _thin(segments: Segments, rows: NDArray[np.bool_], extents: NDArray[np.float64]) -> list[int]:
    """Boxes whose polygons may cover no pixel: the few that are worth painting to find out.

    The shoelace area alone does not say: a bow tie has none and covers pixels.
    """
    x, y = segments.points.T
    after = np.arange(1, len(x) + 1)
    after[segments.rings[1:] - 1] = segments.rings[:-1]  # a ring's last corner is followed by its first
    starts = segments.rings[segments.parts[:-1][rows]]
    if not len(starts):
        return []
    areas = np.abs(np.add.reduceat(x * y[after] - x[after] * y, starts)) / 2
    sides = extents[rows, 2:] - extents[rows, :2]
    return np.flatnonzero(rows)[(areas < 1) | (sides.min(axis=1) < 1)].tolist()


def _covers_nothing(polygons: Any, height: int, width: int) -> bool:
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))) == 0


def _misplaced(index: DatasetIndex, extents: NDArray[np.float64]) -> Iterator[MaskFault]:
    rows = np.flatnonzero(np.isfinite(extents).all(axis=1))
    found, boxes = extents[rows], index.boxes[rows].astype(np.float64)
    limit = index.sizes[index.box_image[rows]][:, [1, 0, 1, 0]].astype(np.float64)
    inside = np.clip(found, 0, limit)
    beyond = np.abs(found - inside).max(axis=1, initial=0.0)
    outside = np.asarray((inside[:, 2:] <= inside[:, :2]).any(axis=1), dtype=bool)
    apart = np.abs(inside - boxes).max(axis=1, initial=0.0)
    allowed = np.maximum(MISFIT_PIXELS, MISFIT_SHARE * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0))
    for k in np.flatnonzero(outside | (beyond >= ROUNDING) | (apart > allowed)).tolist():
        m = int(rows[k])
        if outside[k]:
            yield MaskFault(m, MASK_OUTSIDE)
            continue
        if beyond[k] >= ROUNDING:
            yield MaskFault(m, MASK_BEYOND, f"by {beyond[k]:.1f} px")
        if apart[k] > allowed[k]:
            yield MaskFault(m, MASK_MISFIT, f"edges {apart[k]:.1f} px apart, {allowed[k]:.1f} allowed")
