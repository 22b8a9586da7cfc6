"""Long tails cut on purpose out of balanced data: the exponential profile of CIFAR-LT."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.classification.index import ClassIndex
from iifdet.errors import InputError


def exponential_profile(n_max: int, num_classes: int, imbalance: float) -> NDArray[np.int64]:
    """(C,) images a class: ``n_c = int(n_max · (1 / imbalance)^(c / (C - 1)))`` (Cui et al., CVPR 2019).

    Raises:
        InputError: imbalance below 1, or a class would have no image.

    Example:
        >>> exponential_profile(5000, 10, 100).tolist()
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if not (isinstance(imbalance, int | float) and math.isfinite(imbalance) and imbalance >= 1):
        raise InputError(f"imbalance: expected a number of 1 or more, got {imbalance!r}")
    steps = max(num_classes - 1, 1)
    counts = np.array([int(n_max * (1 / imbalance) ** (c / steps)) for c in range(num_classes)], dtype=np.int64)
    if num_classes and counts[-1] < 1:
        raise InputError(
            f"imbalance: expected at least one image of every class, got none of class {int(counts.argmin())} with "
            f"imbalance={imbalance:g} and {n_max} images of the first; lower it"
        )
    return counts


def cut_long_tail(index: ClassIndex, imbalance: float, seed: int = 0) -> ClassIndex:
    """Keep of class c as many images as the exponential profile says, chosen by ``seed``, in their old order.

    The profile starts at the most images that a class has, and falls in the order of labels. With the standard CIFAR
    files, a seed gives the very images that the original program's chooses (one generator of numpy's old kind shuffles
    class by class).

    Raises:
        InputError: as :func:`exponential_profile`, or a class has fewer images than its place asks for.
    """
    have = np.bincount(index.labels, minlength=len(index.names))
    wanted = exponential_profile(int(have.max(initial=0)), len(index.names), imbalance)
    short = np.flatnonzero(have < wanted)
    if len(short):
        c = int(short[0])
        raise InputError(
            f"imbalance: expected {wanted[c]} images of class {c} '{index.names[c]}', got {have[c]}; the data are not "
            "balanced: leave imbalance out"
        )
    rng = np.random.RandomState(seed)
    kept = []
    for label, count in enumerate(wanted.tolist()):
        rows = np.flatnonzero(index.labels == label)
        rng.shuffle(rows)
        kept.append(rows[:count])
    return index.select(np.sort(np.concatenate(kept)))
