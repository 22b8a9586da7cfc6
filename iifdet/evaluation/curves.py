"""Precision-recall curves, confusion matrix and reliability: pure functions of arrays.

Boxes come as the rows that :func:`iifdet.evaluation.engine.evaluate` takes: ground truth as (m, 7)
``[image_id, x, y, w, h, crowd, category_id]`` (see :func:`truth_rows`), detections as (n, 7)
``[image_id, x, y, w, h, score, category_id]``. ``category_ids`` (C,) gives the category of each label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iifdet.evaluation.engine import Array, box_iou, to_labels

#: Detections less sure than this have no part in calibration. There are as many of them as ``conf`` lets through, all
#: of them right to be unsure: with them, the expected error would say how many there are.
UNSURE = 0.05
#: Where COCO samples precision.
RECALL = np.linspace(0.0, 1.0, 101)
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True, slots=True)
class Curves:
    """Precision over recall of each class.

    Attributes:
        recall: (101,).
        precision: (C, 101), NaN for classes without ground truth.
        best_f1: (C,) the largest harmonic mean of both on these levels, which lies up to .01 below that over all
            thresholds; NaN for classes without ground truth.
        best_score: (C,) the score threshold that gives it; NaN where nothing was found.
    """

    recall: Array
    precision: Array
    best_f1: Array
    best_score: Array


@dataclass(frozen=True, slots=True)
class Matches:
    """The fate of each detection under COCO's rules at one IoU; those that fell into a crowd are left out.

    Attributes:
        scores: (n,) float64.
        labels: (n,) int64.
        correct: (n,) bool, matched to a box of its class that no better-scored detection took.
    """

    scores: Array
    labels: Array
    correct: Array


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against precision, in bins [a, b) of equal width; classifiers' are (a, b], as in the literature.

    Attributes:
        edges: (B + 1,).
        confidence, precision: (B,) means of each bin, NaN where it is empty.
        count: (B,) detections.
        ece: mean |confidence - precision| over detections (expected calibration error); NaN without detections.
        mce: the largest gap of any bin.
    """

    edges: Array
    confidence: Array
    precision: Array
    count: Array
    ece: float
    mce: float


def precision_recall(precision: Array, scores: Array) -> Curves:
    """Curves from (101, C) precision and the (101, C) scores at which it is reached; -1 means no ground truth."""
    pr = np.where(precision > -1, precision, np.nan).T  # (C, R)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(np.isnan(pr), np.nan, np.nan_to_num(2 * pr * RECALL / (pr + RECALL)))
    best = np.nan_to_num(f1, nan=-1.0).argmax(axis=1)
    rows = np.arange(len(pr))
    best_f1 = f1[rows, best]
    best_score = np.where(best_f1 > 0, scores.T[rows, best], np.nan)
    return Curves(RECALL, pr, best_f1, best_score)


def truth_rows(gt: dict[str, Any]) -> Array:
    """Return a COCO ground truth as (m, 7) rows ``[image_id, x, y, w, h, crowd, category_id]``."""
    rows = [(a["image_id"], *a["bbox"], a.get("iscrowd", 0), a["category_id"]) for a in gt["annotations"]]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def greedy_match(iou: Array, taken: Array, threshold: float, prefer: Array | None = None) -> Array:
    """Give each detection, best first, the free box it overlaps most: one to one.

    Args:
        iou: (D, G), rows by descending score.
        taken: (G,) boxes that may not be given out (crowds).
        threshold: smallest IoU of a match.
        prefer: (D, G) pairs that go before all others, however much those overlap.

    Returns:
        (D,) the box each detection got, -1 for none.

    Example:
        >>> greedy_match(np.array([[.6, .9], [.7, .8]]), np.array([False, False]), 0.5).tolist()
        [1, 0]
    """
    free = ~taken
    matched = np.full(len(iou), -1)
    for row in np.flatnonzero((iou >= threshold).any(axis=1)):
        candidates = free & (iou[row] >= threshold)
        if prefer is not None and (candidates & prefer[row]).any():
            candidates &= prefer[row]
        if candidates.any():
            # The last of equals, as COCO's reference does.
            best = len(free) - 1 - np.where(candidates, iou[row], -1.0)[::-1].argmax()
            matched[row], free[best] = best, False
    return matched


def confusion_matrix(
    truth: Array,
    detections: Array,
    category_ids: Array,
    score: float = 0.25,
    iou: float = 0.5,
    excused: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return (C+1, C+1) counts at one operating point: rows are ground truth, columns predictions, last is background.

    Detections with at least ``score`` are matched one to one, best score first. A detection prefers a box of its own
    class, so that the diagonal agrees with AP where boxes of several classes overlap; failing that it takes the box
    that it overlaps most. Unmatched boxes count in the last column (missed), unmatched detections in the last row
    (false alarms), unless they lie in a crowd of their class, or are ``excused`` (n,).
    """
    background = len(category_ids)
    order = np.argsort(-detections[:, 5], kind="stable")
    order = order[detections[order, 5] >= score]
    found = detections[order]
    labels, classes = to_labels(found[:, 6], category_ids), to_labels(truth[:, 6], category_ids)
    actual, in_crowd = np.full(len(found), background), np.zeros(len(found), bool)
    forgiven = np.zeros(len(found), bool) if excused is None else excused[order]
    missed = truth[:, 5] == 0
    for rows, cols in _shared_groups(*_image_rows(found, truth)):
        crowd = truth[cols, 5] > 0
        overlap = box_iou(found[rows, 1:5], truth[cols, 1:5], crowd)
        same = labels[rows, None] == classes[cols]  # (D, G)
        matched = greedy_match(overlap, crowd, iou, prefer=same)
        hit = matched >= 0
        boxes = cols[matched[hit]]
        actual[rows[hit]], missed[boxes] = classes[boxes], False
        in_crowd[rows] = ~hit & (same & crowd & (overlap >= iou)).any(axis=1)
    counts = (actual < background) | ~(in_crowd | forgiven)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(matrix, (actual[counts], labels[counts]), 1)
    np.add.at(matrix, (classes[missed], background), 1)
    return matrix


def reliability(
    matches: Matches, bins: int = 10, labels: list[int] | None = None, least: float = UNSURE
) -> Reliability:
    """How far confidence can be believed: precision of the detections in each confidence bin.

    Args:
        matches: see :meth:`iifdet.evaluation.matching.MatchRecords.matches`.
        bins: number of bins between 0 and 1.
        labels: only these classes (a frequency group, say).
        least: detections with a lower score are left out.

    Example:
        >>> half = Matches(np.full(4, 0.9), np.zeros(4, int), np.array([True, True, False, False]))
        >>> round(reliability(half).ece, 3)
        0.4
    """
    chosen = matches.scores >= least
    if labels is not None:
        chosen &= np.isin(matches.labels, labels)
    scores, correct = matches.scores[chosen], matches.correct[chosen]
    return binned(scores, correct, np.clip((scores * bins).astype(np.int64), 0, bins - 1), bins)


def binned(scores: Array, correct: NDArray[np.bool_], row: NDArray[np.int64], bins: int) -> Reliability:
    """Confidence against precision, (n,) scores with the bin 0…``bins``-1 of each given."""
    count = np.bincount(row, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(row, weights=scores, minlength=bins) / count
        precision = np.bincount(row, weights=correct.astype(float), minlength=bins) / count
    gap = np.nan_to_num(np.abs(confidence - precision))
    ece = float((gap * count).sum() / count.sum()) if count.sum() else float("nan")
    return Reliability(np.linspace(0, 1, bins + 1), confidence, precision, count, ece, float(gap.max()))


def _image_rows(left: Array, right: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the images of both tables alike, from 0."""
    _, row = np.unique(np.concatenate([left[:, 0], right[:, 0]]), return_inverse=True)
    return row[: len(left)], row[len(left) :]


def _shared_groups(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each key that occurs in ``right``: its places in ``left`` and in ``right``, in their given order."""
    lefts, rights = np.argsort(left, kind="stable"), np.argsort(right, kind="stable")
    keys = np.unique(right)
    bounds = [np.searchsorted(a[order], keys, side) for a, order in ((left, lefts), (right, rights)) for side in SIDES]
    for l0, l1, r0, r1 in zip(*bounds, strict=True):
        yield lefts[l0:l1], rights[r0:r1]
