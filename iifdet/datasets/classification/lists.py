"""List files, ``path label`` a line, as ImageNet-LT and Places-LT are published."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

import numpy as np

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.classification.stored import OUT_OF_RANGE, index_of, inside
from iifdet.datasets.classification.stores import Store, open_store, read_text
from iifdet.datasets.index import Problem
from iifdet.errors import InputError

_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Listed:
    """The lines of one list: (path, label) each, and the line's number."""

    files: list[str]
    labels: list[int]
    lines: list[int]


def read_lists(description: ClassDescription, split: str) -> ClassIndex:
    """One split of list files.

    Labels are numbers from 0. With ``order: frequency`` class 0 is the one with the most training images, whatever the
    files number it. Names, where the description gives none, are those of the images' folders where each class has one
    of its own in the train list (ImageNet's ``n01440764``; with their parents where they repeat, Places'
    ``hangar/outdoor``), else the files' numbers.

    Labels outside the description's names, or those of the train list, and missing images are problems.

    Raises:
        InputError: a list cannot be read, or a line is not ``path label``.
    """
    store = open_store(description.root, description.hint)
    own = _read(store, description, split)
    train = own if split == "train" or "train" not in description.splits else _read(store, description, "train")
    classes = len(description.names) if description.names else max(train.labels) + 1
    names = description.names or _folder_names(train, classes)
    number = np.arange(classes)  # the file's label -> ours
    if description.order == "frequency":
        counts = np.bincount([label for label in train.labels if label < classes], minlength=classes)
        order = np.argsort(-counts, kind="stable")
        names, number = [names[c] for c in order.tolist()], np.argsort(order, kind="stable")
    known = [(file, label) for file, label in zip(own.files, own.labels, strict=True) if label < classes]
    problems = [
        Problem(str(store.path / file), "image", f"{OUT_OF_RANGE}: expected 0…{classes - 1}, got {label}")
        for file, label in zip(own.files, own.labels, strict=True)
        if label >= classes
    ]
    labels = number[[label for _, label in known]].tolist()
    return index_of(description, store, names, [file for file, _ in known], labels, problems)


def _read(store: Store, description: ClassDescription, split: str) -> Listed:
    place = description.split(split)
    assert place.labels is not None
    text = read_text(store, place.labels, f"{description.name} {split}", place.hint)
    files, labels, lines = [], [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{place.labels}:{number}"
        path, _, label = line.strip().rpartition(" ")
        if not path.strip() or not (label.isascii() and label.isdecimal()) or int(label) >= _MOST_CLASSES:
            raise InputError(
                f"{where}: expected 'path label' with a label from 0, got {line.strip()[:80]!r}; write a space and the "
                "class's number behind the path"
            )
        files.append(inside(path.strip(), place.images, where, description.allow_outside))
        labels.append(int(label))
        lines.append(number)
    if not files:
        raise InputError(
            f"{description.name} {split}: expected lines 'path label' in {place.labels}, found none; write one an "
            f"image, or name another list as '{split}'"
        )
    return Listed(files, labels, lines)


def largest_label(description: ClassDescription) -> str:
    """Which line of the train list says that there are so many classes, for who finds some without images."""
    store = open_store(description.root, description.hint)
    train = _read(store, description, "train")
    row = int(np.argmax(train.labels))
    label, where = train.labels[row], f"{description.split('train').labels}:{train.lines[row]}"
    others = [split for split in description.splits if split != "train"]
    most = max((max(_read(store, description, split).labels) for split in others), default=label)
    if most < label:
        return f"{where} has label {label}, beyond {most}, the largest of {' and '.join(others)}; correct it"
    return f"{where} has label {label}, which makes {label + 1} classes; number them from 0 without gaps"


def _folder_names(train: Listed, classes: int) -> list[str]:
    """Names of the folders, or where classes share one, their paths; numbers where a class has several folders."""
    files = {(label, posixpath.dirname(file)) for file, label in zip(train.files, train.labels, strict=True)}
    folders = sorted((label, PurePosixPath(folder)) for label, folder in files)
    levels = zip(*(folder.parent.parts for _, folder in folders), strict=False)
    common = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    below = [(label, folder.parts[common:]) for label, folder in folders]
    for wanted in (_last, _without_letter, tuple):
        named = {(label, "/".join(wanted(parts))) for label, parts in below}
        if len(named) == len(dict(named)) == len({name for _, name in named}) == classes:
            return [name for _, name in sorted(named)]
    return [str(label) for label in range(classes)]


def _last(parts: tuple[str, ...]) -> tuple[str, ...]:
    return parts[-1:]


def _without_letter(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Places sorts its folders into those of the alphabet: ``a/apartment_building/outdoor``."""
    letter = len(parts) > 1 and len(parts[0]) == 1 and parts[1].startswith(parts[0])
    return parts[1:] if letter else parts
