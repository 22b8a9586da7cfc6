"""Parts of an index: a share of its images, a share held out, some of its classes, or one class made of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.index import DatasetIndex
from iifdet.errors import InputError, suggest

#: Name and category id of the class that ``single_cls`` makes.
ONE_CLASS, ONE_ID = "object", 1


def choose_classes(index: DatasetIndex, classes: Sequence[int | str] | int | str) -> DatasetIndex:
    """Keep the boxes of some classes; their images, and those without any box of them, stay.

    The classes keep their order in the data set, whatever order they are given in. Labels become 0…K-1 and names and
    category ids go with them, so that a model has K outputs. (Ultralytics' ``classes`` keeps the data set's labels and
    names, and outputs that nothing trains.)

    Args:
        index: what a reader gave.
        classes: labels or names, or one of them.

    Raises:
        InputError: none given, or one that the index does not have.
    """
    kept = class_numbers(classes, index.names)
    new = np.full(len(index.names), -1, dtype=np.int64)  # old label -> new label
    new[kept] = np.arange(len(kept))
    boxes = np.flatnonzero(new[index.labels] >= 0)
    return replace(
        index,
        names=[index.names[c] for c in kept.tolist()],
        category_ids=index.category_ids[kept],
        box_image=index.box_image[boxes],
        boxes=index.boxes[boxes],
        labels=new[index.labels[boxes]],
        crowd=index.crowd[boxes],
        areas=index.areas[boxes],
        ann_ids=index.ann_ids[boxes],
        segments=None if index.segments is None else index.segments.select(boxes),
        federated=None if index.federated is None else index.federated.choose(kept),
    )


def class_numbers(classes: Sequence[int | str] | int | str, names: list[str]) -> NDArray[np.int64]:
    """Labels of classes that are given by number or name, or of one, ascending.

    Raises:
        InputError: none given, or one that is not among ``names``.
    """
    classes = [classes] if isinstance(classes, int | str) else classes
    if not len(classes):
        raise InputError("classes: expected numbers or names of classes, got an empty list")
    return np.array(sorted({_label(value, names) for value in classes}), dtype=np.int64)


def merge_classes(index: DatasetIndex) -> DatasetIndex:
    """One class, called ``object`` and with category id 1, of all boxes.

    Where it was looked for is no longer known: LVIS's lists are about its own classes, so they go.
    """
    return replace(
        index,
        names=[ONE_CLASS],
        category_ids=np.array([ONE_ID], dtype=np.int64),
        labels=np.zeros_like(index.labels),
        federated=None,
    )


def take_fraction(index: DatasetIndex, fraction: float, seed: int = 0) -> DatasetIndex:
    """Keep a share of the images, at least one, in their old order.

    Drawn by strata, an image's stratum being the rarest class in it, so that the classes keep their proportions; and
    first of all one image for every class, rarest first, so that no class vanishes as long as these images are no more
    than there is room for. (That they are as few as possible is not promised: it would be a set cover.) The same seed
    and data give the same images, and a smaller fraction keeps a part of what a larger one keeps.

    Args:
        index: what a reader gave.
        fraction: share in (0, 1].
        seed: of the draw.

    Raises:
        InputError: fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction: expected a share above 0 and up to 1, got {fraction}")
    count = max(1, round(fraction * len(index)))
    return index.select(np.sort(_order(index, seed)[:count]))


def hold_out(index: DatasetIndex, share: float, seed: int = 0) -> tuple[DatasetIndex, DatasetIndex]:
    """Split the images into those to train on and those held out, so that every class can be on both sides.

    Class by class, rarest first (as in iterative stratification, Sechidis et al. 2011), images are drawn until their
    share of the class's images is held out, at least one; an image stays where it is the last of a class to train on.
    A class with one image is therefore trained on and not held out. Images without boxes are shared last. Because every
    class gives at least one, a long tail makes the held-out part somewhat larger than ``share``.

    Args:
        index: what a reader gave.
        share: of the images, in (0, 1).
        seed: of the draw.

    Returns:
        The rest, and what is held out; images in their old order.

    Raises:
        InputError: share is not in (0, 1), or one side would be empty.
    """
    if not 0 < share < 1:
        raise InputError(f"holdout: expected a share above 0 and below 1, got {share}")
    held = _held_out(index, share, seed)
    if not held.any() or held.all():
        way_out = "raise the share" if len(index) > 1 else "drop holdout, or add images"
        raise InputError(f"holdout: expected enough images to hold {share:.0%} out, got {len(index)}; {way_out}")
    return index.select(~held), index.select(held)


def _held_out(index: DatasetIndex, share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) whether an image is held out."""
    turn = np.random.default_rng(seed).permutation(len(index))
    pairs = np.unique(np.stack((index.box_image, index.labels)), axis=1)  # (2, P) image, class
    left = np.bincount(pairs[1], minlength=len(index.names))  # images of each class to train on
    held = np.zeros(len(index), dtype=bool)
    for label in np.argsort(left, kind="stable").tolist():
        images = pairs[0, pairs[1] == label]
        wanted = max(1, round(share * len(images))) - int(held[images].sum())
        for image in images[np.argsort(turn[images])].tolist():
            own = np.unique(index.labels[index.boxes_of(image)])
            if wanted < 1:
                break
            if not held[image] and (left[own] > 1).all():
                held[image], wanted = True, wanted - 1
                left[own] -= 1
    empty = np.setdiff1d(np.arange(len(index)), index.box_image)
    held[empty[np.argsort(turn[empty])][: round(share * len(empty))]] = True
    return held


def _label(value: int | str, names: list[str]) -> int:
    if isinstance(value, str):
        if value not in names:
            several = "; several are a list: classes=[a,b]" if "," in value else ""
            said = several or suggest(value, names)
            raise InputError(f"classes: expected names of the data's classes, got '{value}'{said}")
        return names.index(value)
    if not 0 <= value < len(names):
        raise InputError(f"classes: expected numbers from 0 to {len(names) - 1}, or names, got {value}")
    return int(value)


def _order(index: DatasetIndex, seed: int) -> NDArray[np.int64]:
    """All image rows, most wanted first."""
    rarity = _rarity(index)
    strata = np.full(len(index), len(rarity))  # rank of the rarest class in each image; images without boxes last
    np.minimum.at(strata, index.box_image, rarity[index.labels])
    spread = _spread(strata, seed)
    cover = _cover(index, np.argsort(rarity), spread)
    order = np.argsort(spread, kind="stable")
    return np.concatenate([cover, order[~np.isin(order, cover)]])


def _rarity(index: DatasetIndex) -> NDArray[np.int64]:
    """(C,) rank of each class by its number of images, 0 for the rarest."""
    images = index.counts().images.numpy()
    ranks = np.empty(len(images), dtype=np.int64)
    ranks[np.argsort(images, kind="stable")] = np.arange(len(images))
    return ranks


def _spread(strata: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """(N,) a place in [0, 1) for each image: those of a stratum lie evenly, so any beginning has its share of each."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(strata)), strata))  # by stratum, at random inside
    _, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    turn = np.arange(len(strata)) - np.repeat(starts, sizes)
    places = np.empty(len(strata))
    places[order] = (turn + np.repeat(rng.random(len(sizes)), sizes)) / np.repeat(sizes, sizes)
    return places


def _cover(index: DatasetIndex, rarest_first: NDArray[np.int64], spread: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each class, rarest first, its first image by ``spread``, unless one chosen before shows the class already."""
    by_class = np.lexsort((spread[index.box_image], index.labels))
    present, first = np.unique(index.labels[by_class], return_index=True)
    first_image = dict(zip(present.tolist(), index.box_image[by_class[first]].tolist(), strict=True))
    chosen: list[int] = []
    shown: set[int] = set()
    for label in rarest_first.tolist():
        if label in first_image and label not in shown:
            chosen.append(first_image[label])
            shown.update(index.labels[index.boxes_of(chosen[-1])].tolist())
    return np.array(chosen, dtype=np.int64)
