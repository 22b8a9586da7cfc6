"""Names, files and lock of a run folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml

from iifdet.errors import InputError
from iifdet.files import atomic_write

#: Everything a run writes into its folder.
RUN_FILES = (
    "weights/*.pt",
    "args.yaml",
    "environment.json",
    "results.csv",
    "metrics.json",
    "per_class.csv",
    "predictions.json",
    "fixed_ap.npz",
    "*.png",
    "train_batch0.jpg",
    "val_batch0_*.jpg",
    "events.out.tfevents.*",
)


@dataclass(frozen=True)
class RunDir:
    """``<project>/<name>/`` with the files that a run leaves behind."""

    path: Path

    @classmethod
    def create(
        cls, verb: str, project: str | None, name: str | None, exist_ok: bool = False, *, key: str = "name"
    ) -> RunDir:
        """Make a new folder: name, name-2, … unless ``exist_ok``. Two runs at once never get the same one.

        Args:
            key: what errors call the name.
        """
        base, name = Path(project) if project else Path("runs") / verb, name or verb
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise InputError(f"{key}: expected a folder inside {base}, got '{name}'; use project= for another place")
        for attempt in range(1, 100_000):
            path = base / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                path.mkdir(parents=True, exist_ok=exist_ok)
            except FileExistsError as error:
                if exist_ok or not path.is_dir():
                    raise InputError(f"{key}: expected a folder, got the file {path}; choose another name") from error
                continue
            except OSError as error:
                raise InputError(f"project: cannot make {path} ({error.strerror}); choose another project=") from error
            return cls(path)
        raise InputError(f"{key}: expected a free name under {base}, got 100,000 taken ones; choose another name")

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.path / "weights" / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the latest: for when that one is damaged, or was written among bad steps."""
        return self.path / "weights" / "last.prev.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation score."""
        return self.path / "weights" / "best.pt"

    def lock(self) -> RunLock:
        """Hold the folder while a run lives.

        Raises:
            InputError: another living run holds it.
        """
        return RunLock(self.path / ".lock")

    def promote_previous(self) -> None:
        """Make the checkpoint before the latest the latest."""
        self.previous.replace(self.last)

    def clear(self) -> None:
        """Remove what an earlier run left here, so that nothing of it passes for this one's; other files stay."""
        for pattern in RUN_FILES:
            for file in self.path.glob(pattern):
                file.unlink()

    def sweep(self) -> None:
        """Remove what a killed process was writing: half a file of :func:`atomic_write`. Hold the lock for this."""
        for pattern in RUN_FILES:
            folder, slash, name = pattern.rpartition("/")
            for file in self.path.glob(f"{folder}{slash}.{name}.*"):
                file.unlink()

    def write_json(self, name: str, value: Any, indent: int | None = 1) -> Path:
        """Write JSON atomically; NaN is refused, because JSON has none."""
        return self.write_text(name, json.dumps(value, indent=indent, allow_nan=False) + "\n")

    def write_yaml(self, name: str, value: Any) -> Path:
        """Write YAML atomically."""
        return self.write_text(name, yaml.safe_dump(value, sort_keys=False))

    def write_rows(self, name: str, rows: list[dict[str, Any]], columns: list[str] | None = None) -> Path:
        """Write a CSV atomically; columns as given, or in order of first appearance."""
        columns = columns or list(dict.fromkeys(key for row in rows for key in row))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.write_text(name, buffer.getvalue())

    def write_text(self, name: str, text: str) -> Path:
        """Write text atomically."""
        with atomic_write(self.path / name) as file:
            file.write(text.encode())
        return self.path / name

    def write_environment(self) -> None:
        """Note versions and hardware, so that figures can be traced."""
        import torch
        import torch.distributed as dist
        import torchvision

        cuda = torch.cuda.is_available()
        self.write_json(
            "environment.json",
            {
                "iifdet": _version(),
                "python": sys.version.split()[0],
                "platform": platform.platform(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "threads": torch.get_num_threads(),
                "cpus": os.cpu_count(),
                "processes": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
                "device": torch.cuda.get_device_name() if cuda else "cpu",
            },
        )


def _version() -> str:
    try:
        return metadata.version("iifdet")
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "not installed"


class Onlooker(RunDir):
    """The folder as seen by a process that only reads there, while another one writes."""

    def lock(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Nothing to hold."""
        return contextlib.nullcontext()

    def promote_previous(self) -> None: ...
    def clear(self) -> None: ...
    def sweep(self) -> None: ...
    def write_environment(self) -> None: ...
    def write_text(self, name: str, text: str) -> Path:
        return self.path / name


#: Open lock files of this process. A forked worker would hold them on when this process is killed.
_held: set[IO[str]] = set()


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class RunLock:
    """An advisory lock on a file: the system lets go of it when the process dies, however it dies.

    The file is gone when the lock is let go of; a killed process leaves it, and it stands in nobody's way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> RunLock:
        self.file = self._locked()
        _held.add(self.file)
        return self

    def _locked(self) -> IO[str]:
        while True:
            file = self.path.open("a+")
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # no such locks on Windows: run without
                return file
            except OSError as error:
                file.close()
                raise InputError(
                    f"name: {self.path.parent} is in use by another run; wait, or choose another name"
                ) from error
            if self._is_there(file):
                return file
            file.close()  # whoever had it has just removed it; a lock on what has no name keeps nobody out

    def _is_there(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the folder is gone, or Windows, which removes no open file
            if self._is_there(self.file):
                self.path.unlink()
        _held.discard(self.file)
        self.file.close()
