"""Darknet backbones (Redmon and Farhadi, YOLOv3, 2018): Darknet53 by width and depth, and the tiny one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def scale_channels(channels: int, width: float) -> int:
    """Scale a channel count by a width factor, to a multiple of 8.

    Raises:
        ValueError: the factor is not a finite number above 0.
    """
    if not (isinstance(width, int | float) and math.isfinite(width) and width > 0):
        raise ValueError(f"width: expected a number above 0, got {width!r}")
    return max(8, round(channels * width / 8) * 8)


class ConvBNAct(nn.Sequential):
    """Convolution without bias, batch norm, leaky ReLU 0.1: Darknet's building block."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-6)
        self.act = nn.LeakyReLU(0.1, inplace=True)


class Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvBNAct(channels, channels // 2, 1)
        self.expand = ConvBNAct(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


class Darknet(nn.Module):
    """Darknet53 at width 1 and blocks (1, 2, 8, 8, 4).

    Modules are registered in the order of a Darknet weight file.

    Returns:
        Features at strides 8, 16 and 32, coarse first: (B, C_i, H/32, W/32), (…/16), (…/8).
    """

    def __init__(self, width: float = 1.0, blocks: Sequence[int] = (1, 2, 8, 8, 4)) -> None:
        super().__init__()
        channels = [scale_channels(c, width) for c in (32, 64, 128, 256, 512, 1024)]
        self.stem = ConvBNAct(3, channels[0], 3)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvBNAct(c_in, c_out, 3, stride=2), *(Residual(c_out) for _ in range(n)))
            for (c_in, c_out), n in zip(pairwise(channels), blocks, strict=True)
        )
        self.channels = channels[:2:-1]  # of the three outputs, coarse first

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[:1:-1]


class _SameMaxPool(nn.Module):
    """2x2 max pooling with stride 1 that keeps the size: Darknet pads right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)


class TinyDarknet(nn.Module):
    """The backbone of yolov3-tiny: seven convolutions, pooling between them.

    Returns:
        Features at strides 32 and 16, coarse first.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c = [scale_channels(n, width) for n in (16, 32, 64, 128, 256, 512, 1024)]
        pool = nn.MaxPool2d(2, 2)
        fine: list[nn.Module] = [ConvBNAct(3, c[0], 3)]
        for c_in, c_out in pairwise(c[:5]):
            fine += [pool, ConvBNAct(c_in, c_out, 3)]
        self.fine = nn.Sequential(*fine)  # stride 16
        self.coarse = nn.Sequential(pool, ConvBNAct(c[4], c[5], 3), _SameMaxPool(), ConvBNAct(c[5], c[6], 3))
        self.channels = [c[6], c[4]]

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [self.coarse(fine), fine]
