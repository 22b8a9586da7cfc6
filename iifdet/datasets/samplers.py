"""Which image comes when. Samplers yield keys with the epoch in them, so that workers need no word about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from iifdet.datasets.partners import Lanes, Pool
from iifdet.datasets.sampling import Draw, uniform


class SampleKey(NamedTuple):
    """What a data set is asked for.

    Attributes:
        epoch: from 0.
        row: of the DatasetIndex.
        repeat: how many times the epoch has shown this row before, so that a repeated image is augmented anew.
        shape: (H, W) of the tensor, where batches differ in it; None for the transform's own size.
        pool: what a mosaic or mixup may take its other images from.
    """

    epoch: int
    row: int
    repeat: int = 0
    shape: tuple[int, int] | None = None
    pool: Pool = Pool()


class EpochSampler(Sampler[SampleKey]):
    """The keys of one epoch, in order or drawn from (seed, epoch), shared out among ranks.

    Ranks draw the same epoch and take turns, ``batch`` keys each, without overlap: so their batches are those that one
    process would have, one after the other. Where an epoch does not divide, its first keys fill up the last turn, and
    all ranks take as many keys.

    Args:
        length: rows of the data set.
        seed: of the run.
        shuffle: False takes every row once, in order.
        draw: rows of an epoch from a generator; every row once by default.
        rank, world_size: which share of the epoch this process takes.
        batch: keys a turn.
        together: keys that are not parted; so many divide ``batch`` and the rows of an epoch.
        pools: whether an epoch's keys have pools; none has without it.
        accumulate: batches of one process in an optimizer step, by which pools differ.

    Example:
        >>> sampler = EpochSampler(3, seed=0, shuffle=False)
        >>> sampler.set_epoch(2, start=1)
        >>> [key.row for key in sampler]
        [1, 2]
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        draw: Draw | None = None,
        rank: int = 0,
        world_size: int = 1,
        batch: int = 1,
        together: int = 1,
        pools: Callable[[int], bool] | None = None,
        accumulate: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0…{world_size - 1}, got {rank}")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.draw = draw or uniform(length)
        self.rank, self.world_size, self.batch = rank, world_size, batch
        self.pools, self.accumulate = pools, accumulate
        self.epoch = 0
        self.start = 0
        self.epoch_length = -(-len(self._rows(0)) // (world_size * together)) * together

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its keys to leave out because an interrupted run has seen them."""
        self.epoch = epoch
        self.start = min(start, self.epoch_length)

    def __len__(self) -> int:
        return self.epoch_length - self.start

    def __iter__(self) -> Iterator[SampleKey]:
        lanes = self._lanes() if self.pools is not None and self.pools(self.epoch) else None
        for place, (row, repeat) in enumerate(self.keys().tolist(), self.start):
            number = place // self.batch * self.world_size + self.rank
            yield SampleKey(self.epoch, row, repeat, pool=Pool() if lanes is None else lanes.pool(number))

    def keys(self) -> NDArray[np.int64]:
        """(L, 2) row and repeat of each key that is left of the epoch."""
        rows = self._rows(self.epoch)
        keys = np.stack([rows, occurrence(rows)], axis=1)
        keys = np.resize(keys, (self.epoch_length * self.world_size, 2))  # begins anew where there are too few
        return self._own(keys)[self.start :]

    def _lanes(self) -> Lanes:
        now, before = (self._batches(self._rows(epoch)) for epoch in (self.epoch, self.epoch - 1))
        return Lanes(now, before, self.world_size * self.accumulate, self.accumulate)

    def _batches(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """As one process would have them: pools are the same whoever shares the epoch."""
        return np.split(rows, range(self.batch, len(rows), self.batch))

    def _own(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of each turn; the last turn may be a short one."""
        whole = len(keys) // (self.batch * self.world_size) * self.batch * self.world_size
        turns = keys[:whole].reshape(-1, self.world_size, self.batch, 2)[:, self.rank].reshape(-1, 2)
        return np.concatenate([turns, keys[whole:].reshape(self.world_size, -1, 2)[self.rank]])

    def _rows(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.length)
        words = [self.seed & 0xFFFFFFFF, epoch & 0xFFFFFFFF]
        return self.draw(np.random.default_rng(np.random.SeedSequence(words)))


class Shard(Sampler[list[SampleKey]]):
    """Every ``world_size``-th batch: whole batches as one process would have them, none twice and none left out.

    Ranks may have different numbers of batches, or none.

    Example:
        >>> batches = [[SampleKey(0, 0)], [SampleKey(0, 1)], [SampleKey(0, 2)]]
        >>> [keys[0].row for keys in Shard(batches, rank=0, world_size=2)]
        [0, 2]
    """

    def __init__(self, batches: Collection[list[SampleKey]], rank: int, world_size: int) -> None:
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return islice(self.batches, self.rank, None, self.world_size)


def occurrence(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each element has stood before in ``rows``.

    Example:
        >>> occurrence(np.array([7, 3, 7, 7])).tolist()
        [0, 0, 1, 2]
    """
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = np.searchsorted(ordered, ordered)
    before = np.empty(len(rows), dtype=np.int64)
    before[order] = np.arange(len(rows)) - first
    return before
