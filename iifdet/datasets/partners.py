"""Which images a mosaic takes beside its own: those that the same worker has read lately.

A mosaic of any four images would read four files a sample. Here the other three come from the batch itself and from the
batches before it in its lane, which one worker of a loader makes one after the other where the number of workers
divides LANES: it keeps few images and reads one a sample. Which images these are hangs on the order of the epoch and on
the batches alone: another number of workers makes the same samples, and so do W processes in place of one that
accumulates W of their batches. They are images that the sampling has drawn, so a repeated image is in more mosaics too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from iifdet.datasets.resizing import Image

#: Lanes of a process. Its batches take turns in them, those of one optimizer step each in lanes of their own.
LANES = 8
#: Images to choose from, as far as two epochs of a lane have them: at least so many, and so many batches.
WINDOW, BATCHES = 64, 4
#: Epochs of up to so many images are chosen from as a whole.
SMALL = LANES * WINDOW
#: Bytes of images that the workers of one process keep together, at the most.
BYTES = 2 << 30

Rows = NDArray[np.int64]


class Pool(NamedTuple):
    """What a batch may take its partners from.

    Attributes:
        rows: of the data set, sorted, each as often as it was drawn; none of them for any of the data set's.
        lanes: how many lanes the process has that keep as many.
    """

    rows: tuple[int, ...] = ()
    lanes: int = 1


class Lanes:
    """The pools of an epoch's batches.

    Args:
        now: the rows of each batch of all processes, in the order in which one process would have them.
        before: those of the epoch before. Ahead of the first epoch that is one that never was: its images are read once
            more, and the first mosaics are as varied as all others.
        together: batches of one optimizer step, over all processes.
        own: those of them that this process makes.

    Example:
        >>> batches = [np.arange(n, n + 16) for n in range(0, 1600, 16)]
        >>> sorted({row // 16 for row in Lanes(batches, batches, 1, 1).pool(50).rows})  # the batches of these rows
        [26, 34, 42, 50]
    """

    def __init__(self, now: Sequence[Rows], before: Sequence[Rows], together: int, own: int) -> None:
        self.now, self.before = now, before
        self.apart, self.lanes = LANES * together, LANES * own
        self.enough = max(WINDOW, BATCHES * len(now[0]))
        self._whole = Pool(_sorted(now)) if sum(map(len, now)) <= SMALL else None
        self._number, self._pool = -1, Pool()

    def pool(self, number: int) -> Pool:
        """That of a batch, by its place among all processes' batches."""
        if self._whole is not None:
            return self._whole
        if number != self._number:
            self._number, self._pool = number, Pool(self._recent(min(number, len(self.now) - 1)), self.lanes)
        return self._pool

    def _recent(self, number: int) -> tuple[int, ...]:
        chosen: list[Rows] = []
        missing = self.enough
        for rows in self._lane(number):
            chosen.append(rows)
            missing -= len(rows)
            if missing <= 0:
                break
        return _sorted(chosen)

    def _lane(self, number: int) -> Iterator[Rows]:
        """A batch's rows and those of the batches before it. A loader begins each epoch anew with its first worker."""
        last = len(self.before) - 1
        yield from (self.now[n] for n in range(number, -1, -self.apart))
        yield from (self.before[n] for n in range(last - (last - number) % self.apart, -1, -self.apart))


def _sorted(batches: Sequence[Rows]) -> tuple[int, ...]:
    return tuple(np.sort(np.concatenate(batches)).tolist())


def others(rng: np.random.Generator, rows: Sequence[int], length: int, row: int, count: int) -> Rows:
    """``count`` rows drawn evenly, repeats allowed, from all of ``rows`` but this one.

    Where that leaves none, from all ``length`` rows of the data set but this one; the row itself where there is no
    other at all.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> set(others(rng, (4, 7, 7), 9, 4, 50).tolist()), set(others(rng, (), 3, 1, 50).tolist())
        ({7}, {0, 2})
    """
    found = np.array(rows, dtype=np.int64)
    found = found[found != row]
    if len(found):
        return np.asarray(found[rng.integers(0, len(found), count)])
    if length == 1:
        return np.zeros(count, dtype=np.int64)
    drawn = rng.integers(0, length - 1, count)
    return drawn + (drawn >= row)


class RecentImages:
    """The images that came in last, before whatever reads them; the first to come is the first to go."""

    def __init__(self, read: Callable[[int], Image]) -> None:
        self.read = read
        self._images: dict[int, Image] = {}
        self._room = self._bytes = self._most = 0

    def make_room(self, pool: Pool) -> None:
        """Keep what this worker's lanes need, and a quarter more; nothing without a pool."""
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        self._room, self._most = len(pool.rows) * -(-pool.lanes // workers) * 5 // 4, BYTES // workers
        self._drop()

    def __len__(self) -> int:
        return len(self._images)

    def __call__(self, row: int) -> Image:
        image = self._images.get(row)
        if image is None:
            image = self._images[row] = self.read(row)
            self._bytes += image.nbytes
            self._drop()
        return image

    def _drop(self) -> None:
        while self._images and (len(self._images) > self._room or self._bytes > self._most):
            self._bytes -= self._images.pop(next(iter(self._images))).nbytes

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process starts with: nothing kept."""
        return {**self.__dict__, "_images": {}, "_bytes": 0}
