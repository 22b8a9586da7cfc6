"""Writing files so that nobody ever reads half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.errors import InputError


@contextlib.contextmanager
def atomic_write(path: str | Path, *, sync: bool = True, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; on success sync and rename it there, on failure leave nothing behind.

    Args:
        sync: wait until the disk has it. Needless for what is checked on reading and can be made anew.
        previous: where the file that was at ``path`` stays, in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if previous is not None and path.is_file():
            _keep(path, previous)
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_image(path: str | Path, pixels: NDArray[np.uint8]) -> Path:
    """Write an (H, W, 3) RGB picture; the suffix names the format.

    Raises:
        InputError: an unknown suffix.
    """
    path = Path(path)
    try:
        _, data = cv2.imencode(path.suffix, pixels[..., ::-1])
    except cv2.error as error:
        raise InputError(f"save: expected a picture's suffix such as .jpg or .png, got '{path.name}'") from error
    with atomic_write(path, sync=False) as file:
        file.write(data.tobytes())
    return path


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that at every moment one of both names is a whole file."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment only the previous name is there
        os.replace(path, previous)
        return
    os.replace(link, previous)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's names, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        with contextlib.suppress(OSError):  # nor does every network file system sync them
            os.fsync(handle)
    finally:
        os.close(handle)
