"""Convolutions with their weights packed and the activation behind them inside: faster on a CPU.

PyTorch reorders a convolution's weights in every call and passes over its output once more for the activation; its
compiler avoids both by calling the operator of oneDNN that is called here. 3x3 convolutions of many channels go by
``winograd``. Same outputs up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.detectors import winograd

#: An activation as oneDNN names it, its numbers, and an algorithm where there are several.
Activation = tuple[str, list[float], str]
NOTHING: Activation = ("none", [], "")


class PackedConv2d(nn.Module):
    """A convolution and an activation, for inference on a CPU in float32.

    Weights are packed for inputs of the first shape that comes, most often the only one. For others they are as they
    were: packed for the wrong shape, some take three times as long.

    Args:
        conv: without padding modes other than zeros.
        activation: what follows it.
    """

    def __init__(self, conv: nn.Conv2d, activation: Activation = NOTHING) -> None:
        super().__init__()
        # Not registered: what is packed is opaque to state_dict.
        self.weight: Any = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.where: Any = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.activation = activation
        self.shape: torch.Size | None = None
        self.packed: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.shape is None:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.where, list(x.shape))
            self.shape = x.shape
        weight = self.packed if x.shape == self.shape else self.weight
        x = x.contiguous(memory_format=torch.channels_last)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.where, *self.activation)
        return result

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from: it packs anew, since nothing can copy what is packed."""
        return {**self.__dict__, "shape": None, "packed": None}


@torch.no_grad()
def pack_convolutions(model: nn.Module) -> nn.Module:
    """Pack every convolution of a model in place; it can only infer afterwards, on the CPU.

    Where this PyTorch has no such operator, or it gives something else than a convolution, nothing happens.
    """
    if not _works():
        return model
    for parent, name, conv, behind in list(_convolutions(model)):
        activation = None if behind is None else getattr(parent, behind)
        setattr(parent, name, _packed(conv, activation))
        if behind is not None:
            setattr(parent, behind, nn.Identity())
    return model


def _packed(conv: nn.Conv2d, activation: nn.Module | None) -> nn.Module:
    if winograd.suits(conv):
        return winograd.WinogradConv2d(conv, _in_place(activation))
    return PackedConv2d(conv, _described(activation))


def _convolutions(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d, str | None]]:
    """(parent, name, convolution, name of the activation behind it or None) of what can be packed."""
    for parent in model.modules():
        children = list(parent.named_children())
        for i, (name, child) in enumerate(children):
            if type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                yield parent, name, child, _activation_behind(children[i + 1 :]) if _in_turn(parent) else None


def _in_turn(parent: nn.Module) -> bool:
    """Whether a module calls its children one after the other, and does nothing else."""
    return isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward


def _activation_behind(children: list[tuple[str, nn.Module]]) -> str | None:
    """The first that is not an Identity, if it is an activation that can be taken in."""
    for name, child in children:
        if not isinstance(child, nn.Identity):
            return name if type(child) in (nn.ReLU, nn.LeakyReLU) else None
    return None


def _described(module: nn.Module | None) -> Activation:
    if module is None:
        return NOTHING
    return ("leaky_relu", [module.negative_slope], "") if isinstance(module, nn.LeakyReLU) else ("relu", [], "")


def _in_place(module: nn.Module | None) -> nn.Module | None:
    if module is None:
        return None
    return nn.LeakyReLU(module.negative_slope, inplace=True) if isinstance(module, nn.LeakyReLU) else nn.ReLU(True)


def _works() -> bool:
    """Whether the operator is there and right. It is PyTorch's own, for its compiler, and promised to nobody."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    x = torch.linspace(-1, 1, 144).reshape(1, 4, 6, 6)
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
        conv = nn.Conv2d(4, 8, 3, padding=1)
        try:
            packed = PackedConv2d(conv, ("leaky_relu", [0.1], ""))(x)
        except (RuntimeError, AttributeError, TypeError):
            return False
        return torch.allclose(packed, nn.functional.leaky_relu(conv(x), 0.1), atol=1e-5)
