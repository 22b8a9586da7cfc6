"""Do two runs differ by more than chance? McNemar's test on the boxes that each of them finds.

A box is found when a detection of its class, at least as sure as a threshold, was matched to it one to one. Boxes that
both runs find, or neither, say nothing about the difference: the test looks at those that exactly one of them finds.

One threshold for all runs would test the scale of their scores: an adjustment that raises every score finds more boxes
above 0.25, with more false alarms. So each run has its own, the lowest with no more false alarms than the first run has
from one score on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iifdet.evaluation.matching import MatchRecords, iou_row

#: Below every score; a box that nothing found has -inf.
LOWEST = float(np.finfo(np.float64).min)
#: Fewer discordant boxes, or images, than this get the exact test.
EXACT_BELOW = 25


@dataclass(frozen=True, slots=True)
class McNemar:
    """Outcome of the test on m boxes.

    Attributes:
        both, first, second, neither: boxes found by both runs, by the first alone, by the second alone, by neither.
        p: two-sided; exact binomial for fewer than EXACT_BELOW discordant boxes, else chi-squared with continuity
            correction. Takes boxes for independent.
        p_clustered: two-sided, with images in place of boxes, because boxes of one image are found together. Under the
            null hypothesis each image's difference dᵢ in boxes found is as likely to be -dᵢ: the share of all 2ⁿ signs
            that give a sum as far from 0, for fewer than EXACT_BELOW images with a difference, else
            z² = (Σ dᵢ)² / Σ dᵢ² and the normal distribution; 1 without any. With one box an image it is ``p``.
        exact: whether ``p`` is exact.
    """

    both: int
    first: int
    second: int
    neither: int
    p: float
    p_clustered: float
    exact: bool


def found_boxes(records: MatchRecords, score: float = 0.25, iou: float = 0.5) -> NDArray[np.bool_]:
    """(m,) whether each box is found by a detection of at least this score and this IoU.

    Boxes of images without detections are there and not found.
    """
    return records.truth_score[iou_row(iou)] >= score


def false_alarms(
    records: MatchRecords, iou: float = 0.5, labels: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Scores of the detections that find no box, best first, without those that a crowd or the protocol excuses.

    Args:
        labels: only detections of these classes.
    """
    t = iou_row(iou)
    wrong = ~records.correct[t] & ~records.ignored[t]
    if labels is not None:
        wrong &= np.isin(records.label, labels)
    return np.sort(records.score[wrong])[::-1]


def score_of_alarms(alarms: NDArray[np.float64], count: int) -> float:
    """The lowest threshold with at most ``count`` of these false alarms (descending scores) at or above it.

    Example:
        >>> alarms = np.array([0.9, 0.5, 0.4, 0.1])
        >>> bool(0.4 < score_of_alarms(alarms, 2) <= 0.5), score_of_alarms(alarms, 4) == LOWEST
        (True, True)
    """
    return LOWEST if count >= len(alarms) else float(np.nextafter(alarms[count], np.inf))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], image: NDArray[np.int64] | None = None) -> McNemar:
    """Compare what two runs found of the same boxes.

    Args:
        first, second: (m,) bool, see :func:`found_boxes`.
        image: (m,) the image of each box, for ``p_clustered``; by default each box is alone.

    Example:
        >>> mcnemar(np.array([True] * 8 + [False] * 3), np.array([False] * 7 + [True] * 4)).p  # 7 against 3
        0.34375
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape:
        raise ValueError(f"mcnemar: expected the same boxes twice, got {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    exact = only_first + only_second < EXACT_BELOW
    return McNemar(
        int((a & b).sum()),
        only_first,
        only_second,
        int((~a & ~b).sum()),
        (_binomial_p if exact else _chi_squared_p)(only_first, only_second),
        _clustered_p(b.astype(int) - a.astype(int), np.arange(len(a)) if image is None else image),
        exact,
    )


def _binomial_p(b: int, c: int) -> float:
    """Twice the smaller tail of Binomial(b + c, 1/2), at most 1."""
    n = b + c
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)


def _chi_squared_p(b: int, c: int) -> float:
    """Upper tail of chi-squared with one degree of freedom at (|b − c| − 1)² / (b + c)."""
    return math.erfc(max(abs(b - c) - 1, 0) / math.sqrt(2 * (b + c)))


def _clustered_p(difference: NDArray[np.int64], image: NDArray[np.int64]) -> float:
    by_image = np.bincount(np.unique(image, return_inverse=True)[1], weights=difference).astype(np.int64)
    changed = by_image[by_image != 0]
    total = abs(int(changed.sum()))
    if not len(changed):
        return 1.0
    if len(changed) < EXACT_BELOW:
        return _sign_p(np.abs(changed), total)
    return math.erfc(total / math.sqrt(2 * float((changed**2).sum())))


def _sign_p(sizes: NDArray[np.int64], total: int) -> float:
    """Share of the 2ⁿ sums ±d₁ ± … ± dₙ that are at least ``total`` from 0."""
    largest = int(sizes.sum())
    ways = np.ones(1)  # of -n…n after n units
    for size in sizes.tolist():
        wider = np.zeros(len(ways) + 2 * size)
        wider[: len(ways)] += ways
        wider[2 * size :] += ways
        ways = wider
    sums = np.abs(np.arange(-largest, largest + 1))
    return float(ways[sums >= total].sum() / ways.sum())
