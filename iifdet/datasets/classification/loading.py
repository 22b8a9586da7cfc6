"""load_class_index: from a data description to a checked ClassIndex, whatever the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iifdet.datasets.classification.cifar import read_cifar
from iifdet.datasets.classification.description import ClassDescription, find_class_description
from iifdet.datasets.classification.folders import read_folders
from iifdet.datasets.classification.inaturalist import read_inaturalist
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.classification.lists import largest_label, read_lists
from iifdet.datasets.classification.profiles import cut_long_tail
from iifdet.datasets.reading import summarize
from iifdet.datasets.select import class_numbers
from iifdet.errors import InputError

#: format -> reader(description, split). A new format is one function and one line here.
READERS: dict[str, Callable[[ClassDescription, str], ClassIndex]] = {
    "folder": read_folders,
    "list": read_lists,
    "cifar10": read_cifar,
    "cifar100": read_cifar,
    "inaturalist": read_inaturalist,
}


def load_class_index(
    data: str | Path | Mapping[str, Any] | ClassDescription,
    split: str = "train",
    *,
    imbalance: float | None = None,
    fraction: float = 1.0,
    classes: Sequence[int | str] | int | str | None = None,
    seed: int = 0,
    allow_outside: bool = False,
    strict: bool = True,
) -> ClassIndex:
    """Read one split, then select from it: 1) the long tail of the train split 2) a share of it 3) classes.

    Args:
        data: a data YAML of classification, the name of one that comes with the package, or its content as a dict.
        split: ``train``, ``val`` or ``test``, as far as the description has it.
        imbalance: cut the train split to this ratio instead of the description's.
        fraction: share of the train split's images to keep, class by class, at least one of each.
        classes: keep only these, by number or name; labels become 0…K-1 in the data's order.
        seed: decides which images ``fraction`` keeps. Which ones ``imbalance`` keeps, the description's own says.
        allow_outside: let lists name files outside the data set's folder.
        strict: refuse a split of which something would be dropped. False gives the rest, with ``problems``.

    Raises:
        InputError: something is missing, unreadable or inconsistent; a class of the train split has no image; an
            unknown class.
    """
    description = replace(find_class_description(data), allow_outside=allow_outside)
    description.split(split)
    index = READERS[description.format](description, split)
    if strict:
        _refuse_problems(index, description, split)
    if split == "train":
        if strict:
            _refuse_empty_classes(index, description)
        imbalance = description.imbalance if imbalance is None else imbalance
        if imbalance is not None:
            index = cut_long_tail(index, imbalance, description.seed)
        if fraction != 1:
            index = _take_fraction(index, fraction, seed)
    return index if classes is None else choose_classes(index, classes)


def choose_classes(index: ClassIndex, classes: Sequence[int | str] | int | str) -> ClassIndex:
    """Keep the images of some classes; labels become 0…K-1 in the data's order, whatever order they are given in.

    Raises:
        InputError: none given, or one that the index does not have.
    """
    kept = class_numbers(classes, index.names)
    new = np.full(len(index.names), -1, dtype=np.int64)  # old label -> new label
    new[kept] = np.arange(len(kept))
    chosen = np.flatnonzero(new[index.labels] >= 0)
    part = index.select(chosen)
    return replace(part, names=[index.names[c] for c in kept.tolist()], labels=new[part.labels])


def _take_fraction(index: ClassIndex, fraction: float, seed: int) -> ClassIndex:
    if not 0 < fraction <= 1:
        raise InputError(f"fraction: expected a share above 0 and up to 1, got {fraction}")
    return index.holdout(1 - fraction, seed)[0]


def _refuse_problems(index: ClassIndex, description: ClassDescription, split: str) -> None:
    if index.problems:
        what, first = f"{description.name} {split}", index.problems[0].file
        raise InputError(
            f"{what}: expected only images that can be used, got {summarize(list(index.problems))}, first {first}; "
            f"{description.hint}, or correct the data (iifdet check lists all)"
        )


def _refuse_empty_classes(index: ClassIndex, description: ClassDescription) -> None:
    empty = np.flatnonzero(np.bincount(index.labels, minlength=len(index.names)) == 0)
    if len(empty):
        c = int(empty[0])
        more = f" and {len(empty) - 1} other classes" if len(empty) > 1 else ""
        unnamed = description.format == "list" and description.names is None
        advice = largest_label(description) if unnamed else "add images, or give names without it"
        raise InputError(
            f"{description.name} train: expected images of every class, got none of class {c} '{index.names[c]}'{more}"
            f"; {advice}"
        )
