"""ResNets for 32 x 32 images (He et al., CVPR 2016, Section 4.2), with or without squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.classifiers.base import Classifier, Network
from iifdet.classifiers.blocks import SqueezeExcite
from iifdet.longtail import ClassLossChoice

#: Of the channels of CIFAR-10's training images; CIFAR-100's are within 0.03 of these.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


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


class CifarResNet(Network):
    """``depth = 6 n + 2``: a convolution, three stages of n blocks with 16, 32, 64 channels, global mean.

    Args:
        depth: 20, 32, 44, 56, …
        reduction: of squeeze-and-excitation, 0 for none.
        width: multiplies all channels.
    """

    def __init__(self, depth: int, reduction: int, width: float = 1.0) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        channels = [max(1, round(c * width)) for c in (16, 16, 32, 64)]
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(
                    BasicBlock(inside if i == 0 else outside, outside, stride if i == 0 else 1, reduction)
                    for i in range(blocks)
                )
            )
            for inside, outside, stride in zip(channels, channels[1:], (1, 2, 2), strict=False)
        )
        self.out_features = channels[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def stages(self) -> dict[str, nn.Module]:
        stem = nn.ModuleList([self.conv1, self.bn1])
        return {"stem": stem, "layer1": self.layer1, "layer2": self.layer2, "layer3": self.layer3}

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu()
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))


def cifar_resnet(depth: int, reduction: int) -> Callable[..., Classifier]:
    """Return the factory of one CIFAR ResNet; see :class:`CifarResNet`, and :class:`Classifier` for the keywords."""

    def factory(
        num_classes: int,
        *,
        width: float = 1.0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        head: str = "linear",
        scale: float | None = None,
        trainable_stages: int | None = None,
        class_loss: ClassLossChoice = "ce",
    ) -> Classifier:
        return Classifier(
            CifarResNet(depth, reduction, width),
            num_classes,
            mean=mean,
            std=std,
            head=head,
            scale=scale,
            trainable_stages=trainable_stages,
            class_loss=class_loss,
        )

    return factory
