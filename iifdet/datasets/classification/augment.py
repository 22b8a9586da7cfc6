"""Augmentation of small images, a whole batch at once on the device where the batch is.

Each image comes with a row of uniform numbers, and what happens to it is a function of that row alone: a batch is
augmented as its images would be one by one, on any device, and a resumed run repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.datasets.classification.policies import POLICIES, apply_policy

#: Numbers an image: crop (2), flip, hole (2), sub-policy, and of its two operations whether and in which direction.
NUMBERS = 10


@dataclass(frozen=True)
class SmallAugment:
    """Crop, flip, a learned policy, Cutout, in this order, as usual for CIFAR.

    Attributes:
        padding: black pixels around the image before a crop of its own size; 0 leaves it where it is.
        flip: share of images that are mirrored.
        policy: name in POLICIES, or ``none``.
        cutout: side of the black square whose centre lies anywhere in the image; 0 for none.
    """

    padding: int = 4
    flip: float = 0.5
    policy: str = "none"
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.policy != "none" and self.policy not in POLICIES:
            raise ValueError(f"auto_augment: expected one of none, {', '.join(POLICIES)}, got '{self.policy}'")

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(B, 3, H, W) uint8, same shape out.

        Args:
            numbers: (B, NUMBERS) in [0, 1), on the CPU, so that nothing waits for the device.
        """
        height, width = images.shape[-2:]
        moved = numbers.to(images.device, non_blocking=True)
        if self.padding:
            images = crop(images, self.padding, moved[:, 0], moved[:, 1])
        if self.flip:
            images = torch.where((moved[:, 2] < self.flip)[:, None, None, None], images.flip(-1), images)
        if self.policy != "none":
            images = apply_policy(images, POLICIES[self.policy], numbers[:, 5:10])
        if self.cutout:
            images = cut_out(images, self.cutout, moved[:, 3] * height, moved[:, 4] * width)
        return images


def crop(images: Tensor, padding: int, down: Tensor, right: Tensor) -> Tensor:
    """Windows of the images' own size out of their zero-padded selves; (B, C, H, W), same shape out.

    Args:
        down, right: (B,) in [0, 1): from the highest and leftmost window to the lowest and rightmost one.
    """
    b, c, h, w = images.shape
    padded = F.pad(images, [padding] * 4)
    places = 2 * padding + 1
    rows = (down * places).long()[:, None] + torch.arange(h, device=images.device)  # (B, H)
    columns = (right * places).long()[:, None] + torch.arange(w, device=images.device)  # (B, W)
    picture, channel = torch.arange(b, device=images.device), torch.arange(c, device=images.device)
    return padded[
        picture[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def cut_out(images: Tensor, side: int, y: Tensor, x: Tensor) -> Tensor:
    """Black squares (DeVries & Taylor, 2017), cut off where they leave the image; (B, C, H, W), same shape out.

    Args:
        side: of the squares in pixels.
        y, x: (B,) their centres in pixels, rounded down.
    """
    h, w = images.shape[-2:]
    top, left = y.long() - side // 2, x.long() - side // 2
    rows, columns = (torch.arange(n, device=images.device)[None] for n in (h, w))
    inside_rows = (rows >= top[:, None]) & (rows < top[:, None] + side)  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < left[:, None] + side)  # (B, W)
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(hole, 0)


def mix(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Mixup (Zhang et al., ICLR 2018): ``share · images + (1 - share) · images[others]`` in [0, 1].

    Args:
        images: (B, C, H, W) uint8.
        others: (B,) rows.
        share: (B,) in [0, 1].
    """
    scaled = images.float().div_(255)
    return torch.lerp(scaled[others], scaled, share[:, None, None, None])
