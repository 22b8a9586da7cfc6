"""What image files hold: whether they decode, their true size, and which of them are the same picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from iifdet.datasets.images import THREADS, ImageError, decode_image, image_size

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Content:
    """One image file.

    Attributes:
        fault: why it cannot be used, None where it can.
        displayed: height and width after the EXIF turn.
        stored: height and width as stored in the file.
        file_digest: hash of the file's bytes; nothing where pixels come without a file.
        pixel_digest: hash of the decoded pixels as displayed, and their shape; None where they were not decoded.
    """

    fault: str | None = None
    displayed: Size = (0, 0)
    stored: Size = (0, 0)
    file_digest: bytes = b""
    pixel_digest: bytes | None = None


def read_contents(
    files: Iterable[str],
    *,
    decode: bool = True,
    seen: Callable[[int], None] = lambda done: None,
    read: Callable[[str], bytes] = lambda file: Path(file).read_bytes(),
) -> dict[str, Content]:
    """Look into image files, in threads; a file that is named more than once is read once.

    Args:
        files: the image files.
        decode: really decode each. False takes sizes from the headers and hashes the bytes alone: a file that is cut
            short behind its header passes.
        seen: told how many are done, after each.
        read: a file's bytes by its name; OSError where there are none.
    """
    files = list(dict.fromkeys(files))
    found = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for file, content in zip(files, pool.map(lambda file: _content(file, decode, read), files), strict=True):
            found[file] = content
            seen(len(found))
    return found


def _content(file: str, decode: bool, read: Callable[[str], bytes]) -> Content:
    try:
        data = read(file)
    except (OSError, ValueError) as error:
        return Content(getattr(error, "strerror", None) or str(error).removeprefix(f"{file}: "))
    try:
        if not decode:
            return Content(None, image_size(file, data=data), image_size(file, orient=False, data=data), _digest(data))
        pixels = decode_image(data, file)
    except ImageError as error:
        return Content(str(error).removeprefix(f"{file}: "))
    displayed = stored = (pixels.shape[0], pixels.shape[1])
    with suppress(ImageError):  # OpenCV reads a few files whose header Pillow does not understand
        stored = image_size(file, orient=False, data=data)
    return Content(None, displayed, stored, _digest(data), digest_pixels(pixels))


def digest_pixels(pixels: Any) -> bytes:
    """Hash of an (H, W, 3) image and its shape."""
    return _digest(repr(pixels.shape).encode(), pixels.ravel())


def _digest(*parts: Any) -> bytes:
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.digest()


@dataclass(frozen=True, slots=True)
class Repetition:
    """A file that shows the same picture as an earlier one.

    Attributes:
        file, first: the two; the same one where a list names a file twice.
        how: what was found equal.
        rows: their places in their lists.
    """

    file: str
    first: str
    how: str
    rows: tuple[int, int]


def find_repetitions(firsts: Iterable[str], files: Iterable[str], contents: Mapping[str, Content]) -> list[Repetition]:
    """Files that show the same picture as one of ``firsts``, by their bytes, else by their decoded pixels.

    Equal pixels catch a picture that was saved again without loss, renamed, or given other metadata. A JPEG that was
    compressed anew has other pixels and is not found.

    Example:
        >>> same = {"a.png": Content(file_digest=b"1"), "b.png": Content(file_digest=b"1")}
        >>> find_repetitions(["a.png"], ["b.png"], same)
        [Repetition(file='b.png', first='a.png', how='equal bytes', rows=(0, 0))]
    """
    firsts = list(firsts)
    known: dict[tuple[str, bytes], int] = {}
    for row, file in enumerate(firsts):
        for key in _keys(contents[file]):
            known.setdefault(key, row)
    found = []
    for row, file in enumerate(files):
        hit = next((key for key in _keys(contents[file]) if key in known), None)
        if hit is not None:
            found.append(Repetition(file, firsts[known[hit]], hit[0], (row, known[hit])))
    return found


def find_repetitions_within(files: Iterable[str], contents: Mapping[str, Content]) -> list[Repetition]:
    """Each file that shows the same picture as an earlier one of the list, with the first of its kind."""
    files = list(files)
    known: dict[tuple[str, bytes], int] = {}
    found = []
    for row, file in enumerate(files):
        keys = _keys(contents[file])
        hit = next((key for key in keys if key in known), None)
        first = row if hit is None else known[hit]
        if hit is not None:
            found.append(Repetition(file, files[first], hit[0], (row, first)))
        for key in keys:
            known.setdefault(key, first)
    return found


def _keys(content: Content) -> list[tuple[str, bytes]]:
    """What a file is compared by, the strictest first."""
    if content.fault is not None:
        return []
    keys = [("equal bytes", content.file_digest)] if content.file_digest else []
    return keys if content.pixel_digest is None else [*keys, ("equal pixels", content.pixel_digest)]
