"""AP where the training data is thin: the k rarest classes, and groups by training frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from iifdet.errors import InputError
from iifdet.longtail import ClassCounts

#: Training images up to which a class is rare, and up to which it is common (LVIS).
GROUP_LIMITS = (10, 100)


class Scored(Protocol):
    """What these functions need of a result: names (C), AP (C,) and ground-truth boxes (C,) of the evaluated split."""

    @property
    def names(self) -> list[str]: ...
    @property
    def ap(self) -> NDArray[np.float64]: ...
    @property
    def gt_instances(self) -> NDArray[np.int64]: ...


def tail_classes(result: Scored, counts: ClassCounts, k: int, by: str = "image") -> tuple[list[int], list[int]]:
    """The k classes with the fewest training images (or instances) among those that can be measured.

    Classes are ranked by training count, ascending, ties by class order. Those without ground truth in the evaluated
    split have no AP; they are passed over and named instead of counting as zero.

    Args:
        result: C classes evaluated on some split.
        counts: class counts of the *training* set.
        k: how many classes; more than there are means all.
        by: ``"image"`` or ``"instance"`` counts.

    Returns:
        Labels chosen, rarest first, and labels passed over on the way.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> n = torch.tensor([5, 9, 1])
        >>> result = SimpleNamespace(names=list("abc"), gt_instances=np.array([4, 4, 0]), ap=np.array([.3, .5, np.nan]))
        >>> tail_classes(result, ClassCounts(list("abc"), n, n, num_images=9), k=1)
        ([0], [2])
    """
    if k < 1:
        raise InputError(f"k: expected a number of classes >= 1, got {k}")
    chosen: list[int] = []
    skipped: list[int] = []
    for label in np.argsort(_counts_by(align_counts(counts, result.names), by), kind="stable").tolist():
        if len(chosen) == k:
            break
        (chosen if result.gt_instances[label] > 0 else skipped).append(label)
    return chosen, skipped


def tail_k(result: Scored, counts: ClassCounts, k: int, by: str = "image") -> float:
    """tail-k: the mean AP of the k rarest classes (see :func:`tail_classes`); NaN when none can be measured."""
    chosen, _ = tail_classes(result, counts, k, by)
    return mean_ap(result.ap[chosen])


def frequency_groups(
    counts: ClassCounts, thresholds: Sequence[int] = GROUP_LIMITS, by: str = "image"
) -> dict[str, list[int]]:
    """Labels by training frequency: rare (<= first threshold), common (<= second) and frequent.

    The defaults, with image counts, are LVIS's groups.

    Example:
        >>> import torch
        >>> n = torch.tensor([10, 11, 101])
        >>> frequency_groups(ClassCounts(list("abc"), n, n, num_images=200))
        {'rare': [0], 'common': [1], 'frequent': [2]}
    """
    if len(thresholds) != 2 or not 0 <= thresholds[0] < thresholds[1]:
        raise InputError(f"groups: expected two ascending thresholds such as 10, 100, got {list(thresholds)}")
    group = np.searchsorted(np.asarray(thresholds), _counts_by(counts, by), side="left")
    return {name: np.flatnonzero(group == i).tolist() for i, name in enumerate(("rare", "common", "frequent"))}


def group_ap(
    result: Scored, counts: ClassCounts, thresholds: Sequence[int] = GROUP_LIMITS, by: str = "image"
) -> dict[str, float]:
    """Mean AP of each frequency group over its classes with ground truth; NaN for a group without any."""
    groups = frequency_groups(align_counts(counts, result.names), thresholds, by)
    return {name: mean_ap(result.ap[labels]) for name, labels in groups.items()}


def align_counts(counts: ClassCounts, names: list[str]) -> ClassCounts:
    """Return the counts in the order of ``names``.

    Raises:
        InputError: when the two lists of classes differ; a silent mismatch would rank the wrong classes.
    """
    if counts.names == names:
        return counts
    rows = {name: row for row, name in enumerate(counts.names)}
    if len(rows) == len(counts.names) == len(names) and rows.keys() == set(names):
        order = [rows[name] for name in names]
        return ClassCounts(list(names), counts.images[order], counts.instances[order], counts.num_images)
    missing = next((name for name in names if name not in rows), None)
    got = f"none of '{missing}'" if missing else f"{len(counts.names)} classes"
    raise InputError(
        f"training counts: expected those of the {len(names)} evaluated classes, got {got}; "
        "take the counts of the data set that the model was trained on"
    )


def _counts_by(counts: ClassCounts, by: str) -> NDArray[np.int64]:
    if by not in ("image", "instance"):
        raise InputError(f"by: expected 'image' or 'instance', got '{by}'")
    return np.asarray(counts.by(by).numpy(), dtype=np.int64)


def mean_ap(values: NDArray[np.float64]) -> float:
    """Mean of the APs that there are; NaN where there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
