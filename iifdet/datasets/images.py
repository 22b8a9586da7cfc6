"""Read image files: pixels as 8-bit RGB, turned the way people see them, and sizes from the header alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
_ORIENTATION = 0x0112
_WIDTH, _HEIGHT = 256, 257
#: Threads that read image files; decoding lets go of the interpreter.
THREADS = 8
#: OpenCV before 4.11 only knows the other order of colours.
_READS_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")
_COLOUR = cv2.IMREAD_COLOR_RGB if _READS_RGB else cv2.IMREAD_COLOR


class ImageError(OSError):
    """An image file that cannot be read; the message names the file and the reason."""


def read_image(path: str | os.PathLike[str], *, orient: bool = True) -> NDArray[np.uint8]:
    """Read (H, W, 3) uint8 RGB.

    EXIF orientation is applied (unless ``orient=False``), grey and palette images become RGB, 16-bit ones keep their
    upper 8 bits, an alpha channel is dropped as other detection tools do.

    Raises:
        ImageError: the file is missing, not an image, or cut short. OpenCV itself would paint the missing part of a
            truncated JPEG grey and say nothing.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{path}: {reason}") from error
    return decode_image(data, path, orient=orient)


def decode_image(data: bytes, path: str | os.PathLike[str], *, orient: bool = True) -> NDArray[np.uint8]:
    """The same from a file's bytes; ``path`` is what errors call it.

    Raises:
        ImageError: as :func:`read_image`.
    """
    fault = _truncation(data)
    if fault:
        raise ImageError(f"{path}: {fault}")
    flags = _COLOUR if orient else _COLOUR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{path}: {' '.join(str(error).split())}") from error
    if image is None:
        raise ImageError(f"{path}: not an image that OpenCV can decode")
    if not _READS_RGB:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.asarray(image, dtype=np.uint8)


def _truncation(data: bytes) -> str | None:
    """Say what is missing from an empty file, or from a JPEG or PNG without its end marker."""
    if not data:
        return "empty file"
    if data.startswith(b"\xff\xd8"):
        # Both markers occur in an embedded thumbnail too, so the end must come after the last scan's start.
        return None if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") else "truncated JPEG"
    if data.startswith(b"\x89PNG"):
        return None if data.rfind(b"IEND") > 0 else "truncated PNG"
    return None


def image_size(path: str | os.PathLike[str], *, orient: bool = True, data: bytes | None = None) -> tuple[int, int]:
    """Return (height, width) as displayed (as stored with ``orient=False``), from the header alone.

    Args:
        path: the file, or what errors call it where its bytes are given.
        orient: apply the EXIF orientation.
        data: the file's bytes.

    Raises:
        ImageError: no readable header.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path if data is None else BytesIO(data)) as image:
            width, height = image.size
            if image.format == "TIFF":  # Pillow's size is turned already in some versions
                width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]  # type: ignore[attr-defined]
            turned = orient and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(f"{path}: {reason}") from error
    return (width, height) if turned else (height, width)


def image_sizes(files: Sequence[str]) -> tuple[NDArray[np.int32], dict[int, str]]:
    """Sizes of many files, read in threads.

    Returns:
        (N, 2) int32 height and width, 0 where unreadable, and row -> reason for the unreadable ones.
    """

    def size(file: str) -> tuple[int, int] | str:
        try:
            return image_size(file)
        except ImageError as error:
            return str(error).removeprefix(f"{file}: ")

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(size, files))
    faults = {row: value for row, value in enumerate(found) if isinstance(value, str)}
    sizes = np.array([(0, 0) if isinstance(value, str) else value for value in found], dtype=np.int32)
    return sizes.reshape(-1, 2), faults


def existing(files: Iterable[str]) -> NDArray[np.bool_]:
    """Which files exist, with one listing a folder instead of one stat call a file."""
    listings: dict[str, set[str]] = {}
    found = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listings:
            listings[folder] = _listing(folder)
        found.append(name in listings[folder])
    return np.array(found, dtype=bool)


def _listing(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):
        return set()
