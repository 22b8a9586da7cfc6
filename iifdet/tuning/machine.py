"""Which process of which machine, and whether it still lives."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@functools.cache
def here() -> str:
    """This machine since its last start, as far as process numbers mean the same: containers count as machines."""
    parts = [socket.gethostname()]
    for path, read in (("/proc/sys/kernel/random/boot_id", _first_line), ("/proc/self/ns/pid", os.readlink)):
        try:
            parts.append(read(path))
        except OSError:  # not Linux: the name has to do
            continue
    return "/".join(part.replace(" ", "") for part in parts)


@dataclass(frozen=True)
class Owner:
    """A process that other ones may ask about.

    Attributes:
        machine: what :func:`here` says there.
        pid: its number.
        started: when it started, in the system's own unit, so that a later process of this number is another one.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        return cls(here(), os.getpid(), _started(os.getpid()) or "")

    @classmethod
    def parse(cls, text: object) -> Owner | None:
        """What ``str(owner)`` gave; None for anything else."""
        parts = str(text).split(" ")
        return cls(parts[0], int(parts[1]), parts[2]) if len(parts) == 3 and parts[1].isdecimal() else None

    def __str__(self) -> str:
        return f"{self.machine} {self.pid} {self.started}"

    def is_dead(self) -> bool:
        """Whether it has certainly ended. Of another machine's processes nothing is known, so they are not."""
        return self.machine == here() and _started(self.pid) != self.started


def _started(pid: int) -> str | None:
    """When a process started; None when there is none of this number, or one that only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # not Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _first_line(path: str) -> str:
    return Path(path).read_text().strip()
