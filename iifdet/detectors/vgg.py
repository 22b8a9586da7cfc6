"""VGG16 (Simonyan and Zisserman, 2015) as SSD uses it: dilated fc6 and fc7, a normalised conv4_3, extra layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.detectors.darknet import scale_channels

#: Output channels of each convolution; "M" is 2x2 max pooling, "C" the same with the odd row and column kept.
TO_CONV4_3 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512)
TO_CONV5_3 = ("M", 512, 512, 512)


def vgg_layers(c_in: int, plan: Sequence[int | str]) -> nn.Sequential:
    """3x3 convolutions with ReLU, and pooling, as ``plan`` lists them."""
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, int):
            layers += [nn.Conv2d(c_in, step, 3, padding=1), nn.ReLU(inplace=True)]
            c_in = step
        else:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=step == "C"))
    return nn.Sequential(*layers)


def dilated_fc(c_in: int, c_out: int) -> nn.Sequential:
    """pool5 with stride 1, fc6 as a 3x3 convolution dilated by 6, fc7 as a 1x1 one (SSD, Section 3)."""
    return nn.Sequential(
        nn.MaxPool2d(3, 1, padding=1),
        nn.Conv2d(c_in, c_out, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 1),
        nn.ReLU(inplace=True),
    )


def extra_block(c_in: int, c_mid: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """1x1 convolution down to ``c_mid``, then a larger one that shrinks the map."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_mid, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_mid, c_out, kernel, stride, padding),
        nn.ReLU(inplace=True),
    )


#: (c_in, c_mid, c_out, kernel, stride, padding) of conv8_2, conv9_2, … (SSD, Figure 2, and its published models).
EXTRAS = {
    300: ((1024, 256, 512, 3, 2, 1), (512, 128, 256, 3, 2, 1), (256, 128, 256, 3, 1, 0), (256, 128, 256, 3, 1, 0)),
    512: (
        (1024, 256, 512, 3, 2, 1),
        (512, 128, 256, 3, 2, 1),
        (256, 128, 256, 3, 2, 1),
        (256, 128, 256, 3, 2, 1),
        (256, 128, 256, 4, 1, 1),
    ),
}


class ScaledNorm(nn.Module):
    """Each position's channel vector to length 1, times a learned scale per channel (ParseNet; SSD, Section 3.1)."""

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x) * self.scale.view(1, -1, 1, 1)


class SSDVGG16(nn.Module):
    """The feature maps that SSD predicts from, fine first.

    Args:
        size: 300 or 512, side of the input.
        width: multiplies channel counts.

    Returns:
        Features (B, c, H, W) with ``channels`` c: conv4_3 at stride 8, fc7 at 16, then the extra layers.
    """

    def __init__(self, size: int = 300, width: float = 1.0) -> None:
        super().__init__()
        c512, c1024 = scale_channels(512, width), scale_channels(1024, width)
        extras = [(*(scale_channels(c, width) for c in block[:3]), *block[3:]) for block in EXTRAS[size]]
        self.conv4 = vgg_layers(3, [scale_channels(c, width) if isinstance(c, int) else c for c in TO_CONV4_3])
        self.norm4 = ScaledNorm(c512)
        self.conv5 = vgg_layers(c512, [c512 if isinstance(c, int) else c for c in TO_CONV5_3])
        self.fc = dilated_fc(c512, c1024)
        self.extras = nn.ModuleList(extra_block(*block) for block in extras)
        self.channels = [c512, c1024, *(block[2] for block in extras)]
        for module in (self.conv4, self.conv5):
            module.apply(_init_vgg)
        self.fc.apply(init_xavier)
        self.extras.apply(init_xavier)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv4(x)
        features = [self.norm4(x)]
        x = self.fc(self.conv5(x))
        features.append(x)
        for block in self.extras:
            x = block(x)
            features.append(x)
        return features


def _init_vgg(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def init_xavier(module: nn.Module) -> None:
    """Xavier weights and zero biases for a convolution; other modules are left alone."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
