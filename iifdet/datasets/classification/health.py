"""Everything that can be told about data of classification without training on them, as a list of findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from iifdet.datasets import findings as words
from iifdet.datasets.classification.description import ClassDescription, find_class_description
from iifdet.datasets.classification.index import ArrayImages, ClassIndex, StoredImages
from iifdet.datasets.classification.loading import load_class_index
from iifdet.datasets.contents import Content, digest_pixels, find_repetitions_within, read_contents
from iifdet.datasets.findings import Finding, from_problem
from iifdet.datasets.health import compare_splits


@dataclass(frozen=True)
class ClassSplitToCheck:
    """A split's name, its index, and the file or folder that stands for all of it in messages."""

    name: str
    index: ClassIndex
    place: str


def read_class_splits(
    data: str | Path | Mapping[str, Any] | ClassDescription, split: str | None = None, *, allow_outside: bool = False
) -> list[ClassSplitToCheck]:
    """Read one split of a data set, or all that its description has, however much of them is broken.

    No tail is cut: what is looked at are the data as they lie.

    Raises:
        InputError: a split of which nothing can be read.
    """
    description = replace(find_class_description(data), imbalance=None)
    found = []
    for name in description.splits if split is None else [split]:
        where = description.split(name)
        index = load_class_index(description, name, allow_outside=allow_outside, strict=False)
        found.append(ClassSplitToCheck(name, index, str(description.root / (where.labels or where.images))))
    return found


def check_class_splits(
    splits: Sequence[ClassSplitToCheck], *, decode: bool = True, seen: Callable[[int], None] = lambda done: None
) -> list[Finding]:
    """Check splits of one data set, each by itself and against the others.

    Args:
        splits: as :func:`read_class_splits` gives them.
        decode: really decode every image; False looks at headers and bytes alone.
        seen: told how many images are done.
    """
    contents: dict[str, Content] = {}
    for split in splits:
        done = len(contents)
        contents |= _contents(split.index, decode, lambda now, done=done: seen(done + now))  # type: ignore[misc]
    found: list[Finding] = []
    for split in splits:
        found += [from_problem(problem, split.name) for problem in split.index.problems]
        found += [*_images(split, contents), *_classes(split)]
    for first, second in combinations(splits, 2):
        found += compare_splits(first, second, contents)
    return found


def _contents(index: ClassIndex, decode: bool, seen: Callable[[int], None]) -> dict[str, Content]:
    """File -> what is in it."""
    source, rows = index.source, {file: row for row, file in enumerate(index.files)}
    if isinstance(source, StoredImages):
        return read_contents(rows, decode=decode, seen=seen, read=lambda file: source.read_bytes(rows[file]))
    assert isinstance(source, ArrayImages)
    size = (source.array.shape[1], source.array.shape[2])
    seen(len(rows))
    return {
        file: Content(None, size, size, pixel_digest=digest_pixels(source.array[row])) for file, row in rows.items()
    }


def _images(split: ClassSplitToCheck, contents: Mapping[str, Content]) -> Iterator[Finding]:
    index = split.index
    files = index.files
    for file in files:
        fault = contents[file].fault
        if fault is not None:
            yield Finding("error", split.name, file, words.UNREADABLE, fault)
    for again in find_repetitions_within(files, contents):
        ours, theirs = (index.names[index.labels[row]] for row in again.rows)
        reason = words.TWICE if ours == theirs else words.TWO_CLASSES
        classes = "" if ours == theirs else f" is {theirs}, this is {ours}"
        yield Finding("warning", split.name, again.file, reason, f"{again.how}: {again.first}{classes}")


def _classes(split: ClassSplitToCheck) -> Iterator[Finding]:
    """Training refuses a class without training images; without others it only has no figure."""
    train = split.name == "train"
    reason = words.NO_CLASS_IMAGES.format(split="training" if train else split.name)
    present = np.bincount(split.index.labels, minlength=len(split.index.names))
    for c in np.flatnonzero(present == 0).tolist():
        yield Finding("error" if train else "warning", split.name, split.place, reason, split.index.names[c])
