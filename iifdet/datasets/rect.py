"""Batches of like-shaped images, each padded only as far as its own batch needs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from iifdet.datasets.resizing import letterbox_shape

#: Sides of a batch are multiples of this: the coarsest grid of the detectors.
STRIDE = 32

Key = tuple[int, int, tuple[int, int]]


class RectBatchSampler(Sampler[list[Key]]):
    """Every row once an epoch, in batches of neighbours by aspect ratio; yields lists of (epoch, row, (H, W)).

    Images of equal ratio are shuffled among each other and the batches come in random order, both by (seed, epoch), so
    that batches differ from epoch to epoch as far as their shapes allow. Without shuffling, batches go from wide to
    tall.

    Args:
        sizes: (N, 2) height and width of the images.
        imgsz: longest side of a tensor's content.
        batch: images a batch; the last one by ratio may have fewer.
        seed: of the run.
        shuffle: whether to shuffle.

    Example:
        >>> sampler = RectBatchSampler(np.array([[50, 100], [100, 50], [48, 100]]), 64, batch=2, shuffle=False)
        >>> list(sampler)
        [[(0, 2, (32, 64)), (0, 0, (32, 64))], [(0, 1, (64, 32))]]
    """

    def __init__(self, sizes: NDArray[np.int32], imgsz: int, batch: int, seed: int = 0, shuffle: bool = True) -> None:
        self.ratios = sizes[:, 0] / sizes[:, 1]
        self.contents = np.array([letterbox_shape(h, w, imgsz) for h, w in sizes.tolist()], np.int64).reshape(-1, 2)
        self.batch, self.seed, self.shuffle = batch, seed, shuffle
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its batches to leave out because an interrupted run has seen them."""
        self.epoch, self.start = epoch, min(start, self._batches())

    def __len__(self) -> int:
        return self._batches() - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed & 0xFFFFFFFF, self.epoch & 0xFFFFFFFF]))
        rows, order = np.arange(len(self.ratios)), np.arange(self._batches())
        if self.shuffle:
            rows, order = rng.permutation(rows), rng.permutation(order)
        rows = rows[np.argsort(self.ratios[rows], kind="stable")]
        for number in order[self.start :].tolist():
            chosen = rows[number * self.batch : (number + 1) * self.batch]
            height, width = (-(-self.contents[chosen].max(axis=0) // STRIDE) * STRIDE).tolist()
            yield [(self.epoch, row, (height, width)) for row in chosen.tolist()]

    def _batches(self) -> int:
        return -(-len(self.ratios) // self.batch)
