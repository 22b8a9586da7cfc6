"""Images of one size that live on the device as bytes: batches are made there, many at a time, without any worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iifdet.datasets.classification.augment import NUMBERS, SmallAugment, mix
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.samplers import EpochSampler
from iifdet.errors import InputError
from iifdet.types import Batch, ClassTargets, MixedLabels

#: Images that are augmented at once: enough to keep a GPU busy, few enough for its memory.
CHUNK = 16384


@dataclass(frozen=True)
class ResidentImages:
    """A split on a device.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, index: ClassIndex, device: torch.device, size: int) -> ResidentImages:
        """Read all images of an index.

        Raises:
            InputError: they are not of one size, or not ``size`` pixels high and wide.
        """
        array = index.in_memory().array
        assert array is not None
        if array.shape[1:3] != (size, size):
            height, width = array.shape[1:3]
            own, advice = (str(height), f", or imgsz={height}") if height == width else (f"{height}x{width}", "")
            raise InputError(
                f"imgsz: expected {own} as the images are with cache=device, which resizes none, got {size}; "
                f"use cache=false{advice}"
            )
        pixels = torch.from_numpy(array).to(device).permute(0, 3, 1, 2).contiguous()
        return cls(pixels, torch.from_numpy(index.labels).to(device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class ResidentTraining:
    """Augmented batches of any epoch, from any batch on: a loader for the loop.

    What is drawn depends on (seed, epoch, place in the epoch) alone.

    Args:
        data: the split.
        sampler: which rows come when; its ranks share the epoch.
        batch: images a batch, of this process.
        augment: what happens to each image.
        mixup: of Beta(mixup, mixup), from which each batch draws its share; 0 is off.
        channels_last: give images in that order in memory.
    """

    data: ResidentImages
    sampler: EpochSampler
    batch: int
    augment: SmallAugment = field(default_factory=SmallAugment)
    mixup: float = 0.0
    channels_last: bool = False

    def __len__(self) -> int:
        return -(-self.sampler.epoch_length // self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, … of an epoch."""
        self.sampler.set_epoch(epoch)
        rows = self.sampler.keys()[:, 0]
        step = max(1, CHUNK // self.batch)  # batches
        for first in range(start // step * step, len(self), step):
            part = rows[first * self.batch : (first + step) * self.batch]
            yield from self._batches(part, epoch, first)[max(0, start - first) :]

    def _batches(self, rows: np.ndarray, epoch: int, first: int) -> list[Batch]:
        """The batches that these rows make, the first of them number ``first`` of the epoch."""
        words = [self.sampler.seed & 0xFFFFFFFF, epoch, first, self.sampler.rank]
        rng = np.random.default_rng(np.random.SeedSequence(words))
        numbers = torch.from_numpy(rng.random((len(rows), NUMBERS), dtype=np.float32))
        picked = torch.from_numpy(rows).to(self.data.images.device)
        images = self.augment(self.data.images[picked], numbers)
        labels = self.data.labels[picked]
        targets: ClassTargets = labels
        if self.mixup:
            others, share = self._pairs(len(rows), rng)
            images = mix(images, others, share)
            targets = MixedLabels(labels, labels[others], share)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        whole = Batch(images, targets)
        return [whole.part(i, min(i + self.batch, len(rows))) for i in range(0, len(rows), self.batch)]

    def _pairs(self, images: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(B,) rows of the partners, of the same batch each, and (B,) shares, the same in a whole batch."""
        others, shares = np.empty(images, dtype=np.int64), np.empty(images, dtype=np.float32)
        for i in range(0, images, self.batch):
            end = min(i + self.batch, images)
            others[i:end] = i + rng.permutation(end - i)
            shares[i:end] = rng.beta(self.mixup, self.mixup)
        device = self.data.images.device
        return torch.from_numpy(others).to(device), torch.from_numpy(shares).to(device)


@dataclass(frozen=True)
class ResidentSplit:
    """Every image of a split once, in order; of several processes each has every ``world_size``-th batch."""

    data: ResidentImages
    batch: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return len(range(self.rank, -(-len(self.data) // self.batch), self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.rank * self.batch, len(self.data), self.world_size * self.batch):
            rows = slice(i, i + self.batch)
            yield Batch(self.data.images[rows], self.data.labels[rows])
