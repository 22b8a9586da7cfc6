"""ResNets and ResNeXts for photographs: torchvision's networks, with or without squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from iifdet.classifiers.base import Classifier, Network
from iifdet.classifiers.blocks import SqueezeExcite
from iifdet.longtail import ClassLossChoice
from iifdet.weight_files import IMAGENET


class SEBottleneck(Bottleneck):
    """torchvision's bottleneck with squeeze-and-excitation in front of the addition."""

    def __init__(self, inplanes: int, planes: int, *args: Any, reduction: int, **keywords: Any) -> None:
        super().__init__(inplanes, planes, *args, **keywords)
        self.se = SqueezeExcite(planes * self.expansion, reduction)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ImageNetResNet(Network):
    """torchvision's ResNet of bottlenecks up to the pooled features.

    Args:
        layers: blocks of the four stages.
        reduction: of squeeze-and-excitation, 0 for none.
        groups, width_per_group: of the 3x3 convolutions.
    """

    def __init__(self, layers: Sequence[int], reduction: int, groups: int = 1, width_per_group: int = 64) -> None:
        super().__init__()
        block: Any = Bottleneck
        if reduction:
            block = partial(SEBottleneck, reduction=reduction)
            block.expansion = Bottleneck.expansion
        self.body = ResNet(block, list(layers), num_classes=1, groups=groups, width_per_group=width_per_group)
        self.out_features = self.body.fc.in_features
        self.body.fc = nn.Identity()

    def stages(self) -> dict[str, nn.Module]:
        body = self.body
        deep = {f"layer{i}": getattr(body, f"layer{i}") for i in (1, 2, 3, 4)}
        return {"stem": nn.ModuleList([body.conv1, body.bn1]), **deep}

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def imagenet_resnet(
    layers: Sequence[int], reduction: int, groups: int = 1, width_per_group: int = 64
) -> Callable[..., Classifier]:
    """Return the factory of one network; see :class:`ImageNetResNet`, and :class:`Classifier` for the keywords."""

    def factory(
        num_classes: int,
        *,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        head: str = "linear",
        scale: float | None = None,
        trainable_stages: int | None = None,
        class_loss: ClassLossChoice = "ce",
    ) -> Classifier:
        return Classifier(
            ImageNetResNet(layers, reduction, groups, width_per_group),
            num_classes,
            mean=mean,
            std=std,
            head=head,
            scale=scale,
            trainable_stages=trainable_stages,
            class_loss=class_loss,
        )

    return factory


@torch.no_grad()
def torchvision_tensors(model: Classifier) -> dict[str, Tensor]:
    """The network's tensors by their names in torchvision's model, without what only ours has."""
    assert isinstance(model.network, ImageNetResNet)
    state = model.network.body.state_dict(keep_vars=True)
    return {k: v for k, v in state.items() if ".se." not in k and not k.endswith("num_batches_tracked")}
