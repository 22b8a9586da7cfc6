"""Read COCO JSON in pieces, so that a file of half a gigabyte never lies in memory as a whole.

Steps: 1) find the list of annotations 2) decode its rows, a few thousand at a time, into columns 3) decode the rest of
the document, which is small. Rows of the usual types are decoded straight into structs; a piece with any odd row goes
through the standard json module and is judged value by value. A file laid out in an unusual way is loaded whole.

Where to cut is a guess ("a brace, a comma, a brace"), and every wrong guess shows: what stands before a cut inside a
nested object has an open bracket, and before a cut inside a text an open quotation mark, so it is no complete JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from iifdet.datasets.box_columns import BoxColumns, BoxTable
from iifdet.datasets.columns import Row
from iifdet.datasets.image_columns import ImageColumns, ImageRow
from iifdet.errors import InputError

#: Bytes decoded at once. What becomes of them should fit a core's cache: at 2 MiB it takes twice the time.
PIECE = 1 << 17
_LONGEST = 1 << 26  # of one row
_TRIES = 3
_LIST = re.compile(rb'"annotations"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_END = re.compile(rb"\}\s*\]")
_EMPTY = re.compile(rb"\s*\]")


class CocoFile(NamedTuple):
    """A COCO file: images and annotations as columns, categories as they stand."""

    images: ImageColumns
    boxes: BoxColumns
    categories: list[Any]


class _UnusualError(Exception):
    """The file must be loaded whole."""


class _Rest(msgspec.Struct):
    images: list[ImageRow]
    categories: list[Any]
    annotations: list[Any]


def read_coco_json(file: Path, *, segments: bool = True) -> CocoFile:
    """Read a COCO or LVIS file.

    Args:
        file: the JSON file.
        segments: take the masks too.

    Raises:
        InputError: not complete JSON, or not a COCO file.
    """
    with contextlib.suppress(_UnusualError, OSError), _without_gc(), open(file, "rb") as stream:
        return _in_pieces(stream, segments)
    return whole_document(load_json(file), segments=segments)


def whole_document(document: Row, *, segments: bool = True) -> CocoFile:
    """The same from a document that is in memory already."""
    boxes = BoxTable(segments)
    boxes.add_objects(document["annotations"])
    return CocoFile(ImageColumns.from_objects(document["images"]), boxes.columns(), document["categories"])


def load_json(file: Path) -> Row:
    """Load a JSON object, or raise an InputError that says what is wrong with the file."""
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected complete JSON, got {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{file}: expected a COCO object with images, annotations and categories, got a {type(document).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            got = f"a {type(document[key]).__name__}" if key in document else "none"
            raise InputError(f"{file}: expected a list '{key}', got {got}; results files are not ground truth")
    return document


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Decoding makes millions of lists and no cycles; the collector would look through them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _in_pieces(stream: IO[bytes], segments: bool) -> CocoFile:
    head, buffer = _find_list(stream)
    boxes = BoxTable(segments)
    rest = head + b"]" + _read_rows(stream, buffer, boxes)
    if rest.count(b'"annotations"') != 1:
        raise _UnusualError  # an inner key of that name, or two lists of which the last one counts
    images, categories = _decode_rest(rest)
    return CocoFile(images, boxes.columns(), categories)


def _find_list(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """Read up to the list of annotations: what stands before it, bracket included, and what was read beyond."""
    head, searched = bytearray(), 0
    while True:
        block = stream.read(PIECE)
        head += block
        found = _LIST.search(head, searched)
        if found:
            end = found.end()
            return bytes(head[:end]), bytes(head[end:])
        if not block:
            raise _UnusualError
        searched = max(0, len(head) - 64)


def _read_rows(stream: IO[bytes], buffer: bytes, boxes: BoxTable) -> bytes:
    """Hand all rows to ``boxes``; return what follows the list's closing bracket."""
    empty, wanted = _EMPTY.match(buffer), PIECE
    if empty:
        return buffer[empty.end() :] + stream.read()
    while True:
        missing = wanted - len(buffer)
        block = stream.read(missing) if missing > 0 else b""
        buffer += block
        cut = _last_boundary(buffer)
        if cut is not None and boxes.add_text(b"[" + buffer[: cut[0]] + b"]"):
            buffer, wanted = buffer[cut[1] :], PIECE
            continue
        for end in _ends(buffer):
            if boxes.add_text(b"[" + buffer[: end[0]] + b"]"):
                return buffer[end[1] :] + stream.read()
        if len(block) < missing or len(buffer) > _LONGEST:
            raise _UnusualError
        wanted = 2 * len(buffer)


def _last_boundary(buffer: bytes) -> tuple[int, int] | None:
    """Where the last row but one seems to end, and where the last one begins."""
    for start in (max(0, len(buffer) - (PIECE >> 4)), 0):
        last = deque(_BETWEEN.finditer(buffer, start), maxlen=1)
        if last:
            return last[0].start() + 1, last[0].end() - 1
    return None


def _ends(buffer: bytes) -> Iterator[tuple[int, int]]:
    """Where the list of rows may end, and what follows it begin."""
    for number, found in enumerate(_END.finditer(buffer)):
        if number == _TRIES:
            return
        yield found.start() + 1, found.end()


def _decode_rest(rest: bytes) -> tuple[ImageColumns, list[Any]]:
    try:
        document = msgspec.json.decode(rest, type=_Rest)
        return ImageColumns.from_structs(document.images), document.categories
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        pass  # Odd images, or no COCO at all: the tolerant way finds out.
    try:
        loaded = json.loads(rest)
    except (ValueError, RecursionError) as error:
        raise _UnusualError from error
    keys = ("images", "annotations", "categories")
    if not (isinstance(loaded, dict) and all(isinstance(loaded.get(key), list) for key in keys)):
        raise _UnusualError
    if loaded["annotations"]:
        raise _UnusualError
    return ImageColumns.from_objects(loaded["images"]), loaded["categories"]
