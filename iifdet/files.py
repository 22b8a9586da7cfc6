"""Writing files so that nobody ever reads half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


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
