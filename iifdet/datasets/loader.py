"""From index rows to batches: read, transform, collate, in as many workers as wanted with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from iifdet.datasets.bad_images import BadImages
from iifdet.datasets.caching import Decode, make_cache
from iifdet.datasets.images import ImageError, read_image
from iifdet.datasets.index import DatasetIndex
from iifdet.datasets.mixing import Mixing
from iifdet.datasets.mosaic import as_tile
from iifdet.datasets.partners import RecentImages
from iifdet.datasets.pieces import Piece
from iifdet.datasets.rect import RectBatchSampler
from iifdet.datasets.resizing import PAD, Boxes, Image, Masks, content, pair, resize_masks
from iifdet.datasets.samplers import EpochSampler, SampleKey
from iifdet.datasets.sampling import Draw
from iifdet.datasets.transforms import EvalTransform, sample_seed
from iifdet.datasets.workers import worker_loader
from iifdet.errors import InputError
from iifdet.types import Batch, ImageInfo, Target

#: What an unreadable image becomes: the ``next`` readable one, or a ``grey`` one of the recorded size.
UNREADABLE = ("next", "grey")


class Sample(NamedTuple):
    """One item: image (3, H, W) uint8, its target and where it came from."""

    image: Tensor
    target: Target
    info: ImageInfo


class DetectionDataset(Dataset[Sample]):
    """Samples of an index, by :class:`SampleKey`, of which ``(epoch, row)`` is enough.

    Args:
        index: the images and boxes. Crowds never become targets.
        transform: TrainTransform, EvalTransform or anything called alike.
        seed: of the run; with epoch and row it seeds the transform and the mixing, which draws from the key's pool.
        mixing: mosaic, mixup and copy-paste.
        masks: hand over masks too. A box without a mask of its own gets its rectangle.
        cache: ``"ram"`` decodes every image once, before any worker starts, and keeps it at tensor size; ``"disk"``
            keeps it so in the user's cache folder.
        unreadable: one of UNREADABLE; by default ``next`` for training and ``grey`` otherwise, so that an evaluation
            loses no image. Images that a mosaic or another mixing asks for give way likewise.
        max_bad: largest share of images that may be unreadable or of another size than annotated, before an InputError
            ends it; the workers of a process share one count.
    """

    def __init__(
        self,
        index: DatasetIndex,
        transform: EvalTransform,
        seed: int = 0,
        *,
        mixing: Mixing | None = None,
        masks: bool = False,
        cache: str | bool = False,
        unreadable: str | None = None,
        max_bad: float = 1.0,
    ) -> None:
        self.index = index
        self.transform = transform
        self.seed = seed
        self.mixing = mixing or Mixing()
        self.masks = masks
        self.unreadable = unreadable or ("next" if transform.training else "grey")
        self._bad = BadImages(index.root, len(index), max_bad, "cannot be read as annotated")
        self._grey: set[int] = set()
        if self.unreadable not in UNREADABLE:
            raise InputError(f"unreadable: expected next or grey, got '{unreadable}'")
        if masks and index.segments is None:
            raise InputError(
                f"masks: expected annotations with 'segmentation', got none in {index.root}; "
                "use a detector without masks, such as fasterrcnn"
            )
        self._shapes = [transform.content_shape(h, w) for h, w in index.sizes.tolist()] if cache else []
        self._pixels = make_cache(cache, self._read_small if cache else self.read, index.files, self._shapes)
        self._recent = RecentImages(self._read_tile)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey | tuple[int, int] | int) -> Sample:
        """A sample as the loaders' samplers ask for it; for a bare row, as it is in the first epoch."""
        epoch, row, repeat, size, pool = SampleKey(0, key) if isinstance(key, int) else SampleKey(*key)
        self._recent.make_room(pool)
        seed = sample_seed(self.seed, epoch, row, repeat)
        row, piece, out = self.mixing(self.transform, row, epoch, seed, self, pool.rows, size)
        target = Target(boxes=torch.from_numpy(out.boxes), labels=torch.from_numpy(out.labels))
        if out.masks is not None:
            target["masks"] = torch.from_numpy(out.masks)
        return Sample(channels_first(out.image), target, self._info(row, piece.image, out.scale, out.offset))

    def with_masks(self, batch: Batch) -> Batch:
        """A batch of this data set once more, its targets with masks: for pictures. Only where nothing is drawn by lot.

        Masks of whole images are too large to come with every batch for the sake of one picture.
        """
        dataset = copy(self)
        dataset.masks = True
        shapes = [(image.shape[-2], image.shape[-1]) for image in batch.images]
        rows = [info.index for info in batch.infos]
        return collate([dataset[SampleKey(0, row, shape=s)] for row, s in zip(rows, shapes, strict=True)])

    def piece(self, row: int) -> tuple[int, Piece]:
        """The row that was really read, and its image with boxes, labels and masks, before any transform."""
        row, image = self._read(row, self._pixels)
        return row, Piece(image, *self._targets(row, image))

    def tile(self, row: int) -> tuple[int, Piece]:
        """The same at the size that the image has in a mosaic."""
        row, image = self._read(row, self._recent)
        return row, Piece(image, *self._targets(row, image))

    def read(self, row: int) -> Image:
        """Read one image at its recorded size, (h, w, 3).

        Raises:
            ImageError: it cannot be read.
        """
        file, (height, width) = self.index.files[row], self.index.sizes[row].tolist()
        image = read_image(file)
        if image.shape[:2] == (width, height) != (height, width):
            # The annotations were made on the pixels as stored, without the EXIF turn.
            image = read_image(file, orient=False)
        if image.shape[:2] != (height, width):
            said = f"{file}: expected {height}x{width} pixels as annotated, got {image.shape[:2]}; resized"
            self._bad.say(row, file, said)
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return image

    def _read(self, row: int, pixels: Decode) -> tuple[int, Image]:
        """The image of this row, or what stands in for it."""
        for step in range(len(self)):
            candidate = (row + step) % len(self)
            self._grey.discard(candidate)
            try:
                return candidate, pixels(candidate)
            except ImageError as error:
                said = f"unreadable image, {self.unreadable} one used: {error}"
                self._bad.say(candidate, self.index.files[candidate], said)
            if self.unreadable == "grey":
                self._grey.add(candidate)
                height, width = self.index.sizes[candidate].tolist()
                return candidate, np.full((height, width, 3), PAD, dtype=np.uint8)
        raise InputError(
            f"{self.index.root}: expected images, got {len(self)} of which not one can be read; see iifdet check"
        )

    def _read_small(self, row: int) -> Image:
        """The image as a cache keeps it: at the size that it has inside the tensor."""
        return content(self.read(row), self._shapes[row], self.transform.resize)

    def _read_tile(self, row: int) -> Image:
        return as_tile(self._pixels(row), pair(self.transform.size))

    def _targets(self, row: int, image: Image) -> tuple[Boxes, NDArray[np.int64], Masks | None]:
        """Boxes, labels and masks in pixels of ``image``, which a cache may have resized; without crowds."""
        where = self.index.boxes_of(row)
        rows = np.arange(where.start, where.stop)[~self.index.crowd[where]]
        height, width = self.index.sizes[row].tolist()
        sx, sy = image.shape[1] / width, image.shape[0] / height
        boxes = self.index.boxes[rows] * np.array([sx, sy, sx, sy], dtype=np.float32)
        masks = self._masks(rows, (height, width), image.shape[:2]) if self.masks else None
        return boxes, self.index.labels[rows], masks

    def _masks(self, rows: NDArray[np.int64], size: tuple[int, int], shape: tuple[int, ...]) -> Masks:
        masks = np.zeros((len(rows), *size), dtype=np.uint8)
        for mask, box in zip(masks, rows.tolist(), strict=True):
            own = None if self.index.segments is None else self.index.segments.mask(box, *size)
            if own is not None:
                mask[:] = own
            else:
                x1, y1, x2, y2 = np.round(self.index.boxes[box]).astype(int).tolist()
                mask[y1:y2, x1:x2] = 1
        return resize_masks(masks, (shape[0], shape[1]))

    def _info(self, row: int, image: Image, scale: tuple[float, float], offset: tuple[float, float]) -> ImageInfo:
        height, width = self.index.sizes[row].tolist()
        cached = image.shape[1] / width, image.shape[0] / height
        return ImageInfo(
            image_id=int(self.index.image_ids[row]),
            index=row,
            file=self.index.files[row],
            size=(height, width),
            scale=(scale[0] * cached[0], scale[1] * cached[1]),
            offset=offset,
            readable=row not in self._grey,
        )


def channels_first(image: Image) -> Tensor:
    """(H, W, 3) to a tensor of (3, H, W). cv2's split takes a fifth of the time of a transposed copy."""
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples together: images (B, 3, H, W) uint8, or a list where sizes differ; one target and one info each.

    The targets of a batch are views of common tensors: a worker hands over each tensor's memory as an open file, and
    two or three of those an image would exhaust the limit on open files.
    """
    plain = [cast(dict[str, Tensor], sample.target) for sample in samples]
    columns = {name: _together([target[name] for target in plain]) for name in plain[0]}
    targets = [Target(**{name: column[b] for name, column in columns.items()}) for b in range(len(samples))]  # type: ignore[typeddict-item]
    # numpy copies in this thread. torch.stack wakes its thread pool once a batch, which on a busy machine takes far
    # longer than the copy: 0.26 s instead of 3 ms for 32 images of 192 px on two shared cores.
    arrays = [sample.image.numpy() for sample in samples]
    images: Tensor | list[Tensor]
    if len({array.shape for array in arrays}) == 1:
        images = torch.from_numpy(np.stack(arrays))
    else:
        images = _together([sample.image for sample in samples])
    return Batch(images, targets, [sample.info for sample in samples])


def _together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors of any shapes, as views of one tensor."""
    whole = torch.from_numpy(np.concatenate([tensor.numpy().reshape(-1) for tensor in tensors]))
    parts = whole.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def make_loader(
    dataset: DetectionDataset,
    batch: int,
    workers: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    draw: Draw | None = None,
    rect: bool = False,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
) -> DataLoader[Sample]:
    """Build a loader of :class:`Batch`.

    ``loader.sampler.set_epoch(epoch, start)`` chooses what it yields next, ``start`` in images; with ``rect``, where
    images of like shape share a batch, ``loader.batch_sampler.set_epoch(epoch, start)``, ``start`` in batches.

    Args:
        draw: with ``shuffle``, which rows an epoch holds; every row once by default.
        rank, world_size: which batches are this process's. With ``shuffle`` all ranks have as many, and an epoch's
            first images fill up its last batches; without, each batch of the split is one rank's.
        accumulate: batches of this process in an optimizer step: W processes take the mosaics of one that accumulates W
            times as many.
    """
    shares: dict[str, Any] = {"rank": rank, "world_size": world_size} if shuffle else {}
    order: dict[str, Any]
    if rect:
        longest = max(pair(dataset.transform.size))
        order = {"batch_sampler": RectBatchSampler(dataset.index.sizes, longest, batch, seed, shuffle, draw, **shares)}
    else:
        pools = dataset.mixing.tiles if shuffle else None
        sampler = EpochSampler(
            len(dataset), seed, shuffle, draw, batch=batch, pools=pools, accumulate=accumulate, **shares
        )
        order = {"batch_size": batch, "sampler": sampler, "drop_last": drop_last}
    shard = (rank, world_size) if world_size > 1 and not shuffle else None
    return worker_loader(dataset, order, collate, workers=workers, seed=seed, pin_memory=pin_memory, shard=shard)
