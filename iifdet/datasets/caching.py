"""Decoded images at tensor size, kept in memory or in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from iifdet.datasets.images import ImageError
from iifdet.datasets.resizing import Image
from iifdet.errors import InputError, suggest

logger = logging.getLogger("iifdet")

CACHES = ("ram", "disk")
#: Share of the machine's free memory, or of the free disk space, that a cache may take.
SHARE = 0.5
#: Part of every file's name: another value, and nobody reads what an older version wrote.
_VERSION = "2"

Shape = tuple[int, int]
#: Reads and resizes the image of a row. Raises ImageError.
Decode = Callable[[int], Image]


def make_cache(kind: str | bool | None, decode: Decode, files: Sequence[str], shapes: Sequence[Shape]) -> Decode:
    """A cache before ``decode``; ``decode`` itself where ``kind`` is none or there is no room for one.

    Args:
        kind: ``ram`` (every image is decoded now), ``disk`` (each is when it is first needed), or None or False.
        decode: gives (h, w, 3) uint8 of a row.
        files: the image file of each row.
        shapes: (h, w) that ``decode`` gives for each row.

    Raises:
        InputError: another kind.
    """
    if not kind:
        return decode
    if kind not in CACHES:
        raise InputError(f"cache: expected ram, disk or False, got '{kind}'{suggest(str(kind), CACHES)}")
    try:
        return RamCache(decode, shapes) if kind == "ram" else DiskCache(decode, files, shapes)
    except OSError as error:
        logger.warning("cache=%s: %s; not cached", kind, error)
        return decode


class RamCache:
    """All images in memory, decoded in threads. What cannot be read is tried, and reported, when its turn comes.

    Raises:
        OSError: they would not fit.
    """

    def __init__(self, decode: Decode, shapes: Sequence[Shape]) -> None:
        _check_room(_bytes(shapes), _free_memory())
        self.decode = decode

        def load(row: int) -> Image | None:
            try:
                return decode(row)
            except ImageError:
                return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.images = list(pool.map(load, range(len(shapes))))

    def __call__(self, row: int) -> Image:
        found = self.images[row]
        return self.decode(row) if found is None else found


class DiskCache:
    """One .npy file an image under :func:`cache_folder`, written when the image is first needed.

    A file's name is a hash of the image file's path, size and time of change and of the shape, so that a changed image
    or another ``imgsz`` has a file of its own. Files are written beside and renamed: any number of processes may share
    the folder. A file that does not hold what it should is written anew. Nothing is ever deleted here.

    Raises:
        OSError: they would not fit, or the folder cannot be made.
    """

    def __init__(self, decode: Decode, files: Sequence[str], shapes: Sequence[Shape]) -> None:
        self.decode, self.files, self.shapes = decode, files, shapes
        self.folder = cache_folder() / "images"
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [shape for row, shape in enumerate(shapes) if not self._exists(row)]
        _check_room(_bytes(missing), float(shutil.disk_usage(self.folder).free))
        self._said = False

    def __call__(self, row: int) -> Image:
        path = self.path(row)
        if path is None:
            return self.decode(row)  # which says what is wrong with the file
        image = read_array(path, (*self.shapes[row], 3))
        if image is None:
            image = self.decode(row)
            self._write(path, image)
        return image

    def path(self, row: int) -> Path | None:
        """File of a row; None where its image file is gone."""
        try:
            state = os.stat(self.files[row])
        except (OSError, ValueError):
            return None
        height, width = self.shapes[row]
        identity = (os.path.abspath(self.files[row]), state.st_size, state.st_mtime_ns, height, width, _VERSION)
        name = hashlib.sha256("\0".join(map(str, identity)).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / name[:2] / f"{name[2:40]}.npy"  # 256 folders: large ones are slow

    def _exists(self, row: int) -> bool:
        path = self.path(row)
        return path is not None and path.is_file()

    def _write(self, path: Path, image: Image) -> None:
        try:
            write_array(path, image)
        except OSError as error:  # a full disk must not end a run
            if not self._said:
                logger.warning("cache=disk: %s; goes on without", error)
            self._said = True


def cache_folder() -> Path:
    """``$IIFDET_CACHE_DIR``, or ``~/.cache/iifdet``."""
    return Path(os.environ.get("IIFDET_CACHE_DIR") or Path.home() / ".cache" / "iifdet")


def write_array(path: Path, array: Image) -> None:
    """Write a .npy file with a checksum after it, beside and renamed.

    It is not forced to the disk, which would take longer than decoding the image again: after a power cut the checksum
    tells.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.write(_checksum(array))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_array(path: Path, shape: tuple[int, ...]) -> Image | None:
    """Read what :func:`write_array` wrote; None where there is no such file, or not one of this shape."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            checksum = file.read()
    except (OSError, ValueError, EOFError):
        return None
    sound = array.dtype == np.uint8 and array.shape == shape and checksum == _checksum(array)
    return array if sound else None


def _checksum(array: Image) -> bytes:
    return zlib.crc32(np.ascontiguousarray(array).data).to_bytes(4, "little")


def _bytes(shapes: Sequence[Shape]) -> int:
    return sum(height * width * 3 for height, width in shapes)


def _check_room(need: float, free: float) -> None:
    if need > free * SHARE:
        raise OSError(f"{need / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")


def _free_memory() -> float:
    """Bytes that a program may take. Linux's free pages leave out those that hold files and would be given up."""
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")
