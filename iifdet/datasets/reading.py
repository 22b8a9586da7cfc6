"""load_index: from a data description to a checked DatasetIndex, whatever the format."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from iifdet.datasets.coco import read_coco, read_lvis
from iifdet.datasets.description import DataDescription, find_description
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.index_cache import cached_index
from iifdet.datasets.select import choose_classes, merge_classes, take_fraction
from iifdet.datasets.voc import read_voc
from iifdet.datasets.yolo_txt import read_yolo
from iifdet.errors import InputError, counted

logger = logging.getLogger("iifdet")

#: format -> reader(description, split, segments=...). A new format is one function and one line here.
READERS: dict[str, Callable[..., DatasetIndex]] = {
    "coco": read_coco,
    "lvis": read_lvis,
    "yolo": read_yolo,
    "voc": read_voc,
}
#: How many reasons a summary names.
_REASONS = 8


def load_index(
    data: str | Path | Mapping[str, Any] | DataDescription,
    split: str = "train",
    *,
    max_bad: float = 0.05,
    segments: bool = True,
    fraction: float = 1.0,
    classes: Sequence[int | str] | int | str | None = None,
    single_cls: bool = False,
    seed: int = 0,
    cache_index: bool = True,
    allow_outside: bool = False,
    need_images: bool = True,
) -> DatasetIndex:
    """Read one split of a data set, then select from it: 1) images of the train split 2) classes 3) one class of all.

    Args:
        data: a data YAML, the name of one that comes with the package, or its content as a dict.
        split: ``train``, ``val`` or ``test``, as far as the description has it.
        max_bad: largest share of broken images, or of broken boxes, that is dropped with a log line and no more.
        segments: keep masks where the data have them.
        fraction: share of the images to keep, of the ``train`` split only; see :func:`.select.take_fraction`.
        classes: keep only these, by number or name; see :func:`.select.choose_classes`.
        single_cls: make one class of all; see :func:`.select.merge_classes`.
        seed: decides which images ``fraction`` keeps.
        cache_index: keep the index on disk and use it again while the data are the same
            (see :mod:`iifdet.datasets.index_cache`).
        allow_outside: let annotation files and lists name files outside the data set's folders.
        need_images: leave out images whose files are missing. False reads what COCO or LVIS JSON says, as far as it
            gives their sizes, and keeps nothing on disk; other formats are told by their files.

    Raises:
        InputError: something is missing, unreadable, or broken beyond ``max_bad``; an unknown class.
    """
    description = replace(find_description(data), allow_outside=allow_outside, need_images=need_images)
    place = description.split(split)
    if description.generate is not None:
        from iifdet.datasets.demo import make_demo_from

        make_demo_from(description.root, description.generate)
    read = partial(READERS[description.format], description, place, segments=segments)
    cached = cache_index and need_images  # without images there is no listing of folders to tell whether it is still so
    index = cached_index(read, description, place, segments=segments) if cached else read()
    _report(index, f"{description.name} {split}", max_bad)
    if not len(index):
        first = f"{index.problems[0].file}: {index.problems[0].reason}; " if index.problems else ""
        raise InputError(f"{description.name} {split}: expected images, found none; {first}{place.hint}")
    # The images come first, so that the same ones are chosen whatever the classes are.
    if split == "train" and fraction != 1:
        index = take_fraction(index, fraction, seed)
    if classes is not None:
        index = choose_classes(index, classes)
    return merge_classes(index) if single_cls else index


def _report(index: DatasetIndex, what: str, max_bad: float) -> None:
    """Log what was dropped or put right, or refuse when it is too much."""
    if not index.problems:
        return
    text = summarize(index.problems)
    for kind, kept in (("image", len(index)), ("box", len(index.labels))):
        dropped = [problem for problem in index.problems if problem.kind == kind]
        share = len(dropped) / max(kept + len(dropped), 1)
        if share > max_bad:
            first = ", ".join(list(dict.fromkeys(problem.file for problem in dropped))[:3])
            unit = "images" if kind == "image" else "boxes"
            raise InputError(
                f"{what}: expected at most {max_bad:.1%} broken {unit}, got {len(dropped)} of {kept + len(dropped)} "
                f"({share:.1%}): {summarize(dropped)}; first: {first}; repair them or raise max_bad"
            )
    logger.warning(
        "%s: %s and %s kept; %s", what, counted(len(index), "image"), counted(len(index.labels), "box", "boxes"), text
    )


def summarize(problems: list[Problem]) -> str:
    """Counts by reason, most frequent first; beyond the first few only how many reasons there are.

    Example:
        >>> summarize([Problem("a.jpg", "image", "missing image file")] * 2)
        '2 missing image file'
    """
    counts = Counter(p.reason for p in problems).most_common()
    named = [f"{count} {reason}" for reason, count in counts[:_REASONS]]
    return ", ".join(named) + (f" and {len(counts) - _REASONS} other reasons" if len(counts) > _REASONS else "")
