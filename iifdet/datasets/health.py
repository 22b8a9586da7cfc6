"""Everything that can be told about a data set without training on it, as a list of findings.

Steps: 1) what the readers noted 2) the files' contents 3) boxes, masks and images without boxes 4) classes 5) splits
against each other. Nothing here writes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets import findings as words
from iifdet.datasets.checking import find_duplicates
from iifdet.datasets.contents import Content, find_repetitions, find_repetitions_within, read_contents
from iifdet.datasets.findings import Finding, from_problem
from iifdet.datasets.index import DatasetIndex
from iifdet.datasets.mask_faults import mask_faults

#: Masks that cannot be painted stop the training of masks; the others are warnings.
MASK_GRAVITY = {words.MASK_BEYOND: "notice", words.MASK_MISSING: "notice"}


class NamedFiles(Protocol):
    """What a comparison of splits needs of one: its name, its index with names and files, and its place."""

    @property
    def name(self) -> str: ...
    @property
    def index(self) -> Any: ...
    @property
    def place(self) -> str: ...


@dataclass(frozen=True)
class SplitToCheck:
    """A split's name, its index, the file or folder that stands for it in messages, and what strays around it."""

    name: str
    index: DatasetIndex
    place: str
    strays: tuple[Finding, ...] = ()


def check_splits(
    splits: list[SplitToCheck],
    *,
    decode: bool = True,
    max_bad: float = 0.05,
    seen: Callable[[int], None] = lambda done: None,
) -> list[Finding]:
    """Check splits of one data set, each by itself and against the others.

    Args:
        splits: indexes as read with ``max_bad=1``, so that what is broken does not stop the reader.
        decode: really decode every image; False looks at headers and bytes alone.
        max_bad: the share of broken images, or boxes, at which training would refuse the data.
        seen: told how many image files are done.
    """
    contents = read_contents((f for split in splits for f in split.index.files), decode=decode, seen=seen)
    found: list[Finding] = []
    for split in splits:
        found += check_split(split, contents, max_bad=max_bad)
    for first, second in combinations(splits, 2):
        found += compare_splits(first, second, contents)
    return found


def check_split(split: SplitToCheck, contents: Mapping[str, Content], *, max_bad: float = 0.05) -> list[Finding]:
    """Everything about one split; ``contents`` holds at least its files."""
    found = [from_problem(problem, split.name) for problem in split.index.problems]
    for part in (_too_many_bad(split, max_bad), _files(split, contents), _boxes(split), _masks(split), _classes(split)):
        found += part
    return found


def _too_many_bad(split: SplitToCheck, max_bad: float) -> Iterator[Finding]:
    """The limit at which :func:`iifdet.datasets.load_index` refuses a data set."""
    index = split.index
    for kind, unit, kept in (("image", "images", len(index)), ("box", "boxes", len(index.labels))):
        bad = sum(problem.kind == kind for problem in index.problems)
        share = bad / max(kept + bad, 1)
        if share > max_bad:
            reason = words.TOO_MANY_BAD.format(unit=unit)
            detail = f"{bad} of {kept + bad} ({share:.1%}), {max_bad:.1%} allowed"
            yield Finding("error", split.name, split.place, reason, detail)


def _files(split: SplitToCheck, contents: Mapping[str, Content]) -> Iterator[Finding]:
    index = split.index
    for file, (height, width) in zip(index.files, index.sizes.tolist(), strict=True):
        content = contents[file]
        if content.fault is not None:
            yield Finding("error", split.name, file, words.UNREADABLE, content.fault)
            continue
        # Annotations may have been made on the pixels as stored, without the EXIF turn; the loader reads them so.
        sizes = (content.displayed, content.stored)
        if (height, width) not in sizes:
            detail = f"{width}x{height} annotated, {content.displayed[1]}x{content.displayed[0]} in the file"
            # The loader scales an image to the annotated size: boxes fit again unless its shape is another one.
            scaled = any(_same_shape((height, width), size) for size in sizes)
            severity, reason = ("warning", words.OTHER_SCALE) if scaled else ("error", words.WRONG_SIZE)
            yield Finding(severity, split.name, file, reason, detail)
    for again in find_repetitions_within(index.files, contents):
        yield Finding("warning", split.name, again.file, words.TWICE, f"{again.how}: {again.first}")


def _same_shape(annotated: tuple[int, int], found: tuple[int, int]) -> bool:
    """Whether one is the other scaled, give or take a pixel."""
    return abs(annotated[0] * found[1] - annotated[1] * found[0]) <= max(*annotated, *found)


def _boxes(split: SplitToCheck) -> Iterator[Finding]:
    index = split.index
    if not len(index.labels):
        yield Finding("error", split.name, split.place, words.NO_BOXES_AT_ALL)
    for m in repeated_boxes(index).tolist():
        name, file = index.names[index.labels[m]], index.files[index.box_image[m]]
        yield Finding("warning", split.name, file, words.DUPLICATE_BOX, name, int(index.ann_ids[m]))
    for n in np.flatnonzero(np.diff(index.offsets) == 0).tolist():
        yield Finding("notice", split.name, index.files[n], words.NO_BOXES)


def repeated_boxes(index: DatasetIndex) -> NDArray[np.int64]:
    """Rows of boxes that repeat an earlier one of the same image and class; crowds stay out of it."""
    rows = np.flatnonzero(~index.crowd)
    again = find_duplicates(index.box_image[rows], index.labels[rows], index.boxes[rows])
    return rows[again].astype(np.int64)


def _masks(split: SplitToCheck) -> Iterator[Finding]:
    index = split.index
    unusable = {problem.box for problem in index.problems if "mask" in problem.reason}
    for m, reason, detail in mask_faults(index):
        box, file = int(index.ann_ids[m]), index.files[index.box_image[m]]
        if reason == words.MASK_MISSING and box in unusable:
            continue  # the reader has said why it is missing
        severity = MASK_GRAVITY.get(reason, "warning")
        yield Finding(severity, split.name, file, reason, detail, box)


def _classes(split: SplitToCheck) -> Iterator[Finding]:
    index = split.index
    present = np.bincount(index.labels, minlength=len(index.names))
    reason = words.NO_CLASS_BOXES.format(split={"train": "training"}.get(split.name, split.name))
    for c in np.flatnonzero(present == 0).tolist() if len(index.labels) else []:
        yield Finding("warning", split.name, split.place, reason, index.names[c])


def compare_splits(first: NamedFiles, second: NamedFiles, contents: Mapping[str, Content]) -> list[Finding]:
    """Class names and pictures of two splits, the earlier one (train before val before test) first.

    A picture of the training split in val or test falsifies the evaluation: an error. In val and test it is a warning.
    Two splits that are the same files throughout are meant that way (small sets for smoke tests): one warning for all.
    """
    found = list(_names_differ(first, second))
    if set(first.index.files) == set(second.index.files):
        reason = words.SAME_SPLIT.format(first=first.name, second=second.name)
        return [*found, Finding("warning", second.name, second.place, reason, "figures say nothing about new images")]
    severity = "error" if first.name == "train" else "warning"
    reason = words.LEAK.format(first=first.name, second=second.name)
    for again in find_repetitions(first.index.files, second.index.files, contents):
        found.append(Finding(severity, second.name, again.file, reason, f"{again.how}: {again.first}"))
    return found


def _names_differ(first: NamedFiles, second: NamedFiles) -> Iterator[Finding]:
    ours, theirs = first.index.names, second.index.names
    if ours == theirs:
        return
    where = next((c for c, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if where is None:
        detail = f"{len(ours)} classes in {first.name}, {len(theirs)} in {second.name}"
    else:
        detail = f"class {where} is '{ours[where]}' in {first.name}, '{theirs[where]}' in {second.name}"
    yield Finding("error", second.name, second.place, words.NAMES_DIFFER, detail)
