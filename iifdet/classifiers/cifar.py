"""ResNets for 32 x 32 images (He et al., CVPR 2016, Section 4.2), with or without squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.classifiers.assembly import Shapes, assemble
from iifdet.classifiers.base import Classifier
from iifdet.classifiers.blocks import SqueezeExcite
from iifdet.classifiers.branches import BilateralNetwork, ExpertNetwork
from iifdet.classifiers.network import Network

#: Of the channels of CIFAR-10's training images; CIFAR-100's are within 0.03 of these.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
#: Their height and width.
SIDE = 32


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: every second pixel, new channels zero (option A).

    Args:
        inside, outside: channels before and after.
        stride: 1 or 2.
        reduction: of the squeeze-and-excitation in front of the addition, 0 for none.
    """

    def __init__(self, inside: int, outside: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.se = SqueezeExcite(outside, reduction) if reduction else nn.Identity()
        self.stride = stride
        self.new_channels = outside - inside

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.se(self.bn2(self.conv2(out)))
        return (out + self.shortcut(x)).relu()

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.new_channels:
            return x
        half = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))


def _stage(inside: int, outside: int, blocks: int, stride: int, reduction: int) -> nn.Sequential:
    first = BasicBlock(inside, outside, stride, reduction)
    return nn.Sequential(first, *(BasicBlock(outside, outside, 1, reduction) for _ in range(blocks - 1)))


class CifarResNet(Network):
    """``depth = 6 n + 2``: a convolution, three stages of n blocks with 16, 32, 64 channels, global mean.

    Args:
        depth: 20, 32, 44, 56, …
        reduction: of squeeze-and-excitation, 0 for none.
        width: multiplies all channels.
    """

    side = SIDE

    def __init__(self, depth: int, reduction: int, width: float = 1.0) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.channels = _channels(width)
        first, second, third = self.channels
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, 1, reduction)
        self.layer2 = _stage(first, second, blocks, 2, reduction)
        self.layer3 = _stage(second, third, blocks, 2, reduction)
        self.out_features = third
        self.attention: nn.Module = nn.Identity()
        initialize(self)

    def attend(self, make: Callable[[int, int], nn.Module]) -> None:
        self.attention = make(self.out_features, SIDE // 4)

    def last_maps(self) -> dict[str, nn.Module]:
        return super().last_maps() if isinstance(self.attention, nn.Identity) else {"attention": self.attention}

    def stages(self) -> dict[str, nn.Module]:
        stem = nn.ModuleList([self.conv1, self.bn1])
        return {"stem": stem, "layer1": self.layer1, "layer2": self.layer2, "layer3": self.layer3}

    def forward(self, images: Tensor) -> Tensor:
        return self.outer(self.inner(images))

    def inner(self, images: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.bn1(self.conv1(images)).relu()))

    def outer(self, maps: Tensor) -> Tensor:
        return self.attention(self.layer3(maps)).mean(dim=(2, 3))

    def inner_channels(self) -> int:
        return self.channels[1]


def _channels(width: float) -> list[int]:
    """Of the three stages."""
    return [max(1, round(channels * width)) for channels in (16, 32, 64)]


def initialize(network: nn.Module) -> None:
    """Draw convolutions and linear layers as He et al. do."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def cifar_experts(depth: int, reduction: int, width: float, experts: int) -> ExpertNetwork:
    """A CIFAR ResNet of which each expert has its own second and third stage, with three quarters of the channels."""
    blocks, whole = (depth - 2) // 6, CifarResNet(depth, reduction, width)
    first, second, third = whole.conv1.out_channels, *_channels(0.75 * width)[1:]
    trunk = nn.Sequential(whole.conv1, whole.bn1, nn.ReLU(inplace=True), whole.layer1)
    rest = [
        nn.Sequential(_stage(first, second, blocks, 2, reduction), _stage(second, third, blocks, 2, reduction))
        for _ in range(experts)
    ]
    network = ExpertNetwork(trunk, rest, third, SIDE)
    initialize(network)
    return network


def cifar_bilateral(depth: int, reduction: int, width: float) -> BilateralNetwork:
    """A CIFAR ResNet of which each branch has its own last block."""
    whole = CifarResNet(depth, reduction, width)
    shared = nn.Sequential(whole.conv1, whole.bn1, nn.ReLU(inplace=True), whole.layer1, whole.layer2, whole.layer3[:-1])
    channels = whole.out_features
    first, second = (BasicBlock(channels, channels, 1, reduction) for _ in range(2))
    network = BilateralNetwork(shared, first, second, 2 * channels, SIDE)
    initialize(network)
    return network


def cifar_resnet(depth: int, reduction: int) -> Callable[..., Classifier]:
    """Return the factory of one CIFAR ResNet; see :class:`CifarResNet`, and :func:`assemble` for the keywords."""

    def factory(
        num_classes: int,
        *,
        width: float = 1.0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        **options: Any,
    ) -> Classifier:
        shapes = Shapes(
            lambda: CifarResNet(depth, reduction, width),
            lambda number: cifar_experts(depth, reduction, width, number),
            lambda: cifar_bilateral(depth, reduction, width),
        )
        return assemble(shapes, num_classes, mean=mean, std=std, **options)

    return factory
