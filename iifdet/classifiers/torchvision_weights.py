"""Starting a classifier from torchvision's ImageNet networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from iifdet.classifiers.base import Classifier
from iifdet.classifiers.heads import LinearHead
from iifdet.classifiers.imagenet import ImageNetResNet, SEBottleneck, torchvision_tensors
from iifdet.errors import InputError
from iifdet.weight_files import fetch_published, mismatched, some_names


def fetch_default(model: Classifier) -> dict[str, Tensor]:
    """torchvision's ImageNet weights for the network of ``model``, from its cache or the network.

    Raises:
        InputError: there are none, or neither has them.
    """
    _check(model)
    return fetch_published(get_model_weights(model.spec["name"].removeprefix("se_")).DEFAULT)


@torch.no_grad()
def load_torchvision(model: Classifier, state: Mapping[str, Tensor], *, classifier: bool = False) -> list[str]:
    """Fill a classifier from torchvision's network of the same layers, in place.

    Strict: all tensors of the network must be in the file, in their shapes. Squeeze-and-excitation, which torchvision's
    networks do not have, starts neutral: the features are the plain network's.

    Args:
        classifier: also take the file's class rows, by number: ImageNet's classes must be the model's, in ImageNet's
            order. By default they are left over, since data sets such as ImageNet-LT may number them otherwise.

    Returns:
        What happened and what was left over, one line each.

    Raises:
        InputError: something is missing or has another shape; nothing is changed then.
    """
    _check(model)
    wanted = torchvision_tensors(model)
    if classifier:
        if not isinstance(model.head, LinearHead):
            raise InputError("weights: torchvision's class rows fit a linear head alone; use head=linear")
        wanted |= {"fc.weight": model.head.weight, "fc.bias": model.head.bias}
    missing, wrong = mismatched(wanted, state)
    extra = [name for name in state if name not in wanted and not name.endswith("num_batches_tracked")]
    foreign = [name for name in extra if not name.startswith("fc.")]
    if missing or wrong or foreign:
        raise InputError(
            f"weights: expected {len(wanted)} tensors of this network; missing {some_names(missing)}, other shapes "
            f"{some_names(wrong)}, unknown {some_names(foreign)}; choose the file of the same network"
        )
    for name, tensor in wanted.items():
        tensor.copy_(state[name])
    gated = [module for module in model.network.modules() if isinstance(module, SEBottleneck)]
    for block in gated:
        _open(block)
    rest = "the head keeps random weights" if not classifier else "the head's among them"
    notes = [f"{len(wanted)} tensors of torchvision's network loaded; {rest}"]
    if gated:
        notes.append(f"squeeze-and-excitation of {len(gated)} blocks starts neutral, gates at a half of doubled maps")
    return notes + ([f"left over in the file: {some_names(extra)}"] if extra else [])


def _open(block: SEBottleneck) -> None:
    """Let a block do what it does without its gates. Random ones would halve it unevenly, frozen ones for ever."""
    block.se.excite.weight.zero_()  # σ(0) = 1/2 for every image
    block.bn3.weight.mul_(2)
    block.bn3.bias.mul_(2)


def _check(model: Classifier) -> None:
    if not isinstance(model.network, ImageNetResNet):
        raise InputError(
            f"weights: torchvision has none for {model.spec.get('name', 'this model')}, or not as model_args make it; "
            "leave weights out"
        )
