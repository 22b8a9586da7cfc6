"""ResNets and ResNeXts for photographs: torchvision's networks, with or without squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from iifdet.classifiers.assembly import Shapes, assemble
from iifdet.classifiers.base import Classifier
from iifdet.classifiers.blocks import SqueezeExcite
from iifdet.classifiers.branches import BilateralNetwork, ExpertNetwork
from iifdet.classifiers.network import Network
from iifdet.weight_files import IMAGENET

#: Side of the images, and channels behind the second stage.
SIDE, SECOND_STAGE = 224, 512


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

    side = SIDE

    def __init__(self, layers: Sequence[int], reduction: int, groups: int = 1, width_per_group: int = 64) -> None:
        super().__init__()
        self.block = _block(reduction)
        self.body = ResNet(self.block, list(layers), num_classes=1, groups=groups, width_per_group=width_per_group)
        self.out_features = self.body.fc.in_features
        self.body.fc = nn.Identity()

    def stages(self) -> dict[str, nn.Module]:
        body = self.body
        deep = {f"layer{i}": getattr(body, f"layer{i}") for i in (1, 2, 3, 4)}
        return {"stem": nn.ModuleList([body.conv1, body.bn1]), **deep}

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)

    def inner(self, images: Tensor) -> Tensor:
        maps = images
        for module in (*self.first_stages(), self.body.layer3):
            maps = module(maps)
        return maps

    def outer(self, maps: Tensor) -> Tensor:
        return self.body.avgpool(self.body.layer4(maps)).flatten(1)

    def inner_channels(self) -> int:
        return self.out_features // 2

    def attend(self, make: Callable[[int, int], nn.Module]) -> None:
        body: Any = self.body
        body.avgpool = nn.Sequential(make(self.out_features, SIDE // 32), body.avgpool)

    def last_maps(self) -> dict[str, nn.Module]:
        pool: Any = self.body.avgpool
        return {"attention": pool[0]} if isinstance(pool, nn.Sequential) else super().last_maps()

    def first_stages(self) -> list[nn.Module]:
        """The modules that an image passes up to the second stage."""
        body = self.body
        return [body.conv1, body.bn1, body.relu, body.maxpool, body.layer1, body.layer2]


def _block(reduction: int) -> Any:
    if not reduction:
        return Bottleneck
    block: Any = partial(SEBottleneck, reduction=reduction)
    block.expansion = Bottleneck.expansion
    return block


def imagenet_experts(whole: ImageNetResNet, layers: Sequence[int], experts: int) -> ExpertNetwork:
    """A network of which each expert has its own third and fourth stage, with three quarters of the channels."""
    body, rest = whole.body, []
    for _ in range(experts):
        body.inplanes = SECOND_STAGE
        deep = [body._make_layer(whole.block, planes, layers[i], stride=2) for i, planes in ((2, 192), (3, 384))]
        rest.append(_initialized(nn.Sequential(*deep)))
    return ExpertNetwork(nn.Sequential(*whole.first_stages()), rest, 384 * Bottleneck.expansion, SIDE)


def imagenet_bilateral(whole: ImageNetResNet) -> BilateralNetwork:
    """A network of which each branch has its own last block."""
    body, features = whole.body, whole.out_features
    shared = nn.Sequential(*whole.first_stages(), body.layer3, body.layer4[:-1])
    body.inplanes = features
    (other,) = _initialized(body._make_layer(whole.block, features // Bottleneck.expansion, 1))
    return BilateralNetwork(shared, body.layer4[-1], other, 2 * features, SIDE)


def _initialized(layers: nn.Sequential) -> nn.Sequential:
    """As torchvision's ResNet draws the layers that it is made with."""
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layers


def imagenet_resnet(
    layers: Sequence[int], reduction: int, groups: int = 1, width_per_group: int = 64
) -> Callable[..., Classifier]:
    """Return the factory of one network; see :class:`ImageNetResNet`, and :func:`assemble` for the keywords."""

    def whole() -> ImageNetResNet:
        return ImageNetResNet(layers, reduction, groups, width_per_group)

    shapes = Shapes(
        whole,
        lambda number: imagenet_experts(whole(), layers, number),
        lambda: imagenet_bilateral(whole()),
    )

    def factory(
        num_classes: int,
        *,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        **options: Any,
    ) -> Classifier:
        return assemble(shapes, num_classes, mean=mean, std=std, **options)

    return factory


@torch.no_grad()
def torchvision_tensors(model: Classifier) -> dict[str, Tensor]:
    """The network's tensors by their names in torchvision's model, without what only ours has."""
    assert isinstance(model.network, ImageNetResNet)
    state = model.network.body.state_dict(keep_vars=True)
    return {k: v for k, v in state.items() if ".se." not in k and not k.endswith("num_batches_tracked")}
