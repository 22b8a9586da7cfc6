"""What an evaluation of a classifier found: accuracy by class and by frequency, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iifdet.errors import InputError
from iifdet.evaluation.curves import Reliability, binned
from iifdet.evaluation.tail import align_counts, mean_ap
from iifdet.longtail import ClassCounts

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

#: Frequency groups, most frequent first.
SHOTS = ("many", "medium", "few")
#: Images of a class: fewer than the first are few, more than the second many (Liu et al., CVPR 2019, and since).
SHOT_LIMITS = (20, 100)
BINS = 10
NO_COUNTS = "no training counts: the figures of many, medium and few are null; give data= with a train split"


@dataclass(frozen=True, slots=True, eq=False)
class ClassResult:
    """N images of C classes, and what a classifier said of them.

    Attributes:
        names: the C class names, in label order.
        labels, predicted: (N,) true classes, and those with the highest score; -1 where a score is no number.
        rank: (N,) how many classes stand before the true one; 0 is right.
        confidence: (N,) score of the predicted class in [0, 1].
        nll, brier: (N,) the negative log-likelihood and the Brier score, sum over classes.
        data_digest: what the split's index says, hashed; None for a part of the split.
        notices: what a reader should know before trusting the figures.
    """

    names: list[str]
    labels: Labels
    predicted: Labels
    rank: Labels
    confidence: Array
    nll: Array
    brier: Array
    data_digest: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def gt_images(self) -> Labels:
        """(C,) images of each class in the evaluated split."""
        return np.bincount(self.labels, minlength=len(self.names))

    def top_k(self, k: int) -> float:
        """Share of the images whose class is among the k with the highest scores; NaN without images."""
        return _mean((self.rank < k).astype(float))

    def class_accuracy(self, k: int = 1) -> Array:
        """(C,) top-k accuracy of each class; NaN for one without images."""
        right = np.bincount(self.labels, weights=self.rank < k, minlength=len(self.names))
        with np.errstate(invalid="ignore"):
            return right / self.gt_images

    def mean_class_accuracy(self) -> float:
        """The mean over the classes that have images: every class counts alike."""
        return mean_ap(self.class_accuracy())

    def confusion_matrix(self) -> Labels:
        """(C, C) counts; rows are true classes, columns predicted ones. Images without a prediction are left out."""
        size, known = len(self.names), self.predicted >= 0
        cells = self.labels[known] * size + self.predicted[known]
        return np.bincount(cells, minlength=size * size).reshape(size, size)

    def reliability(self, labels: Sequence[int] | None = None, bins: int = BINS) -> Reliability:
        """Confidence against accuracy in bins ``(a, b]``, confidence 0 in the first.

        Args:
            labels: only images of these classes.
            bins: number of bins between 0 and 1.
        """
        chosen = np.ones(len(self.labels), bool) if labels is None else np.isin(self.labels, labels)
        confidence = self.confidence[chosen]
        row = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)
        return binned(confidence, self.rank[chosen] == 0, row, bins)

    def metrics(
        self, counts: ClassCounts | None = None, groups: Sequence[int] | None = None, weights: Tensor | None = None
    ) -> dict[str, Any]:
        """Everything as plain values for metrics.json; fractions from 0 to 1, None where there is nothing to measure.

        Args:
            counts: class counts of the *training* set; without them the groups are None and ``notices`` says so.
            groups: limits of few and many, see :func:`shots`.
            weights: (C,) the weights that the adjustment gives the classes, for the rows of the classes.
        """
        groups = SHOT_LIMITS if groups is None else groups
        members = None if counts is None else shots(align_counts(counts, self.names), groups)
        accuracy = self.class_accuracy()
        whole = self.reliability()
        by_shot = {name: None if members is None else self.reliability(members[name]) for name in SHOTS}
        return {
            "top1": _none(self.top_k(1)),
            "top5": _none(self.top_k(5)),
            "mean_class": _none(self.mean_class_accuracy()),
            "groups": {name: None if members is None else _none(mean_ap(accuracy[members[name]])) for name in SHOTS},
            "nll": _none(_mean(self.nll)),
            "brier": _none(_mean(self.brier)),
            "ece": _none(whole.ece),
            "mce": _none(whole.mce),
            "group_ece": {name: None if r is None else _none(r.ece) for name, r in by_shot.items()},
            "group_thresholds": list(groups),
            "skipped": [name for name, n in zip(self.names, self.gt_images, strict=True) if n == 0],
            "per_class": self.per_class(counts, weights),
            "images": len(self.labels),
            "data_digest": self.data_digest,
            "notices": [*self.notices, *([] if counts else [NO_COUNTS])],
        }

    def per_class(self, counts: ClassCounts | None = None, weights: Tensor | None = None) -> list[dict[str, Any]]:
        """One row a class, in label order; None where a value is unknown. These are the rows of per_class.csv."""
        blank = [None] * len(self.names)
        predicted = np.bincount(self.predicted[self.predicted >= 0], minlength=len(self.names))
        right = np.bincount(self.labels[self.rank == 0], minlength=len(self.names))
        with np.errstate(invalid="ignore"):
            precision = right / predicted
        columns = {
            "class": range(len(self.names)),
            "name": self.names,
            "train_images": blank if counts is None else align_counts(counts, self.names).images.tolist(),
            "weight": blank if weights is None else [float(w) for w in weights],
            "val_images": self.gt_images.tolist(),
            "accuracy": [_none(v) for v in self.class_accuracy().tolist()],
            "top5": [_none(v) for v in self.class_accuracy(5).tolist()],
            "precision": [_none(v) for v in precision.tolist()],
            "predicted_images": predicted.tolist(),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def shots(counts: ClassCounts, limits: Sequence[int] = SHOT_LIMITS) -> dict[str, list[int]]:
    """Labels by training images: ``many`` (more than the second limit), ``few`` (fewer than the first), ``medium``.

    Raises:
        InputError: the limits are not two ascending numbers.

    Example:
        >>> import torch
        >>> n = torch.tensor([101, 100, 20, 19])
        >>> shots(ClassCounts(list("abcd"), n, n, num_images=240))
        {'many': [0], 'medium': [1, 2], 'few': [3]}
    """
    if len(limits) != 2 or not 0 <= limits[0] <= limits[1]:
        raise InputError(f"groups: expected two ascending limits such as 20, 100, got {list(limits)}")
    n = counts.images.numpy()
    group = np.where(n > limits[1], 0, np.where(n < limits[0], 2, 1))
    return {name: np.flatnonzero(group == i).tolist() for i, name in enumerate(SHOTS)}


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def _none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
