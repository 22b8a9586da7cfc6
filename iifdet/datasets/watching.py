"""What an index was made from, and whether that still is what it was.

Each reader names what it read (:data:`WATCH`). A cached index is good while all of it gives the same digest:

- ``bytes``: a file's content (SHA-256). It is read again only where its size, inode, time of change or time of
  modification differ from those stored, or where these were less than two seconds old when they were stored: such a
  file may have been changed again within the clock's grain. An edit that keeps the size and sets the old modification
  time again is seen too, because nobody can set the time of change. A file that was only touched or copied costs one
  more reading and keeps its index.
- ``names``: the names in a folder, so that images which appear or vanish count; one listing, no look at each file.
- ``stats``: names, sizes and modification times of the files in a folder.
- ``tree``: likewise with all folders below.
- ``glob``: the names that a pattern matches.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iifdet.datasets.description import DataDescription, Split, VocPart
from iifdet.datasets.index import DatasetIndex
from iifdet.datasets.listing import matches
from iifdet.datasets.yolo_txt import label_file

_GRAIN = 2_000_000_000  # ns
_PIECE = 1 << 20


@dataclass(frozen=True)
class Watched:
    """A file, folder or pattern, and how it is looked at: ``bytes``, ``names``, ``stats``, ``tree`` or ``glob``."""

    path: str
    how: str


def watch_coco(_: DataDescription, split: Split, index: DatasetIndex) -> list[Watched]:
    """The JSON, and the folders of the images it names; sizes of files too where one was read from an image."""
    how = "stats" if index.measured else "names"
    return [Watched(str(split.annotations), "bytes"), *(Watched(f, how) for f in _image_folders(split, index))]


def watch_yolo(_: DataDescription, split: Split, index: DatasetIndex) -> list[Watched]:
    """Folders of images and labels with all below; for lists of images the list and the folders it leads to.

    A pattern such as ``images/*/a*.jpg`` counts as the folder before its first wildcard.
    """
    named = [place for place in split.images if place.suffix == ".txt"]
    lists = sorted({file for place in named for file in matches(place, split)})
    images = [place for place in split.images if place.suffix != ".txt"]
    trees = [str(_before_wildcard(place)) for place in images]
    found = [Watched(tree, "tree") for tree in _with_labels(trees)] + [Watched(file, "bytes") for file in lists]
    found += [Watched(str(place), "glob") for place in named if not place.is_file()]
    if lists:
        folders = _with_labels(_image_folders(Split(()), index))
        found += [Watched(folder, "stats") for folder in folders]
    return found


def watch_voc(description: DataDescription, split: Split, _: DatasetIndex) -> list[Watched]:
    """The folders of XML files, images and lists with all below, and lists that lie elsewhere."""
    parts = voc_parts(description, split)
    folders = {path for part in parts for path in (part.path, part.images, part.annotations) if path is not None}
    lists = {part.path / part.list for part in parts if part.list is not None and part.list.endswith(".txt")}
    return [Watched(f, "tree") for f in sorted(map(str, folders))] + [
        Watched(f, "bytes") for f in sorted(map(str, lists))
    ]


def voc_parts(description: DataDescription, split: Split) -> list[VocPart]:
    """The parts of a VOC split and, where nobody names the classes, those that they are taken from."""
    train = description.splits.get("train")
    return [*split.parts, *(train.parts if train is not None and description.names is None else ())]


#: format -> what its index depends on. A format that is not named here is read anew each time.
WATCH: dict[str, Callable[[DataDescription, Split, DatasetIndex], list[Watched]]] = {
    "coco": watch_coco,
    "lvis": watch_coco,
    "yolo": watch_yolo,
    "voc": watch_voc,
}


def take_record(watched: list[Watched], digests: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Digests and stats of all that is watched, as plain values.

    Args:
        digests: path -> digest of its bytes, where that is known already.

    Raises:
        OSError: something cannot be read.
    """
    known = digests or {}
    return [_entry(w.path, w.how, known.get(w.path) if w.how == "bytes" else None) for w in watched]


def _entry(path: str, how: str, digest: str | None) -> dict[str, Any]:
    now = time.time_ns()
    return {
        "path": path,
        "how": how,
        "time": now,
        "stat": _stat(path) if how == "bytes" else [],
        "digest": digest or _digest(path, how),
    }


def same(record: list[dict[str, Any]]) -> bool:
    """Whether everything on record is as it was."""
    try:
        return all(_same(entry) for entry in record)
    except OSError:
        return False


def glance(split: Split) -> list[list[int] | None]:
    """Stats of what a description names, to tell after a reading whether it was changed meanwhile."""
    paths = [*split.images, *([split.annotations] if split.annotations else [])]
    return [_stat(str(path)) if path.exists() else None for path in paths]


def _same(entry: dict[str, Any]) -> bool:
    path, how, stat = entry["path"], entry["how"], entry["stat"]
    if how == "bytes" and _stat(path) == stat and max(stat[1:3]) < entry["time"] - _GRAIN:
        return True
    return bool(_digest(path, how) == entry["digest"])


def _stat(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def digest_of_bytes(path: str) -> str:
    """SHA-256 of a file's content."""
    return _digest(path, "bytes")


def _digest(path: str, how: str) -> str:
    state = hashlib.sha256()
    for piece in _bytes(path) if how == "bytes" else _entries(path, how):
        state.update(piece)
    return state.hexdigest()


def _bytes(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _entries(path: str, how: str) -> Iterator[bytes]:
    """Names in a folder, sorted, each with what else counts. A folder that is missing is an empty one."""
    if how == "glob":
        yield "\0".join(sorted(glob.glob(path, recursive=True))).encode("utf-8", "surrogateescape")
        return
    if not os.path.isdir(path):
        return
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    if how == "names":
        yield "\0".join(entry.name for entry in entries).encode("utf-8", "surrogateescape")
        return
    for entry in entries:
        name = entry.name.encode("utf-8", "surrogateescape")
        if entry.is_dir():
            yield b"\0/" + name
            yield from _entries(entry.path, how) if how == "tree" else ()
            yield b"\0.."
        else:
            stat = entry.stat() if os.path.exists(entry.path) else None
            yield b"\0" + name + (b"" if stat is None else f"\0{stat.st_size} {stat.st_mtime_ns}".encode())


def _before_wildcard(place: Path) -> Path:
    whole = [part for part in (place, *place.parents) if not set("*?[") & set(str(part))]
    return whole[0] if whole else Path()


def _image_folders(split: Split, index: DatasetIndex) -> list[str]:
    named = [str(place) for place in split.images]
    missing = [problem.file for problem in index.problems if problem.kind == "image"]
    folders = {os.path.dirname(file) for file in (*index.files, *missing)}
    return sorted({*named, *folders} - {""})


def _with_labels(folders: list[str]) -> list[str]:
    labels = [str(Path(label_file(os.path.join(folder, "x.jpg"))).parent) for folder in folders]
    return sorted({*folders, *labels})
