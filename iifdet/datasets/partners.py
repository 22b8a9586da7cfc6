"""Which images a mosaic or mixup takes beside its own: those that the same worker has read lately.

A mosaic of any four images would read four files a sample. Here the other three come from the batch itself and from the
batches before it in its lane, every :data:`LANES`-th of the epoch, which one worker of a loader makes one after the
other where the number of workers divides LANES: it keeps few images and reads one a sample. Which images these are
hangs on the order of the epoch alone: another number of workers, or of processes that share the batches, makes the same
samples. They are images that the sampling has drawn, so a repeated image is in more mosaics too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from iifdet.datasets.resizing import Image

#: Batches so far apart share partners.
LANES = 8
#: Partners to choose from, at the least; an epoch of up to twice as many images is chosen from as a whole.
WINDOW = 64

Rows = NDArray[np.int64]


def partners(now: Sequence[Rows], before: Sequence[Rows], number: int) -> tuple[int, ...]:
    """Rows that the samples of a batch may take, sorted, as often as they were drawn.

    Args:
        now: the rows of each batch of the epoch.
        before: those of the epoch before, where there was one.
        number: of the batch.

    Example:
        >>> batches = [np.arange(n, n + 16) for n in range(0, 1600, 16)]
        >>> sorted({row // 16 for row in partners(batches, [], 50)})  # the batches of these rows
        [26, 34, 42, 50]
    """
    if sum(map(len, now[: 2 * WINDOW + 1])) <= 2 * WINDOW:
        return _sorted(now)
    chosen: list[Rows] = []
    # Workers begin each epoch anew with batch 0: a lane goes on with the same one.
    for rows in chain(reversed(now[number % LANES : number + 1 : LANES]), reversed(before[number % LANES :: LANES])):
        chosen.append(rows)
        if sum(map(len, chosen)) >= WINDOW:
            break
    return _sorted(chosen)


def _sorted(batches: Sequence[Rows]) -> tuple[int, ...]:
    return tuple(np.sort(np.concatenate(batches)).tolist())


def others(rng: np.random.Generator, pool: Sequence[int], length: int, row: int, count: int) -> NDArray[np.int64]:
    """``count`` rows drawn evenly, repeats allowed, from all of the pool but this one.

    Where that leaves none, from all ``length`` rows but this one; the row itself where there is no other at all.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> set(others(rng, (4, 7, 7), 9, 4, 50).tolist()), set(others(rng, (), 3, 1, 50).tolist())
        ({7}, {0, 2})
    """
    rows = np.array(pool, dtype=np.int64)
    rows = rows[rows != row]
    if len(rows):
        return np.asarray(rows[rng.integers(0, len(rows), count)])
    if length == 1:
        return np.zeros(count, dtype=np.int64)
    drawn = rng.integers(0, length - 1, count)
    return drawn + (drawn >= row)


class RecentImages:
    """The images that came in last, before whatever reads them; the first to come is the first to go."""

    def __init__(self, read: Callable[[int], Image]) -> None:
        self.read = read
        #: At most so many are kept.
        self.room = 0
        self._images: dict[int, Image] = {}

    def make_room(self, partners: int) -> None:
        """Room for this worker's lanes of so many partners each, and a quarter more."""
        worker = get_worker_info()
        lanes = -(-LANES // (1 if worker is None else worker.num_workers))
        self.room = max(self.room, partners * lanes * 5 // 4)

    def __call__(self, row: int) -> Image:
        image = self._images.get(row)
        if image is None:
            image = self._images[row] = self.read(row)
            while len(self._images) > self.room:
                del self._images[next(iter(self._images))]
        return image
