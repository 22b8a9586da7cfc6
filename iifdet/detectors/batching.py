"""Images of any size to one batch: padded to a common size, or stretched to a square."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Images = Tensor | Sequence[Tensor]
Size = tuple[int, int]

#: Darknet pads with mid grey, and its weights score best with it.
PAD = 128 / 255


def image_size(image: Tensor) -> Size:
    """(height, width) of (…, H, W)."""
    return int(image.shape[-2]), int(image.shape[-1])


def pad_batch(images: Images, multiple: int) -> tuple[Tensor, list[Size]]:
    """Pad right and bottom with grey to one size that ``multiple`` divides; pixels keep their coordinates.

    Returns:
        (B, 3, H, W), and each image's own (height, width).
    """
    _check(images)
    if isinstance(images, Tensor):
        return pad(images, multiple), [image_size(images)] * len(images)
    sizes = [image_size(im) for im in images]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    batch = torch.stack(
        [F.pad(im, (0, width - w, 0, height - h), value=PAD) for im, (h, w) in zip(images, sizes, strict=True)]
    )
    return pad(batch, multiple), sizes


def pad(batch: Tensor, multiple: int, value: float = PAD) -> Tensor:
    """(B, 3, H, W) with ``value`` to the right and at the bottom, up to sides that ``multiple`` divides."""
    height, width = image_size(batch)
    right, bottom = -width % multiple, -height % multiple
    return F.pad(batch, (0, right, 0, bottom), value=value) if right or bottom else batch


def stretch_batch(images: Images, size: int) -> tuple[Tensor, list[Size]]:
    """Images of any size to (B, 3, size, size), and each one's own (height, width)."""
    _check(images)
    if isinstance(images, Tensor):
        return stretch(images, (size, size)), [image_size(images)] * len(images)
    return torch.cat([stretch(im[None], (size, size)) for im in images]), [image_size(im) for im in images]


def stretch(batch: Tensor, size: Size) -> Tensor:
    """(B, 3, H, W) to (B, 3, *size), bilinear without antialiasing."""
    if image_size(batch) == size:
        return batch
    return F.interpolate(batch, size=size, mode="bilinear", align_corners=False)


def _check(images: Images) -> None:
    """Loaders bring uint8, and pixels up to 255 would give detections without a word."""
    if isinstance(images, Tensor) and (images.ndim != 4 or images.shape[1] != 3):
        raise ValueError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
    for image in (images,) if isinstance(images, Tensor) else images:
        if not image.is_floating_point():
            raise ValueError(
                f"images: expected floats in [0, 1], got {image.dtype}; use batch.to(device), or divide by 255"
            )
