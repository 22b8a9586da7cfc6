"""Starting from a pretrained backbone: torchvision's classification networks, as .pth or .safetensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision import models as tv

from iifdet.detectors.backbones import plan_of
from iifdet.detectors.base import Detector
from iifdet.detectors.ssd import MEAN, SSD, STD
from iifdet.errors import InputError
from iifdet.weight_files import IMAGENET, fetch_published, mismatched, some_names

log = logging.getLogger("iifdet")

#: torchvision's ImageNet weights of each network that a backbone can be.
PUBLISHED: dict[str, Any] = {
    "resnet50_fpn": tv.ResNet50_Weights.IMAGENET1K_V1,
    "resnet50_fpn_v2": tv.ResNet50_Weights.IMAGENET1K_V2,
    "resnet101_fpn": tv.ResNet101_Weights.IMAGENET1K_V1,
    "resnext101_fpn": tv.ResNeXt101_32X8D_Weights.IMAGENET1K_V1,
    "mobilenet_v3_large_fpn": tv.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    "mobilenet_v3_large_320_fpn": tv.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    "vgg16_fpn": tv.VGG16_Weights.IMAGENET1K_FEATURES,
    "ssd": tv.VGG16_Weights.IMAGENET1K_FEATURES,
}


def fetch_default(model: Detector) -> dict[str, Tensor]:
    """torchvision's ImageNet weights for the backbone of ``model``, from its cache or the network.

    Raises:
        InputError: there are none, or neither has them.
    """
    name = "ssd" if isinstance(model, SSD) else model.spec.get("args", {}).get("backbone", "resnet50_fpn")
    if not (isinstance(model, SSD) or hasattr(model, "net")):
        raise InputError("weights: 'default' fits SSD, R-CNN and RetinaNet models; for YOLOv3 pass a Darknet file")
    entry = PUBLISHED.get(name) or tv.get_model_weights(plan_of(name).layers).DEFAULT
    return fetch_published(entry)


@torch.no_grad()
def load_backbone(model: Detector, state: Mapping[str, Tensor]) -> list[str]:
    """Fill the backbone of an SSD, R-CNN or RetinaNet from a classification network, in place.

    Strict: every tensor of the backbone must be in the file, in its shape; the file's classifier is left over.

    Returns:
        What happened and what was left over, one line each.

    Raises:
        InputError: something is missing or has another shape; nothing is changed then.
    """
    wanted = _wanted(model)
    missing, wrong = mismatched(wanted, state)
    if missing or wrong:
        log.warning(
            "%s", f"missing in the file: {', '.join(missing) or 'none'}; other shapes: {', '.join(wrong) or 'none'}"
        )
        raise InputError(
            f"weights: expected {len(wanted)} tensors of this model's backbone; missing {some_names(missing)}, "
            f"other shapes {some_names(wrong)}; choose the file of the same network"
        )
    for name, tensor in wanted.items():
        tensor.copy_(state[name])
    notes = [f"{len(wanted)} tensors of the backbone loaded; everything else keeps random weights"]
    left = [name for name in state if name not in wanted and not name.endswith("num_batches_tracked")]
    if left:
        notes.append(f"left over in the file: {', '.join(left)}")
    if _sees_255(model) and _for_imagenet(state):
        _rescale(wanted["features.0.weight"], wanted["features.0.bias"])
        notes.append("first layer rescaled from unit variance to the 0…255 that this VGG16 sees")
    return notes


def _wanted(model: Detector) -> dict[str, Tensor]:
    """Tensors of the backbone by their names in torchvision's classification network."""
    if isinstance(model, SSD):
        found = {f"features.{name}": t for name, t in model.backbone.conv4.state_dict(keep_vars=True).items()}
        for name, tensor in model.backbone.conv5.state_dict(keep_vars=True).items():
            layer, _, kind = name.partition(".")
            found[f"features.{int(layer) + 23}.{kind}"] = tensor
        return found
    net: Any = getattr(model, "net", None)
    if net is None:
        raise InputError(f"weights: {type(model).__name__} has no torchvision backbone; pass a Darknet file")
    body = net.backbone.body
    prefix = "" if "layer4" in body else "features."
    tensors = body.state_dict(keep_vars=True)
    return {prefix + name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}


def _sees_255(model: Detector) -> bool:
    """Whether the network sees values from -124 to 151, as Caffe's VGG16 did, instead of unit variance."""
    if isinstance(model, SSD):
        return True
    net: Any = getattr(model, "net", None)
    return net is not None and net.transform.image_std[0] < 0.01


def _for_imagenet(state: Mapping[str, Tensor]) -> bool:
    """torchvision's VGG16 with a classifier sees unit variance; those made for SSD see 0…255 and have none, or NaN."""
    classifier = state.get("classifier.0.weight")
    return classifier is not None and bool(classifier.isfinite().all())


def _rescale(weight: Tensor, bias: Tensor) -> None:
    """Make a first layer for ``(x - m) / s`` one for ``(x - MEAN) / STD``. Exact but for the padded border."""
    mean, std = (weight.new_tensor(v).view(1, 3, 1, 1) for v in IMAGENET)
    bias += (weight * (weight.new_tensor(MEAN).view(1, 3, 1, 1) - mean) / std).sum(dim=(1, 2, 3))
    weight *= STD / std
