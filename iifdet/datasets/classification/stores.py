"""Where the files of a data set lie: a folder, or a zip file that nobody unpacks."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from iifdet.datasets.images import ImageError, existing
from iifdet.errors import InputError

#: No image is larger than this; a member of a zip file may say that it is.
_MOST_BYTES = 1 << 30


class Store(Protocol):
    """Files by their names relative to the store, with ``/`` between folders."""

    @property
    def path(self) -> Path:
        """What messages call it."""
        ...

    def files(self, prefix: str) -> list[str]:
        """All files below a folder of the store, sorted by name.

        Raises:
            InputError: there is no such folder.
        """
        ...

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly in a folder of the store, also of empty ones.

        Raises:
            InputError: there is no such folder.
        """
        ...

    def missing(self, names: Sequence[str]) -> list[int]:
        """Rows of the names that are not there."""
        ...

    def read(self, name: str) -> bytes:
        """One file.

        Raises:
            ImageError: it is missing or damaged.
        """
        ...


class FolderStore:
    """A folder; a name that is an absolute path stands for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, prefix: str) -> list[str]:
        top = self.path / prefix
        if not top.is_dir():
            raise InputError(f"expected the folder {top}, which does not exist")
        names = []
        for folder, below, files in os.walk(top, followlinks=True):
            below.sort()
            inside = PurePosixPath(os.path.relpath(folder, self.path).replace(os.sep, "/"))
            names += [str(inside / file) for file in files]
        return sorted(names)

    def folders(self, prefix: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.path / prefix) if entry.is_dir())
        except OSError as error:
            raise InputError(f"expected the folder {self.path / prefix}, got {error.strerror}") from error

    def missing(self, names: Sequence[str]) -> list[int]:
        found = existing(os.path.join(self.path, name) for name in names)
        return [row for row, here in enumerate(found.tolist()) if not here]

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ImageError(f"{self.path / name}: {reason}") from error


class ZipStore:
    """A zip file, opened anew in each process that reads from it, since a shared file has one position.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        members = self._archive().namelist()
        self._names = sorted(name for name in members if not name.endswith("/"))
        self._folders = [name.rstrip("/") for name in members if name.endswith("/")]
        self._known = set(self._names)

    def files(self, prefix: str) -> list[str]:
        start = _start(prefix)
        names = [name for name in self._names if name.startswith(start)]
        if start and not names:
            raise InputError(f"expected the folder {prefix} in {self.path}, which is not there")
        return names

    def folders(self, prefix: str) -> list[str]:
        start = _start(prefix)
        deep = [name for name in self.files(prefix) if "/" in name[len(start) :]]
        named = [name for name in self._folders if name.startswith(start)]
        return sorted({name[len(start) :].split("/")[0] for name in (*deep, *named)})

    def missing(self, names: Sequence[str]) -> list[int]:
        return [row for row, name in enumerate(names) if name not in self._known]

    def read(self, name: str) -> bytes:
        try:
            archive = self._archive()
            info = archive.getinfo(name)
            if info.file_size > _MOST_BYTES:
                raise ImageError(f"{self.path}/{name}: expected at most {_MOST_BYTES} bytes, got {info.file_size}")
            return archive.read(info)
        except KeyError as error:
            raise ImageError(f"{self.path}/{name}: No such file in the archive") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise ImageError(f"{self.path}/{name}: damaged or encrypted ({' '.join(str(error).split())})") from error

    def _archive(self) -> zipfile.ZipFile:
        opened: tuple[int, zipfile.ZipFile] | None = self.__dict__.get("_opened")
        if opened is None or opened[0] != os.getpid():
            try:
                opened = os.getpid(), zipfile.ZipFile(self.path)
            except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                reason = getattr(error, "strerror", None) or " ".join(str(error).split())
                raise InputError(
                    f"{self.path}: expected a zip file, got one that does not open ({reason}); get it anew, or unpack "
                    "it and give the folder"
                ) from error
            self._opened = opened
        return opened[1]

    def __getstate__(self) -> dict[str, Any]:
        """Sent to a worker without the open file."""
        return {key: value for key, value in self.__dict__.items() if key != "_opened"}


def _start(prefix: str) -> str:
    return "" if prefix in ("", ".") else prefix.rstrip("/") + "/"


def open_store(path: Path, hint: str) -> Store:
    """The store at ``path``.

    Raises:
        InputError: nothing is there, or neither a folder nor a zip file.
    """
    if path.is_dir():
        return FolderStore(path)
    if not path.exists():
        raise InputError(f"path: expected the folder or zip file {path}, which does not exist; {hint}")
    return ZipStore(path)


def read_text(store: Store, name: str, what: str, hint: str) -> str:
    """A text file of the store, such as a list or JSON.

    Raises:
        InputError: it is missing or no text.
    """
    try:
        return store.read(name).decode("utf-8-sig")
    except ImageError as error:
        raise InputError(f"{what}: expected a readable file, got {error}; {hint}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: expected text, got {store.path / name}, which is not UTF-8; check it") from error
