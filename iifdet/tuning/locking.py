"""The lock of a journal: one process writes at a time, on shared disks too, and a dead one holds nobody up."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock

from iifdet.tuning.machine import Owner

log = logging.getLogger("iifdet")

#: Seconds after which the lock of a process whose life nobody here can judge is broken. A write takes milliseconds.
GRACE = 30.0
#: The longest pause between two tries, seconds.
PAUSE = 0.05


class OwnedLock(JournalFileSymlinkLock):
    """A symbolic link that points to its owner's name: made in one step by the file system, NFS included.

    Optuna's own locks make everybody wait half a minute for a process that was killed while it wrote. Here whoever is
    on the same machine sees that the owner is dead and takes the lock away.
    """

    def __init__(self, path: str | Path, grace: float = GRACE) -> None:
        super().__init__(str(path))
        self.link, self.grace = f"{path}.lock", grace

    def acquire(self) -> bool:
        """Wait for the lock."""
        pause, seen, since = 0.0005, "", time.monotonic()
        while True:
            try:
                os.symlink(str(Owner.current()), self.link)
                return True
            except FileExistsError:
                held_by = self._held_by()
            if held_by != seen:
                seen, since = held_by, time.monotonic()
            owner = Owner.parse(held_by)
            if (owner is not None and owner.is_dead()) or time.monotonic() - since > self.grace:
                self._break(held_by)
                continue
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(FileNotFoundError):  # taken for dead by another machine
            os.unlink(self.link)

    def _held_by(self) -> str:
        try:
            return os.readlink(self.link)
        except OSError:  # given back just now
            return ""

    def _break(self, held_by: str) -> None:
        """Remove the lock if it is still the same one; processes of this machine do so one after another."""
        with self._alone():
            if held_by and self._held_by() == held_by:
                log.warning("%s: taken from a process that has ended or does not move", self.link)
                self.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        import fcntl

        name = hashlib.sha256(os.path.abspath(self.link).encode()).hexdigest()[:16]
        with open(Path(tempfile.gettempdir()) / f"iifdet-{os.getuid()}-{name}.lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
