"""Feature pyramids for the R-CNNs and RetinaNet, made by torchvision's own builders, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models, vgg16
from torchvision.models.detection.backbone_utils import BackboneWithFPN, mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from iifdet.detectors.options import check_switches

#: What Caffe's VGG16 subtracts, in shares of 255, and its unit: torchvision's own VGG16 for SSD expects the same.
VGG_NORM = {"image_mean": [0.48235, 0.45882, 0.40784], "image_std": [1 / 255] * 3}


@dataclass(frozen=True)
class Plan:
    """How one backbone is made.

    Attributes:
        family: ``resnet``, ``mobilenet``, ``vgg``, or ``features`` for other networks of that part.
        layers: torchvision's name of the network.
        stages: how many stages can be frozen.
        rcnn: what it brings to the models beside features, as keywords of torchvision's classes.
    """

    family: str
    layers: str
    stages: int = 5
    rcnn: dict[str, Any] | None = None


_SMALL = {
    "min_size": 320,
    "max_size": 640,
    "rpn_pre_nms_top_n_test": 150,
    "rpn_post_nms_top_n_test": 150,
    "rpn_score_thresh": 0.05,
}

#: ``backbone`` -> how it is made. The keywords of the 320 one are torchvision's. :func:`plan_of` knows others too.
BACKBONES: dict[str, Plan] = {
    "resnet50_fpn": Plan("resnet", "resnet50"),
    "resnet50_fpn_v2": Plan("resnet", "resnet50"),
    "resnet101_fpn": Plan("resnet", "resnet101"),
    "resnext101_fpn": Plan("resnet", "resnext101_32x8d"),
    "mobilenet_v3_large_fpn": Plan("mobilenet", "mobilenet_v3_large", 6),
    "mobilenet_v3_large_320_fpn": Plan("mobilenet", "mobilenet_v3_large", 6, _SMALL),
    "vgg16_fpn": Plan("vgg", "vgg16", 5, VGG_NORM),
}

#: Children of torchvision's networks, deep stages first, that ``trainable_backbone_layers`` counts.
_RESNET_STAGES = (("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"))
_VGG_STAGES = tuple(tuple(map(str, range(*ends))) for ends in ((24, 30), (17, 23), (10, 16), (5, 9), (0, 4)))


def plan_of(name: str) -> Plan:
    """How to make ``name``: one of BACKBONES, or ``<network>_fpn`` for any of torchvision's that fits.

    These are the ResNets (``resnet18_fpn``, ``wide_resnet50_2_fpn``, …) and what has a ``features`` part that reaches
    stride 32 (``convnext_tiny_fpn``, ``efficientnet_b0_fpn``, ``densenet121_fpn``, ``vgg16_bn_fpn``, …).

    Raises:
        ValueError: unknown name.
    """
    network = str(name).removesuffix("_fpn")
    if isinstance(name, str) and name in BACKBONES:
        return BACKBONES[name]
    if name == network or network not in list_models(torchvision.models):
        known = ", ".join(BACKBONES)
        raise ValueError(f"backbone: expected one of {known}, or <network>_fpn of torchvision's, got '{name}'")
    return Plan("resnet" if network.startswith(("resnet", "resnext", "wide_resnet")) else "features", network)


def check_backbone(name: str, trainable: int | None, frozen_bn: bool) -> Plan:
    """The plan of ``name``.

    Raises:
        ValueError: unknown name, a number of stages it does not have, or frozen batch norm where there is none to
            freeze by torchvision's rules.
    """
    plan = plan_of(name)
    if trainable is not None and not (type(trainable) is int and 0 <= trainable <= plan.stages):
        raise ValueError(f"trainable_backbone_layers: expected 0…{plan.stages} for {name}, got {trainable!r}")
    check_switches({"frozen_bn": frozen_bn})
    if frozen_bn and (plan.family in ("vgg", "features") or name.endswith("_v2")):
        why = "trains its own" if name.endswith("_v2") else "has no batch norm that torchvision freezes"
        raise ValueError(f"frozen_bn: {name} {why}")
    return plan


def build_backbone(name: str, *, trainable: int | None, frozen_bn: bool, retina: bool = False) -> BackboneWithFPN:
    """A network with a feature pyramid of 256 channels: strides 4 to 64, or 8 to 128 for RetinaNet.

    MobileNet's pyramid in an R-CNN is torchvision's: two maps of stride 32 and one of 64.

    Args:
        trainable: stages that learn, counted from the deepest; None is all.
        frozen_bn: batch norm as fixed numbers, as torchvision has it for pretrained backbones.
    """
    plan = check_backbone(name, trainable, frozen_bn)
    trainable = plan.stages if trainable is None else trainable
    norm: type[nn.Module] = FrozenBatchNorm2d if frozen_bn else nn.BatchNorm2d
    extra = LastLevelP6P7(256, 256) if retina else LastLevelMaxPool()
    keys: dict[str, Any] = {"weights": None, "norm_layer": norm, "trainable_layers": trainable, "extra_blocks": extra}
    if plan.family == "resnet":
        returned = [2, 3, 4] if retina else None
        return resnet_fpn_backbone(backbone_name=plan.layers, returned_layers=returned, **keys)
    if plan.family == "mobilenet":
        returned = [2, 3, 5] if retina else None
        return mobilenet_backbone(backbone_name=plan.layers, fpn=True, returned_layers=returned, **keys)
    if plan.family == "features":
        return features_fpn(plan.layers, extra, trainable, retina)
    backbone = vgg16_fpn(extra, retina)
    freeze_stages(backbone, trainable)
    return backbone


def vgg16_fpn(extra: nn.Module, retina: bool = False) -> BackboneWithFPN:
    """VGG16's conv3_3, conv4_3, conv5_3 and pool5 (strides 4, 8, 16, 32) under a feature pyramid."""
    features = vgg16(weights=None).features
    levels = {"15": 256, "22": 512, "29": 512, "30": 512}
    if retina:
        levels.pop("15")
    names = {layer: str(level) for level, layer in enumerate(levels)}
    return BackboneWithFPN(features, names, list(levels.values()), 256, extra_blocks=extra)


def features_fpn(network: str, extra: nn.Module, trainable: int, retina: bool = False) -> BackboneWithFPN:
    """The last map of each stride (4, 8, 16, 32) of a network's ``features`` under a feature pyramid.

    Args:
        trainable: stages that learn, counted from the deepest; a stage is what has the same stride.

    Raises:
        ValueError: there is no such part, or it does not reach stride 32.
    """
    features = getattr(get_model(network, weights=None), "features", None)
    if not isinstance(features, nn.Sequential):
        raise ValueError(f"backbone: expected a network with a 'features' part, got {network}; choose another")
    maps = _maps_of(features)
    last = {stride: (child, channels) for child, stride, channels in maps}
    strides = [8, 16, 32] if retina else [4, 8, 16, 32]
    if not set(strides) <= set(last):
        raise ValueError(f"backbone: expected maps of strides {strides}, {network} has {sorted(last)}; choose another")
    learning = [2, 4, 8, 16, 32][5 - trainable :]  # what has stride 1 goes with stride 2
    for child, stride, _ in maps:
        if max(2, stride) not in learning:
            features.get_submodule(child).requires_grad_(False)
    names = {last[stride][0]: str(level) for level, stride in enumerate(strides)}
    return BackboneWithFPN(features, names, [last[stride][1] for stride in strides], 256, extra_blocks=extra)


@torch.no_grad()
def _maps_of(features: nn.Sequential, side: int = 64) -> list[tuple[str, int, int]]:
    """(child, stride, channels) of what each child gives."""
    x, found, mode = torch.zeros(1, 3, side, side), [], features.training
    features.eval()  # running statistics must not move
    for name, child in features.named_children():
        x = child(x)
        found.append((name, side // x.shape[-1], int(x.shape[1])))
    features.train(mode)
    return found


def freeze_stages(backbone: BackboneWithFPN, trainable: int) -> None:
    """Leave only the deepest ``trainable`` stages of a ResNet's or VGG16's body a gradient."""
    stages = _RESNET_STAGES if "layer4" in backbone.body else _VGG_STAGES
    learning = {child for stage in stages[:trainable] for child in stage}
    for child, module in backbone.body.named_children():
        if child not in learning:
            module.requires_grad_(False)
