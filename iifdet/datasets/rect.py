"""Batches of like-shaped images, each padded only as far as its own batch needs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from iifdet.datasets.resizing import letterbox_shape
from iifdet.datasets.samplers import SampleKey, occurrence
from iifdet.datasets.sampling import Draw, uniform

#: Sides of a batch are multiples of this: the coarsest grid of the detectors.
STRIDE = 32


class RectBatchSampler(Sampler[list[SampleKey]]):
    """The rows of an epoch in batches of neighbours by aspect ratio; yields lists of keys with a shape.

    Images of equal ratio are shuffled among each other and the batches come in random order, both by (seed, epoch), so
    that batches differ from epoch to epoch as far as their shapes allow. Without shuffling, batches go from wide to
    tall.

    Args:
        sizes: (N, 2) height and width of the images.
        imgsz: longest side of a tensor's content.
        batch: images a batch; the last one by ratio may have fewer.
        seed: of the run.
        shuffle: whether to shuffle.
        draw: with ``shuffle``, which rows an epoch holds; every row once by default.
        rank, world_size: which of the batches this process takes: every ``world_size``-th. The first of the epoch fill
            up the last turn.

    Example:
        >>> sampler = RectBatchSampler(np.array([[50, 100], [100, 50], [48, 100]]), 64, batch=2, shuffle=False)
        >>> [[(key.row, key.shape) for key in keys] for keys in sampler]
        [[(2, (32, 64)), (0, (32, 64))], [(1, (64, 32))]]
    """

    def __init__(
        self,
        sizes: NDArray[np.int32],
        imgsz: int,
        batch: int,
        seed: int = 0,
        shuffle: bool = True,
        draw: Draw | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.ratios = sizes[:, 0] / sizes[:, 1]
        self.contents = np.array([letterbox_shape(h, w, imgsz) for h, w in sizes.tolist()], np.int64).reshape(-1, 2)
        self.batch, self.seed, self.shuffle = batch, seed, shuffle
        self.draw = draw or uniform(len(sizes))
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0
        self.batches = -(-len(self._rows(self._generator())) // batch)
        self.epoch_length = -(-self.batches // world_size)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its batches to leave out because an interrupted run has seen them."""
        self.epoch, self.start = epoch, min(start, self.epoch_length)

    def __len__(self) -> int:
        return self.epoch_length - self.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = self._generator()
        rows, order = self._rows(rng), np.arange(self.batches)
        repeats = occurrence(rows)
        if self.shuffle:
            order = rng.permutation(order)
        by_ratio = np.argsort(self.ratios[rows], kind="stable")
        rows, repeats = rows[by_ratio], repeats[by_ratio]
        order = np.resize(order, self.epoch_length * self.world_size)[self.rank :: self.world_size]
        for number in order[self.start :].tolist():
            chosen = slice(number * self.batch, (number + 1) * self.batch)
            height, width = (-(-self.contents[rows[chosen]].max(axis=0) // STRIDE) * STRIDE).tolist()
            pairs = zip(rows[chosen].tolist(), repeats[chosen].tolist(), strict=True)
            yield [SampleKey(self.epoch, row, repeat, (height, width)) for row, repeat in pairs]

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed & 0xFFFFFFFF, self.epoch & 0xFFFFFFFF]))

    def _rows(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return self.draw(rng) if self.shuffle else np.arange(len(self.ratios))
