"""Images of any size, read one by one in as many workers as wanted with the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from iifdet.datasets.bad_images import BadImages
from iifdet.datasets.classification.augment import NUMBERS, SmallAugment, mix
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.images import ImageError
from iifdet.datasets.samplers import EpochSampler, SampleKey
from iifdet.datasets.sampling import Draw
from iifdet.datasets.transforms import sample_seed
from iifdet.datasets.workers import worker_loader
from iifdet.errors import InputError
from iifdet.types import Batch, ImageInfo, MixedLabels

#: (3, H, W) uint8 and a seed -> (3, S, S) uint8.
Transform = Callable[[Tensor, int], Tensor]
#: Side of the middle that is looked at, as a share of the shorter side.
MIDDLE = 224 / 256


class SmallTransform:
    """:class:`SmallAugment` for one image; images of another size are resized first."""

    def __init__(self, size: int, augment: SmallAugment) -> None:
        self.size, self.augment = size, augment

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        if image.shape[-2:] != (self.size, self.size):
            image = v2.functional.resize(image, [self.size, self.size], antialias=True)
        numbers = np.random.default_rng(seed).random((1, NUMBERS), dtype=np.float32)
        return self.augment(image[None], torch.from_numpy(numbers))[0]


class PhotoTransform:
    """What is usual for photographs: a random part of the image, flip, colours or a learned policy.

    Args:
        size: side of the result.
        flip: share of images that are mirrored.
        policy: ``none`` (colours alone), ``imagenet`` (AutoAugment) or ``rand`` (RandAugment, 2 operations of
            strength 10).
    """

    def __init__(self, size: int, flip: float = 0.5, policy: str = "none") -> None:
        if policy not in PHOTO_POLICIES:
            raise ValueError(f"auto_augment: expected one of {', '.join(PHOTO_POLICIES)} at this size, got '{policy}'")
        self.steps = v2.Compose(
            [
                v2.RandomResizedCrop(size, antialias=True),
                v2.RandomHorizontalFlip(flip),
                PHOTO_POLICIES[policy](),
            ]
        )

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator, which is the run's
            torch.manual_seed(seed)
            return self.steps(image)


#: ``auto_augment`` -> what happens to the colours, and more.
PHOTO_POLICIES: dict[str, Callable[[], Any]] = {
    "none": lambda: v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    "imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=128),
    "rand": lambda: v2.RandAugment(num_ops=2, magnitude=10, fill=128),
}


class Middle:
    """The middle of an image, as in validation; small images are resized as a whole."""

    def __init__(self, size: int, whole: bool) -> None:
        self.size, self.whole = size, whole

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        if self.whole:
            side = [self.size, self.size]
            return image if list(image.shape[-2:]) == side else v2.functional.resize(image, side, antialias=True)
        image = v2.functional.resize(image, [round(self.size / MIDDLE)], antialias=True)
        return v2.functional.center_crop(image, [self.size, self.size])

    def place(self, shape: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the middle of an (H, W) image is: scale (x, y) and offset (x, y), as in ImageInfo."""
        height, width = shape
        if self.whole:
            return (self.size / width, self.size / height), (0.0, 0.0)
        short = round(self.size / MIDDLE)
        if height <= width:
            resized = short, int(short * width / height)
        else:
            resized = int(short * height / width), short
        top, left = (round((side - self.size) / 2) for side in resized)
        return (resized[1] / width, resized[0] / height), (float(-left), float(-top))


class ClassSample(NamedTuple):
    """One image (3, S, S) uint8, its label, where it came from, the seed of what was drawn for it."""

    image: Tensor
    label: int
    info: ImageInfo
    seed: int


class ClassDataset(Dataset[ClassSample]):
    """A split as samples; an image that cannot be read gives way to the next one, or is grey in validation.

    Args:
        max_bad: largest share of images that may be unreadable, before an InputError ends it; the workers of a
            process share one count.
    """

    def __init__(self, index: ClassIndex, transform: Transform, seed: int, grey: bool, max_bad: float = 1.0) -> None:
        self.index, self.transform, self.seed, self.grey = index, transform, seed, grey
        self._bad = BadImages(index.root, len(index), max_bad)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> ClassSample:
        row, found = self._read(key.row)
        pixels = np.full((64, 64, 3), 114, dtype=np.uint8) if found is None else found
        height, width = pixels.shape[:2]
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        seed = sample_seed(self.seed, key.epoch, key.row, key.repeat)
        image = self.transform(image, seed)
        place = int(self.index.ids[row]), row, self.index.file(row)
        info = ImageInfo(*place, (height, width), readable=found is not None)
        return ClassSample(image, int(self.index.labels[row]), info, seed)

    def _read(self, row: int) -> tuple[int, np.ndarray | None]:
        """The row that was really read and its image; None for a grey one."""
        for step in range(len(self)):
            place = (row + step) % len(self)
            try:
                return place, self.index.read(place)
            except ImageError as error:
                said = f"unreadable image, {'grey' if self.grey else 'next'} one used: {error}"
                self._bad.say(place, self.index.file(place), said)
            if self.grey:
                return place, None
        raise InputError(
            f"{self.index.root}: expected images, got {len(self)} of which not one can be read; see iifdet check"
        )


@dataclass(frozen=True)
class Collate:
    """Samples to a batch; with ``mixup`` blended in pairs, which the seed of the first one draws."""

    mixup: float = 0.0

    def __call__(self, samples: Sequence[ClassSample]) -> Batch:
        images = torch.from_numpy(np.stack([sample.image.numpy() for sample in samples]))
        labels = torch.tensor([sample.label for sample in samples])
        infos = [sample.info for sample in samples]
        if not self.mixup:
            return Batch(images, labels, infos)
        rng = np.random.default_rng(samples[0].seed)
        others = torch.from_numpy(rng.permutation(len(samples)))
        share = torch.full((len(samples),), float(rng.beta(self.mixup, self.mixup)))
        return Batch(mix(images, others, share), MixedLabels(labels, labels[others], share), infos)


def make_class_loader(
    dataset: ClassDataset,
    batch: int,
    workers: int,
    *,
    shuffle: bool,
    draw: Draw | None = None,
    mixup: float = 0.0,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
    together: int = 1,
) -> DataLoader[ClassSample]:
    """A loader of :class:`Batch`; see :func:`iifdet.datasets.make_loader` for its order and shares."""
    shares: dict[str, Any] = {"rank": rank, "world_size": world_size} if shuffle else {}
    sampler = EpochSampler(len(dataset), dataset.seed, shuffle, draw, batch=batch, together=together, **shares)
    order: dict[str, Any] = {"batch_size": batch, "sampler": sampler, "drop_last": False}
    shard = (rank, world_size) if world_size > 1 and not shuffle else None
    return worker_loader(
        dataset, order, Collate(mixup), workers=workers, seed=dataset.seed, pin_memory=pin_memory, shard=shard
    )
