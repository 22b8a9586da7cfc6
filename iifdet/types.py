"""What passes between the rooms: targets, detections, raw predictions, batches. Written once, linked from everywhere.

Boxes are ``xyxy`` in pixels of the tensor they belong to; labels run from 0 to C-1 and never include background.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor


class Target(TypedDict):
    """Ground truth of one image."""

    boxes: Tensor  #: (N, 4) float32 xyxy, pixels of the image tensor
    labels: Tensor  #: (N,) int64 in 0…C-1
    masks: NotRequired[Tensor]  #: (N, H, W) uint8, 0 or 1


class MixedLabels(NamedTuple):
    """Labels of B images blended in pairs (Mixup, CutMix): loss = share · L(labels) + (1 - share) · L(others).

    A tuple, so that pinning and copying to a device go through it.
    """

    labels: Tensor  #: (B,) int64 in 0…C-1
    others: Tensor  #: (B,) int64 in 0…C-1, the labels of the images that were blended in
    share: Tensor  #: () or (B,) float in [0, 1], what each image has of ``labels``


#: What a batch of classification says: a label an image.
ClassTargets = Tensor | MixedLabels


class Detection(TypedDict):
    """Detections of one image, best score first."""

    boxes: Tensor  #: (N, 4) float32 xyxy, pixels of the image tensor
    labels: Tensor  #: (N,) int64 in 0…C-1
    scores: Tensor  #: (N,) float32 in [0, 1]
    masks: NotRequired[Tensor]  #: (N, H, W) float32 in [0, 1]


@dataclass(frozen=True, slots=True)
class NetworkBoxes:
    """The boxes of a :class:`RawPredictions` as the network has them, in an image that the detector resized inside.

    Attributes:
        boxes: (N, 4) or (N, C, 4) xyxy in pixels of the resized image, not clipped.
        size: (height, width) of the resized image.
    """

    boxes: Tensor
    size: tuple[int, int]


@dataclass(slots=True)
class RawPredictions:
    """Everything a detector says about one image before adjustment, activation and NMS. Differentiable.

    Attributes:
        boxes: (N, 4), or (N, C, 4) where boxes are class-specific; xyxy in pixels of the image tensor, not clipped.
        class_logits: (N, C) before any adjustment.
        size: (height, width) of the image tensor; boxes are clipped to it.
        objectness: (N,) logits, or None for detectors without an objectness branch.
        background: (N,) background logits, or None for detectors without a background class.
        levels: how many of the N rows stand on each feature level, where candidates are counted by level.
        network: the same boxes as the network has them, where clipping and NMS act there and not on ``boxes``.
    """

    boxes: Tensor
    class_logits: Tensor
    size: tuple[int, int]
    objectness: Tensor | None = None
    background: Tensor | None = None
    levels: tuple[int, ...] = ()
    network: NetworkBoxes | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Where an image tensor came from, and how to get back: ``x_tensor = x_original * scale[0] + offset[0]``.

    Attributes:
        image_id: the data set's own id.
        index: row of the DatasetIndex.
        file: path of the image file.
        size: (height, width) of the original, EXIF orientation applied.
        scale: (sx, sy).
        offset: (dx, dy) in pixels of the tensor.
        readable: False where a grey image stands for a file that cannot be read.
    """

    image_id: int
    index: int
    file: str
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    readable: bool = True

    def to_original(self, boxes: Tensor) -> Tensor:
        """Map (N, 4) xyxy boxes from tensor pixels to original pixels, clipped to the original image."""
        (sx, sy), (dx, dy), (height, width) = self.scale, self.offset, self.size
        offset = boxes.new_tensor([dx, dy, dx, dy])
        scale = boxes.new_tensor([sx, sy, sx, sy])
        limit = boxes.new_tensor([width, height, width, height])
        return ((boxes - offset) / scale).clamp(min=0).minimum(limit)


#: What the images of a batch show: one Target each, or their labels.
Targets = list[Target] | ClassTargets


@dataclass(slots=True)
class Batch:
    """One batch as a loader yields it.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, or float in [0, 1]; a list of (3, H, W) where sizes differ.
        targets: one Target an image; of classification (B,) int64 labels, or MixedLabels.
        infos: one ImageInfo an image, as far as the loader knows where they came from.
    """

    images: Tensor | list[Tensor]
    targets: Targets
    infos: list[ImageInfo] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> Batch:
        """Images ``start`` to ``stop``, without ``stop``."""
        rows = slice(start, stop)
        return Batch(self.images[rows], _map_targets(self.targets, lambda t: t[rows], each=False), self.infos[rows])

    def labels(self) -> list[Tensor]:
        """One (n_i,) int64 tensor an image: the classes that it shows, a blended one those of both."""
        if isinstance(self.targets, MixedLabels):
            return list(torch.stack([self.targets.labels, self.targets.others], dim=1))
        if isinstance(self.targets, Tensor):
            return list(self.targets[:, None])
        return [target["labels"] for target in self.targets]

    def to(self, device: torch.device | str, non_blocking: bool = True, keep: Collection[str] = ()) -> Batch:
        """Copy to a device; uint8 becomes float in [0, 1] there, so that workers hand over a quarter of the bytes.

        Args:
            keep: parts of the targets that stay where they are.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return self._map(lambda images: _as_float(move(images)), move, keep)

    def pin_memory(self) -> Batch:
        """Called by DataLoader(pin_memory=True)."""
        return self._map(Tensor.pin_memory, Tensor.pin_memory)

    def _map(
        self, image: Callable[[Tensor], Tensor], target: Callable[[Tensor], Tensor], keep: Collection[str] = ()
    ) -> Batch:
        """The same batch with each tensor of images and targets, but for the targets' ``keep``, through a function."""
        images = image(self.images) if isinstance(self.images, Tensor) else [image(i) for i in self.images]
        return Batch(images, _map_targets(self.targets, target, keep=keep), self.infos)


def _map_targets(targets: Targets, change: Callable[[Any], Any], each: bool = True, keep: Collection[str] = ()) -> Any:
    """Targets with every tensor put through a function; without ``each``, a list of targets as a whole."""
    if isinstance(targets, MixedLabels):
        share = targets.share if targets.share.ndim == 0 and not each else change(targets.share)
        return MixedLabels(change(targets.labels), change(targets.others), share)
    if isinstance(targets, Tensor) or not each:
        return change(targets)
    return [Target(**{k: v if k in keep else change(v) for k, v in t.items()}) for t in targets]  # type: ignore[typeddict-item]


def _as_float(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images
