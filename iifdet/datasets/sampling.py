"""Which images an epoch holds, and how often: repeat factors, sampling by classes, pairs.

Each scheme is a :data:`Draw`: a generator to the (L,) rows of one epoch, in the order in which they come. L does not
change from epoch to epoch, so that schedules and progress stay simple.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.index import DatasetIndex
from iifdet.errors import InputError, suggest

log = logging.getLogger("iifdet")

Draw = Callable[[np.random.Generator], NDArray[np.int64]]

SAMPLING_BY = ("image", "instance", "both")


def uniform(length: int) -> Draw:
    """Every row once, shuffled."""
    return lambda rng: rng.permutation(length)


def repeat_factor(index: DatasetIndex | ClassIndex, threshold: float = 1e-3, by: str = "image") -> Draw:
    """Images repeated by :func:`repeat_factors`, fractions rounded at random anew each epoch."""
    factors = repeat_factors(index, threshold, by)
    if factors.max(initial=1.0) == 1:
        share = _share(index, by)
        log.warning(
            "sampling: rfs repeats no image, since no class has a smaller share than repeat_threshold=%g; half of them "
            "have less than %.2g, which is a place to start",
            threshold,
            float(np.median(share[share > 0])) if share.any() else 1.0,
        )

    def draw(rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(np.repeat(np.arange(len(factors)), round_at_random(factors, rng)))

    return draw


def repeat_factors(index: DatasetIndex | ClassIndex, threshold: float = 1e-3, by: str = "image") -> NDArray[np.float64]:
    """How often each image shall appear in an epoch; (N,) >= 1.

    A class with frequency f_c gets r_c = max(1, √(t / f_c)), an image the largest r_c of its classes (LVIS, Gupta et
    al., CVPR 2019, Section 5.1).

    Args:
        threshold: t; classes rarer than this are repeated.
        by: f_c is the share of ``image`` s that show the class (the LVIS rule), its share of all ``instance`` s, or
            the geometric mean of ``both`` (instance-aware RFS, Yaman et al., 2023).

    Raises:
        InputError: unknown ``by``, or a threshold outside (0, 1].
    """
    if by not in SAMPLING_BY:
        raise InputError(f"sampling_by: expected one of {', '.join(SAMPLING_BY)}, got '{by}'{suggest(by, SAMPLING_BY)}")
    if not 0 < threshold <= 1:
        raise InputError(f"repeat_threshold: expected a number in (0, 1], got {threshold}")
    share = _share(index, by)
    frequency = np.where(share > 0, share, 1.0)  # a class without a box repeats nothing
    per_class = np.maximum(1.0, np.sqrt(threshold / frequency))
    rows, labels = _presence(index)
    factors = np.ones(len(index))
    np.maximum.at(factors, rows, per_class[labels])
    return factors


def _share(index: DatasetIndex | ClassIndex, by: str) -> NDArray[np.float64]:
    """(C,) f_c of :func:`repeat_factors`."""
    counts = index.counts()
    images = counts.images.numpy() / max(1, counts.num_images)
    instances = counts.instances.numpy() / max(1, int(counts.instances.sum()))
    return {"image": images, "instance": instances, "both": np.sqrt(images * instances)}[by]


def class_balanced(index: DatasetIndex | ClassIndex, power: float) -> Draw:
    """As many draws as images: a class with probability ∝ n_c^power, then one of its images.

    n_c counts images. Power 0 is class-aware sampling (Shen et al., ECCV 2016), 0.5 square-root sampling, 1 draws
    classes as they come (Kang et al., ICLR 2020, Eq. 1), -1 reverses their order. Images without boxes are never drawn.
    An image of a class comes again only after all others of that class have come.
    """
    rows, labels = _presence(index)
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    images = np.split(rows[order], starts[1:])  # of each class that is present
    if not len(classes):
        raise InputError("sampling: expected boxes to sample by, got none; use sampling=random")
    share = np.array([len(group) for group in images], dtype=np.float64) ** power
    wanted = share / share.sum() * len(index)

    def draw(rng: np.random.Generator) -> NDArray[np.int64]:
        each = round_at_random(wanted, rng).tolist()
        return rng.permutation(np.concatenate([_cycle(g, n, rng) for g, n in zip(images, each, strict=True)]))

    return draw


def in_turn(*draws: Draw) -> Draw:
    """One row of each draw, again and again: rows that are trained on together. All draws are equally long."""
    return lambda rng: np.stack([draw(rng) for draw in draws], axis=1).ravel()


def bilateral(index: DatasetIndex | ClassIndex) -> Draw:
    """Pairs: every image once, each with one by inverse class counts.

    Source: Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition, CVPR
    2020, Section 4.2 (the reversed sampler).
    """
    return in_turn(uniform(len(index)), class_balanced(index, -1.0))


def prototypes(index: DatasetIndex | ClassIndex) -> Draw:
    """Pairs: every image once, each with one of a class, all classes alike.

    Source: Wang et al., Contrastive Learning Based Hybrid Networks for Long-Tailed Image Classification, CVPR 2021,
    Section 3.
    """
    return in_turn(uniform(len(index)), class_balanced(index, 0.0))


def views(index: DatasetIndex | ClassIndex) -> Draw:
    """:func:`prototypes` with the first image twice, to be augmented twice."""
    pairs = prototypes(index)

    def draw(rng: np.random.Generator) -> NDArray[np.int64]:
        return pairs(rng).reshape(-1, 2)[:, [0, 0, 1]].ravel()

    return draw


#: key ``sampling`` -> draw(index, threshold, by).
SAMPLING: dict[str, Callable[[DatasetIndex | ClassIndex, float, str], Draw]] = {
    "random": lambda index, threshold, by: uniform(len(index)),
    "rfs": repeat_factor,
    "class_aware": lambda index, threshold, by: class_balanced(index, 0.0),
    "square_root": lambda index, threshold, by: class_balanced(index, 0.5),
    "bilateral": lambda index, threshold, by: bilateral(index),
    "prototypes": lambda index, threshold, by: prototypes(index),
    "views": lambda index, threshold, by: views(index),
}

#: key ``sampling`` -> rows that are trained on together.
TOGETHER = {"bilateral": 2, "prototypes": 2, "views": 3}


def round_at_random(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Round each value up or down at random, right on average, so that the sum is always the same.

    Systematic sampling over a random order: of the fractions, which are stretched to a whole sum, one is rounded up
    whenever their running sum passes a whole number plus an offset. Whole values are never touched.

    Example:
        >>> rounded = round_at_random(np.array([1.0, 0.5, 2.5]), np.random.default_rng(0))
        >>> int(rounded[0]), int(rounded.sum())
        (1, 4)
    """
    whole = np.floor(values)
    part = values - whole
    extra = round(float(part.sum()))
    if not extra:
        return whole.astype(np.int64)
    order = rng.permutation(len(values))
    passed = np.cumsum(part[order]) * (extra / part.sum())
    passed[-1] = extra  # not a rounding error less
    marks = np.floor(passed + rng.uniform())
    up = np.zeros(len(values))
    up[order] = np.diff(marks, prepend=0.0)
    return (whole + up).astype(np.int64)


def _cycle(images: NDArray[np.int64], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = -(-number // len(images))
    return np.concatenate([rng.permutation(images) for _ in range(rounds)] or [images])[:number]


def _presence(index: DatasetIndex | ClassIndex) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every (image, class) pair once: rows and labels. A crowd is nothing that training learns from."""
    if isinstance(index, ClassIndex):
        return np.arange(len(index)), index.labels
    single = ~index.crowd
    pairs = np.unique(index.box_image[single] * len(index.names) + index.labels[single])
    return pairs // len(index.names), pairs % len(index.names)
