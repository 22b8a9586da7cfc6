"""Which image comes when. Samplers yield (epoch, row), so that workers need no word about the epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Every row once an epoch, in order or shuffled by (seed, epoch).

    Args:
        length: number of rows.
        seed: of the run.
        shuffle: whether to shuffle.

    Example:
        >>> sampler = EpochSampler(3, seed=0, shuffle=False)
        >>> sampler.set_epoch(2, start=1)
        >>> list(sampler)
        [(2, 1), (2, 2)]
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its samples to leave out because an interrupted run has seen them."""
        self.epoch = epoch
        self.start = min(start, self.length)

    def __len__(self) -> int:
        return self.length - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rows = np.arange(self.length)
        if self.shuffle:
            words = [self.seed & 0xFFFFFFFF, self.epoch & 0xFFFFFFFF]
            rows = np.random.default_rng(np.random.SeedSequence(words)).permutation(self.length)
        for row in rows[self.start :].tolist():
            yield self.epoch, row
