"""Keep indexes on disk between runs: ``${IIFDET_CACHE_DIR:-~/.cache/iifdet}/index``.

One file for each question (format, places, class names, masks or not, version of the readers), so that an index that
has gone stale is replaced and not added to. The file says what it was made from; :mod:`iifdet.datasets.watching` tells
whether that is still so. Files are written beside and renamed: whoever reads gets a whole one, whoever writes last
wins. Large ones are written in the background. What cannot be read is made anew, what cannot be written is not kept;
neither is an error.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from iifdet.datasets.description import DataDescription, Split
from iifdet.datasets.index import DatasetIndex
from iifdet.datasets.index_store import StoredArrays, read_extra, read_index, write_index
from iifdet.datasets.watching import WATCH, digest_of_bytes, glance, same, take_record, voc_parts
from iifdet.files import atomic_write

logger = logging.getLogger("iifdet")

#: An index of at least so many bytes is written while its reader already goes on; that is seconds where disks are slow.
BESIDE_FROM = 1 << 25
#: Changes whenever a reader gives another index for the same files.
VERSION = 2


def cached_index(
    read: Callable[[], DatasetIndex], description: DataDescription, split: Split, *, segments: bool
) -> DatasetIndex:
    """The index of a split from the cache, or as ``read`` gives it, kept for the next time."""
    if description.format not in WATCH:
        return read()
    file = cache_file(description, split, segments=segments)
    found = _load(file)
    if found is not None:
        return found
    before = glance(split)
    beside = ThreadPoolExecutor(1, "index-cache")  # hashing and writing let go of the interpreter
    try:
        digest = None if split.annotations is None else beside.submit(digest_of_bytes, str(split.annotations))
        index = read()
        kept = beside.submit(_store, file, index, description, split, digest, before)
        if _bytes_of(index) < BESIDE_FROM:
            kept.result()
    finally:
        beside.shutdown(wait=False)  # what is still being written is waited for when the program ends
    return index


def _bytes_of(index: DatasetIndex) -> int:
    return index.boxes.nbytes + (0 if index.segments is None else index.segments.points.nbytes)


def cache_folder() -> Path:
    """Where indexes are kept."""
    return Path(os.environ.get("IIFDET_CACHE_DIR") or "~/.cache/iifdet").expanduser() / "index"


def cache_file(description: DataDescription, split: Split, *, segments: bool) -> Path:
    """The file of one question."""
    places = [str(path) for path in (*split.images, split.annotations)]
    parts = [repr(part) for part in voc_parts(description, split)]
    here = (description.format, str(description.root), places, parts, description.names, description.allow_outside)
    question = repr((VERSION, *here, segments))
    return cache_folder() / f"{hashlib.sha256(question.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"


def _load(file: Path) -> DatasetIndex | None:
    """The index in a cache file; None where there is none, or where it is out of date or damaged."""
    if not file.is_file():
        return None
    try:
        with StoredArrays(file) as stored:
            if not same(read_extra(stored)["record"]):
                logger.info("index cache: the data have changed, reading them again (%s)", file)
                return None
            return read_index(stored)
    except (
        Exception
    ) as error:  # A damaged zip archive raises almost anything; whatever it is, the data are still there.
        logger.info("index cache: %s cannot be used (%s), reading the data again", file, type(error).__name__)
        return None


def _store(
    file: Path,
    index: DatasetIndex,
    description: DataDescription,
    split: Split,
    digest: Future[str] | None,
    before: list[list[int] | None],
) -> None:
    """Keep an index, unless the data have changed since ``before``: then nobody knows what it was made from."""
    try:
        known = {} if digest is None else {str(split.annotations): digest.result()}
        record = take_record(WATCH[description.format](description, split, index), known)
        if glance(split) == before:
            with atomic_write(file, sync=False) as out:
                write_index(out, index, {"record": record})
    except (OSError, ValueError) as error:
        logger.info("index cache: %s cannot be written (%s)", file, error)
