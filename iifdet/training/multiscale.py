"""Multi-scale training: sizes drawn from (seed, step) alone, and batches resized on their device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.training.options import FitOptions
from iifdet.types import Batch, Target


def scale_of(batch: int, options: FitOptions) -> int | None:
    """A multiple of 32 within the bounds, drawn every so many batches from (seed, batch) alone: a resume repeats it.

    Args:
        batch: number of the batch, counted over all epochs.
    """
    if options.multi_scale is None:
        return None
    low, high = (max(1, round(bound * options.imgsz / 32)) for bound in options.multi_scale)
    draw = batch // options.multi_scale_every
    generator = torch.Generator().manual_seed((options.seed * 1_000_003 + draw) % 2**63)
    return 32 * int(torch.randint(low, high + 1, (), generator=generator))


def largest_size(options: FitOptions) -> int:
    """The largest size that :func:`scale_of` may draw."""
    if options.multi_scale is None:
        return options.imgsz
    return 32 * max(1, round(options.multi_scale[1] * options.imgsz / 32))


def rescale(batch: Batch, size: int | None) -> Batch:
    """Resize each image's longer side to ``size`` pixels, boxes and masks with it; None leaves all as it is."""
    old = [(int(image.shape[-2]), int(image.shape[-1])) for image in batch.images]
    if size is None or all(max(shape) == size for shape in old):
        return batch
    new = [(round(h * size / max(h, w)), round(w * size / max(h, w))) for h, w in old]
    images: Tensor | list[Tensor]
    if isinstance(batch.images, Tensor):
        images = _resize(batch.images, new[0])
    else:
        images = [_resize(image[None], shape)[0] for image, shape in zip(batch.images, new, strict=True)]
    if not isinstance(batch.targets, list):  # labels lie nowhere
        return Batch(images, batch.targets, batch.infos)
    targets = [_rescale_target(*each) for each in zip(batch.targets, old, new, strict=True)]
    return Batch(images, targets, batch.infos)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _rescale_target(target: Target, old: tuple[int, int], new: tuple[int, int]) -> Target:
    scaled = target.copy()
    scaled["boxes"] = target["boxes"] * target["boxes"].new_tensor([new[1] / old[1], new[0] / old[0]] * 2)
    if "masks" in target:
        scaled["masks"] = F.interpolate(target["masks"][:, None].float(), size=new)[:, 0].to(target["masks"].dtype)
    return scaled
