"""What a user calls a source, as a stream of pictures that are read when their turn comes."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from iifdet.datasets import ImageError
from iifdet.datasets.listing import is_image, read_lines
from iifdet.errors import InputError
from iifdet.prediction.arrays import KINDS, Image, as_image, read_picture
from iifdet.prediction.fetching import fetch_image, is_url
from iifdet.prediction.videos import is_still, is_video, read_frames

EXPECTED = (
    "a file, folder, glob, .txt list, video, camera number, URL, numpy array, PIL image, tensor or a list of them"
)


class Entry(NamedTuple):
    """One file, camera, URL or array.

    Attributes:
        value: a path, a URL, a camera's number, or the array.
        stem: what its outputs are called, a relative path without a suffix.
        path: what messages and results call it.
    """

    value: Any
    stem: str
    path: str

    @property
    def is_file(self) -> bool:
        """Whether it is a file on this machine."""
        return isinstance(self.value, str) and not is_url(self.value)

    @property
    def moves(self) -> bool:
        """Whether it is a video or a camera, of which there are many pictures."""
        return isinstance(self.value, int) or (self.is_file and is_video(self.value) and not is_still(self.value))


@dataclass(slots=True)
class Item:
    """One picture to be: :attr:`read` gives (H, W, 3) uint8 RGB or raises an ImageError.

    Attributes:
        path, stem: of its entry.
        source: number of the entry, from 0; all frames of a video have the same.
        frame, fps: of a video or camera; None and 0 otherwise.
    """

    path: str
    stem: str
    read: Callable[[], Image]
    source: int = 0
    frame: int | None = None
    fps: float = 0.0


def list_source(source: Any) -> list[Entry]:
    """Resolve a source: a folder (with what is below it), glob or list to its files; nothing is opened yet.

    Raises:
        InputError: it is none of these, does not exist, or holds no image or video.
    """
    if isinstance(source, list | tuple):
        entries = [entry for part in source for entry in _entries(part, strict=False)]
    else:
        entries = _entries(source, strict=True)
    if not entries:
        raise InputError(f"source: expected images or videos, got none in {source!r}; check the path")
    return [e if e.path else e._replace(stem=f"image{i}", path=f"image{i}") for i, e in enumerate(entries)]


def is_endless(entries: Sequence[Entry]) -> bool:
    """Whether there is a camera among them."""
    return any(isinstance(entry.value, int) for entry in entries)


def is_one_picture(entries: Sequence[Entry]) -> bool:
    """Whether there is a single picture, and no video."""
    return len(entries) == 1 and not entries[0].moves


def read_source(entries: Sequence[Entry], stride: int = 1, most: int = 0) -> Iterator[Item]:
    """The pictures of all entries, one at a time.

    Args:
        stride: take every n-th frame of a video.
        most: at most so many frames of each video; 0 is all.
    """
    for number, entry in enumerate(entries):
        value = entry.value
        common: dict[str, Any] = {"path": entry.path, "stem": entry.stem, "source": number}
        if entry.moves:
            yield from _frames(value, stride, most, common)
        elif entry.is_file:
            yield Item(**common, read=partial(read_picture, value))
        elif isinstance(value, str):
            yield Item(**common, read=partial(fetch_image, value))
        else:
            yield Item(**common, read=partial(as_image, value))


def _frames(value: str | int, stride: int, most: int, common: dict[str, Any]) -> Iterator[Item]:
    try:
        for frame in read_frames(value, stride, most):
            item = Item(**common, read=partial(_given, frame.image), frame=frame.number, fps=frame.fps)
            del frame  # the reader must not wait with a frame in hand
            yield item
            del item
    except ImageError as error:
        yield Item(**common, read=partial(_fail, str(error)), frame=0)


def _given(image: Image) -> Image:
    return image


def _fail(message: str) -> Image:
    raise ImageError(message)


# -- one part of a source to entries -----------------------------------------------------------------------------------


def _entries(source: Any, strict: bool) -> list[Entry]:
    """Entries of one source that is no Python list; not ``strict``: what is missing is found out on reading."""
    if isinstance(source, KINDS):
        return _arrays(source)
    if isinstance(source, bool) or not isinstance(source, int | str | os.PathLike):
        raise InputError(f"source: expected {EXPECTED}, got {source!r}"[:300])
    text = str(source)
    if isinstance(source, int) or (text.isascii() and text.isdecimal() and not os.path.exists(text)):
        if int(text) < 0:
            raise InputError(f"source: expected a camera number from 0, got {text}")
        return [Entry(int(text), f"camera{text}", f"camera {text}")]
    return [_url(text)] if is_url(text) else _files(os.path.expanduser(text), strict)


def _arrays(source: Any) -> list[Entry]:
    if getattr(source, "ndim", 3) == 4:
        return [Entry(one, "", "") for one in source]
    name = str(getattr(source, "filename", "") or "")  # of a PIL image
    return [Entry(source, Path(name).stem, name)]


def _url(text: str) -> Entry:
    name = Path(unquote(urlsplit(text).path)).stem
    return Entry(text, re.sub(r"[^\w.-]+", "_", name)[:100] or "image", text)


def _files(text: str, strict: bool) -> list[Entry]:
    if os.path.isdir(text):
        return _folder(text)
    if text.endswith(".txt") and os.path.isfile(text):
        return _listed(Path(text))
    if not os.path.lexists(text) and glob.has_magic(text):
        found = sorted(f for f in glob.glob(text, recursive=True) if is_media(f) and os.path.isfile(f))
        if strict and not found:
            raise InputError(f"source: expected images or videos that match {text}, found none")
        return [_file(f) for f in found]
    if strict and not os.path.lexists(text):
        raise InputError(f"source: expected {EXPECTED}, got '{text}', which does not exist; check the path")
    return [_file(text)]


def is_media(file: str) -> bool:
    """Whether a file is called like an image or a video."""
    return is_image(file) or is_video(file)


def _file(path: str) -> Entry:
    stem = Path(path).stem
    return Entry(path, stem if stem.strip(".") else "image", path)


def _folder(folder: str) -> list[Entry]:
    """Images and videos at any depth; their outputs keep the folders between."""
    found = sorted(os.path.join(d, f) for d, _, names in os.walk(folder) for f in names if is_media(f))
    if not found:
        raise InputError(f"source: expected images or videos in {folder}, found none")
    return [Entry(f, os.path.splitext(os.path.relpath(f, folder))[0], f) for f in found]


def _listed(file: Path) -> list[Entry]:
    """One source a line; a relative path lies beside the list unless it exists as it stands."""
    entries: list[Entry] = []
    for line in read_lines(file):
        if is_url(line):
            entries.append(_url(line))
            continue
        beside = os.path.normpath(os.path.join(file.parent, os.path.expanduser(line)))
        here = not line.startswith("./") and os.path.exists(line)
        path = line if here else beside
        entries += [_file(path)] if path.endswith(".txt") else _files(path, strict=False)
    if not entries:
        raise InputError(f"source: expected a list of images in {file}, got an empty one")
    return entries
