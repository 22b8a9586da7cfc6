"""Starting from a pretrained backbone: torchvision's classification networks, as .pth or .safetensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import models as tv

from iifdet.detectors.backbones import plan_of
from iifdet.detectors.base import Detector
from iifdet.detectors.ssd import MEAN, SSD, STD
from iifdet.errors import InputError

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

#: What torchvision's ImageNet networks subtract and divide by.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file. A crafted file cannot run code.

    Raises:
        InputError: missing, unreadable, or something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which is not there"
        raise InputError(f"weights: expected a file, got {path}, {what}; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises types of its own for each way in which a file can be wrong
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:160]}".strip()
        raise InputError(
            f"weights: expected named tensors, got {path}: cut short, or of another kind ({reason}); get it again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        raise InputError(
            f"weights: expected a state dict, got a training checkpoint around one: {path}; "
            "save what is under 'model' alone"
        )
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights: expected a state dict, got other content in {path}; save model.state_dict()")
    return state


def fetch_default(model: Detector) -> dict[str, Tensor]:
    """torchvision's ImageNet weights for the backbone of ``model``, from its cache or the network.

    Raises:
        InputError: there are none, or neither has them.
    """
    name = "ssd" if isinstance(model, SSD) else model.spec.get("args", {}).get("backbone", "resnet50_fpn")
    if not (isinstance(model, SSD) or hasattr(model, "net")):
        raise InputError("weights: 'default' fits SSD, R-CNN and RetinaNet models; for YOLOv3 pass a Darknet file")
    entry = PUBLISHED.get(name) or tv.get_model_weights(plan_of(name).layers).DEFAULT
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network, or a file that was cut short
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"weights: could not fetch {entry.url} ({type(error).__name__}); fetch it where there is a network, "
            f"then put it into {folder}, or pass weights=<path of the file>"
        ) from error


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
    missing = [name for name in wanted if name not in state]
    wrong = [name for name, tensor in wanted.items() if name in state and state[name].shape != tensor.shape]
    if missing or wrong:
        log.warning(
            "%s", f"missing in the file: {', '.join(missing) or 'none'}; other shapes: {', '.join(wrong) or 'none'}"
        )
        raise InputError(
            f"weights: expected {len(wanted)} tensors of this model's backbone; missing {_some(missing)}, "
            f"other shapes {_some(wrong)}; choose the file of the same network"
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5) if names else "none"
