"""AP under resampled images: bootstrap intervals without matching anew.

A bootstrap replicate draws the N images of a split with replacement: image i comes w_i times. Its AP is that of a data
set in which each image lies w_i times, and needs only the match records and the weights.

Steps for a class: 1) sort its detections by score, once 2) only where a detection is right does AP look, so what lies
between two such places is added up in one go, for all replicates at once 3) precision, its envelope, and the number of
COCO's 101 recall levels that each right detection reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from iifdet.evaluation.curves import RECALL
from iifdet.evaluation.engine import Array
from iifdet.evaluation.matching import IOUS, MatchRecords

#: Replicates that are worked on at once.
CHUNK = 128
#: Images with a class below which its figure has no interval, and their mean over classes below which a mean has none.
#: Of n images the bootstrap sees a variance (n - 1)/n times the true one, and none of a single image: below these
#: limits runs of the same quality were told apart in 10 to 50 of 100 splits at a level of 95 %.
CLASS_IMAGES, MEAN_IMAGES = 10, 5


def image_weights(num_images: int, draws: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """How often each image comes in each bootstrap replicate: (<= CHUNK, N) at a time, ``draws`` rows in all.

    The same arguments give the same weights: runs that are compared are drawn together.
    """
    rng = np.random.default_rng(seed)
    even = np.full(num_images, 1 / max(num_images, 1))
    for start in range(0, draws, CHUNK):
        yield rng.multinomial(num_images, even, size=min(CHUNK, draws - start)).astype(np.float32)


def weighted_ap(records: MatchRecords, weights: Array) -> Array:
    """AP of each class at each IoU when image i counts ``weights[b, i]`` times.

    Args:
        records: n detections in N images of C classes.
        weights: (B, N) whole numbers >= 0.

    Returns:
        (B, C, T); NaN where the class has no box left. With ones it is the AP of the unweighted data.
    """
    by_image = torch.from_numpy(np.ascontiguousarray(np.asarray(weights, np.float32).T))  # (N, B)
    weights = np.ascontiguousarray(by_image.numpy().T)
    boxes = _sums(by_image, records.truth_image, records.truth_bounds[:-1])  # (B, C)
    ap = np.full((len(weights), records.num_classes, len(IOUS)), np.nan)
    for c in range(records.num_classes):
        if records.truth_bounds[c] == records.truth_bounds[c + 1]:
            continue
        present = boxes[:, c] > 0
        ap[present, c] = 0.0
        for t, values in _class_ap(records, c, by_image, weights, boxes[:, c]):
            ap[present, c, t] = values[present]
    return ap


def _class_ap(
    records: MatchRecords, c: int, by_image: torch.Tensor, weights: Array, boxes: Array
) -> Iterator[tuple[int, Array]]:
    """For each threshold at which the class has a right detection: (B,) AP."""
    rows = slice(int(records.bounds[c]), int(records.bounds[c + 1]))
    correct, ignored, image = records.correct[:, rows], records.ignored[:, rows], records.image[rows]
    right = np.flatnonzero(correct.any(axis=0))  # (U,) right at some threshold
    if not len(right):
        return
    counted = np.logical_not(ignored.all(axis=0))
    so_far = _running_sums(by_image, image, counted, right)  # (B, U) detections down to each right one
    levels = _levels_reached(boxes)  # (B, boxes + 1)
    start_of_row = np.arange(len(boxes))[:, None] * levels.shape[1]
    for t in range(len(IOUS)):
        places = np.flatnonzero(correct[t, right])
        if not len(places):
            continue
        found = np.cumsum(weights[:, image[right[places]]], axis=1, dtype=np.float64)  # (B, P) true positives
        shown = so_far[:, places]
        unclear = ignored[t] & counted
        if unclear.any():
            shown = shown - _running_sums(by_image, image, unclear, right[places])
        precision = found / (shown + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = levels.ravel()[found.astype(np.int64) + start_of_row]
        new = np.diff(reached, axis=1, prepend=0)
        yield t, np.einsum("bp,bp->b", envelope, new) / len(RECALL)


def _running_sums(by_image: torch.Tensor, image: Array, counted: Array, places: Array) -> Array:
    """(B, P) weight of the counted detections down to and with each of ``places``, which ascend."""
    before = np.concatenate([[0], np.cumsum(counted)])
    inside = image[: places[-1] + 1][counted[: places[-1] + 1]]
    starts = np.concatenate([[0], before[places[:-1] + 1]])
    return np.cumsum(_sums(by_image, inside, starts), axis=1)


def _sums(by_image: torch.Tensor, images: Array, starts: Array) -> Array:
    """(B, S) float64: weights of ``images`` added up from each start to the next."""
    if not len(images):
        return np.zeros((by_image.shape[1], len(starts)))
    rows, offsets = (torch.from_numpy(np.ascontiguousarray(a, np.int64)) for a in (images, starts))
    summed = torch.nn.functional.embedding_bag(rows, by_image, offsets, mode="sum")  # whole numbers: exact
    return np.ascontiguousarray(summed.numpy().T, np.float64)


def _levels_reached(boxes: Array) -> NDArray[np.int64]:
    """(B, max + 1): of the 101 recall levels, how many k found boxes of ``boxes[b]`` reach.

    Compared in floating point as COCO does, which decides where recall meets a level exactly.
    """
    recall = np.arange(int(boxes.max()) + 1) / np.maximum(boxes, 1)[:, None]
    return np.searchsorted(RECALL, recall, side="right")


def enough_images(images: Array) -> bool:
    """Whether resampling tells how much a figure of some classes varies.

    Args:
        images: (K,) images with each of the classes; those without any are no part of the figure.

    A mean weighs its classes alike, so that those with the fewest images vary it most. That is the harmonic mean's way.

    Example:
        >>> enough_images(np.array([9])), enough_images(np.array([5, 5, 0])), enough_images(np.array([1, 50, 50]))
        (False, True, False)
    """
    seen = np.asarray(images, float)
    seen = seen[seen > 0]
    if not len(seen):
        return False
    limit = CLASS_IMAGES if len(seen) == 1 else MEAN_IMAGES
    return bool((1 / seen).mean() <= (1 + 1e-9) / limit)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where it lies in most resampled splits; NaN where that is unknown."""

    value: float
    low: float
    high: float


def interval(
    value: float, draws: Array, level: float = 0.95, bounds: tuple[float, float] = (-1.0, 1.0), enough: bool = True
) -> Interval:
    """Bootstrap interval: percentiles of the draws, moved so that their mean lies on the figure itself.

    Images that come twice make rankings look cleaner: AP is higher in the draws than in the data, by about a point
    where classes have a dozen boxes, and plain percentiles would lie that much too high. Moved back, the interval
    speaks of the AP to expect on splits of this size. AP of small splits is itself higher than that of large ones, by
    more than resampling can tell. In a difference of two runs both effects all but cancel.

    Args:
        value: the figure of the data itself.
        draws: (B,) the figure in each draw; NaN where it is undefined, which is left out.
        level: share of such splits that the interval is to hold.
        bounds: the interval is cut to what the figure can be.
        enough: see :func:`enough_images`; without, the interval is unknown.

    Example:
        >>> interval(0.4, np.linspace(0, 1, 1001), 0.5)
        Interval(value=0.4, low=0.15, high=0.65)
    """
    known = draws[~np.isnan(draws)]
    if not len(known) or np.isnan(value) or not enough:
        return Interval(float(value), float("nan"), float("nan"))
    edges = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) + (value - known.mean())
    low, high = np.clip(edges, *bounds).round(12)
    return Interval(float(value), float(low), float(high))
