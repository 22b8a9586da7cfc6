"""What makes inference faster: batch norm into the convolution before it, and on a CPU convolutions packed."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from iifdet.detectors.base import Detector
from iifdet.detectors.packing import pack_convolutions
from iifdet.longtail import AdjustedModel

#: A model with ``raw``.
M = TypeVar("M", bound=AdjustedModel)
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


@torch.no_grad()
def fuse(model: Detector, size: tuple[int, int]) -> Detector:
    """Make a detector in eval mode faster, in place; it can only infer afterwards. Same outputs up to rounding.

    Args:
        model: in float32.
        size: (height, width) of the images that are to come; it is run on one.
    """
    fuse_batch_norms(model, torch.zeros(1, 3, *size, device=model.device))
    if model.device.type == "cpu":
        pack_convolutions(model)
    return model


@torch.no_grad()
def fuse_batch_norms(model: M, images: Tensor) -> M:
    """Fuse every batch norm that stands directly behind a convolution, in place. The model cannot train afterwards.

    Args:
        model: a detector or classifier in eval mode.
        images: (B, 3, H, W) that ``raw`` is run on once, to see what stands behind what.

    Raises:
        ValueError: the model is in train mode, where batch norm depends on the batch.
    """
    if model.training:
        raise ValueError("fuse_batch_norms: expected a model in eval mode, got train mode; call eval() first")
    for name, norm, conv in _behind_convolutions(model, images):
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _behind_convolutions(model: Any, images: Tensor) -> list[tuple[str, Any, Any]]:
    """(name, norm, convolution) of norms whose only input is what one convolution gave, to them alone among norms."""
    given: dict[int, tuple[Tensor, nn.Module]] = {}  # the tensors are kept, or their ids would come again
    met: set[tuple[str, nn.Module | None]] = set()

    def note(conv: nn.Module, _: Any, output: Tensor) -> None:
        given[id(output)] = (output, conv)

    names = {module: name for name, module in model.named_modules()}

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        met.add((names[norm], given.get(id(inputs[0]), (None, None))[1]))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, NORMS)]
    try:
        model.raw(images)
    finally:
        for hook in hooks:
            hook.remove()
    norms, convolutions = [name for name, _ in met], [conv for _, conv in met]
    return [
        (name, model.get_submodule(name), conv)
        for name, conv in sorted(met, key=lambda pair: pair[0])
        if conv is not None and norms.count(name) == 1 and convolutions.count(conv) == 1
    ]
