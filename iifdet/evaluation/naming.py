"""What another program's results file calls the images and classes of a split.

Programs agree on neither. An image is called by its id in the annotations or by its file, whose name some of them turn
into a number; a class by the data's own category, or by its place, from 0 or from 1. Where two readings are possible
and differ, nothing is guessed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.checking import lookup
from iifdet.errors import InputError, brief, counted, some, suggest

Name = int | str
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Ids:
    """How a split calls its images and classes.

    Attributes:
        images: (N,) ids.
        files: N image files.
        sizes: (N, 2) height and width.
        categories: (C,) the category of each label.
        names: the C class names.
        own: whether these categories are the data's own; those of text labels and Pascal VOC are counted here.
    """

    images: NDArray[np.int64]
    files: Sequence[str]
    sizes: NDArray[Any]
    categories: NDArray[np.int64]
    names: Sequence[str]
    own: bool = True


# -- Images ------------------------------------------------------------------------------------------------------------


def find_images(given: Sequence[Name], ids: Ids, called: str | None, where: str) -> NDArray[np.int64]:
    """(n,) rows of the images.

    Args:
        given: what the file calls the image of each detection: a number, or an image file's path or name, with its
            ending or without.
        called: what numbers are: ``id`` or the ``file`` that bears it; None where only one is possible or both mean the
            same.
        where: the file, for messages.
    """
    distinct = list(dict.fromkeys(given))
    texts = [name for name in distinct if isinstance(name, str)]
    files = _by_file(ids.files) if texts else {}  # every end of every path, for which numbers have no use
    rows: dict[Name, int] = {name: _find_file(name, files) for name in texts}
    named = any(row >= 0 for row in rows.values())
    numbers = {name: int(name) for name in distinct if _is_number(name) and rows.get(name, -1) < 0}
    if numbers:
        known = _numbering(list(numbers.values()), ids, "file" if called is None and named else called, where)
        rows |= {name: known.get(number, -1) for name, number in numbers.items()}
    _refuse_strange(distinct, rows, ids, where)
    return np.array([rows[name] for name in given], np.int64)


def _is_number(name: Name) -> bool:
    return isinstance(name, int) or (name.isascii() and name.isdecimal())


def _numbering(numbers: Sequence[int], ids: Ids, called: str | None, where: str) -> Mapping[int, int]:
    """Number -> row: by ids or by files."""
    by_id = {int(number): row for row, number in enumerate(ids.images.tolist())}
    by_file = _by_number(ids.files)
    if called is not None:
        return by_id if called == "id" else by_file
    possible = [known for known in (by_id, by_file) if all(number in known for number in numbers)]
    if len(possible) == 2 and any(by_id[number] != by_file[number] for number in numbers):
        number = next(number for number in numbers if by_id[number] != by_file[number])
        raise InputError(
            f"{where}: expected numbers that mean one image, got {number}, which is the id of "
            f"{_short(ids.files[by_id[number]])} and the name of {_short(ids.files[by_file[number]])}; say which with "
            "image_id=id or image_id=file"
        )
    return possible[0] if possible else by_id


def _by_number(files: Sequence[str]) -> dict[int, int]:
    """The number that a file's name is, where no other file's is the same."""
    numbers = [(row, stem) for row, file in enumerate(files) if _is_number(stem := PurePosixPath(file).stem)]
    return _unique((int(stem), row) for row, stem in numbers)


def _by_file(files: Sequence[str]) -> dict[str, int]:
    """Every way to call a file that means one file alone."""
    return _unique((name, row) for row, file in enumerate(files) for name in _calls(file))


def _unique(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    several: set[Key] = set()
    for key, row in pairs:
        if found.setdefault(key, row) != row:
            several.add(key)
    return {key: row for key, row in found.items() if key not in several}


def _calls(file: str) -> Iterable[str]:
    """The path, every end of it that starts after a slash, longest first; and the same without the file's ending."""
    path = PurePosixPath(unicodedata.normalize("NFC", file.replace("\\", "/")))
    ends = ["/".join(path.parts[n:]) for n in range(len(path.parts))]
    return dict.fromkeys(name for end in ends for name in (end, end.removesuffix(path.suffix)))


def _find_file(name: str, files: Mapping[str, int]) -> int:
    """The row of a file; of a path of another machine the longest end that the split has."""
    return next((files[call] for call in _calls(name) if call in files), -1)


def _refuse_strange(distinct: Sequence[Name], rows: Mapping[Name, int], ids: Ids, where: str) -> None:
    strange = [name for name in distinct if rows.get(name, -1) < 0]
    if strange:
        example = f"as {ids.images[0]} or {_short(ids.files[0])}" if len(ids.files) else "of which there are none"
        raise InputError(
            f"{where}: expected images of the split, {example}, got {brief(strange[0])}; so with {len(strange)} of its "
            f"{counted(len(distinct), 'image')}; name the split that was predicted with data= and split="
        )
    first: dict[int, Name] = {}
    for name in distinct:
        other = first.setdefault(rows[name], name)
        if other != name:
            raise InputError(
                f"{where}: expected one name for each image, got {brief(other)} and {brief(name)}, both of which seem "
                f"to be {_short(ids.files[rows[name]])}"
            )


def _short(file: str) -> str:
    return "/".join(PurePosixPath(file).parts[-2:])


# -- Classes -----------------------------------------------------------------------------------------------------------


def find_categories(
    given: NDArray[np.int64], names: Mapping[int, str] | None, ids: Ids, first: int | None, where: str
) -> NDArray[np.int64]:
    """(n,) categories of the split.

    Args:
        given: (n,) those of the file.
        names: what the file says that they are called, None where it does not.
        ids: of the split.
        first: the file's category of class 0, where the file counts classes through.
        where: the file, for messages.
    """
    if first is None and names is not None:
        return _by_name(given, names, ids, where)
    known = ids.categories if first is None else first + np.arange(len(ids.categories))
    labels = lookup(known, given)
    strange = np.unique(given[labels < 0])
    if len(strange):
        expected, got = some(map(str, known.tolist()), 5), some(map(str, strange.tolist()))
        raise InputError(f"{where}: expected categories {expected}, got {got}; {_next_step(given, first, ids)}")
    if first is None and not ids.own and len(given) and 0 not in given:
        raise InputError(
            f"{where}: expected detections of class 0, got {counted(len(given), 'detection')} from category "
            f"{given.min()} on; say which category class 0 has: first_category=0, or 1 as some programs count"
        )
    return ids.categories[labels]


def _by_name(given: NDArray[np.int64], names: Mapping[int, str], ids: Ids, where: str) -> NDArray[np.int64]:
    known = dict(zip(ids.names, ids.categories.tolist(), strict=True))
    found = {}
    for category in np.unique(given).tolist():
        name = names.get(category)
        if name is None or name not in known:
            called = "no name" if name is None else f"'{name}'{suggest(name, known)}"
            raise InputError(
                f"{where}: expected categories called as the data's classes, got {called} for {category}; "
                "if the file counts the data's classes through, give first_category="
            )
        found[category] = known[name]
    return np.array([found[category] for category in given.tolist()], np.int64)


def _next_step(given: NDArray[np.int64], first: int | None, ids: Ids) -> str:
    low, high, classes = int(given.min()), int(given.max()), len(ids.categories)
    if high - low >= classes:
        return f"they are of more than the data's {counted(classes, 'class', 'classes')}: score against their own data"
    if first is None and low == 1 and high == classes:
        return "if the file counts classes through, give first_category=1"
    return "if the file counts classes through, name the category of class 0 with first_category="
