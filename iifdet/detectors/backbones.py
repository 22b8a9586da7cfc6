"""Feature pyramids for the R-CNNs and RetinaNet, made by torchvision's own builders, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision.models import vgg16
from torchvision.models.detection.backbone_utils import BackboneWithFPN, mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

#: What Caffe's VGG16 subtracts, in shares of 255, and its unit: torchvision's own VGG16 for SSD expects the same.
VGG_NORM = {"image_mean": [0.48235, 0.45882, 0.40784], "image_std": [1 / 255] * 3}


@dataclass(frozen=True)
class Plan:
    """How one backbone is made.

    Attributes:
        family: ``resnet``, ``mobilenet`` or ``vgg``.
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

#: ``backbone`` -> how it is made. The keywords of the 320 one are torchvision's.
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


def check_backbone(name: str, trainable: int | None, frozen_bn: bool) -> Plan:
    """The plan of ``name``.

    Raises:
        ValueError: unknown name, a number of stages it does not have, or frozen batch norm where there is none to
            freeze by torchvision's rules.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, got '{name}'")
    plan = BACKBONES[name]
    if trainable is not None and not 0 <= trainable <= plan.stages:
        raise ValueError(f"trainable_backbone_layers: expected 0…{plan.stages} for {name}, got {trainable}")
    if frozen_bn and (plan.family == "vgg" or name.endswith("_v2")):
        raise ValueError(f"frozen_bn: {name} {'has no batch norm' if plan.family == 'vgg' else 'trains its own'}")
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


def freeze_stages(backbone: BackboneWithFPN, trainable: int) -> None:
    """Leave only the deepest ``trainable`` stages of a ResNet's or VGG16's body a gradient."""
    stages = _RESNET_STAGES if "layer4" in backbone.body else _VGG_STAGES
    learning = {child for stage in stages[:trainable] for child in stage}
    for child, module in backbone.body.named_children():
        if child not in learning:
            module.requires_grad_(False)
