"""Class rows of length 1: what counts is the angle between a row and the features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.longtail import LogitAdjustment, directions, widened


def squash(features: Tensor) -> Tensor:
    """``x / (1 + |x|)``: the direction of x, with a length from 0 to 1. (..., D), same shape out; 0 stays 0.

    Example:
        >>> squash(torch.tensor([[3.0, 0.0], [0.0, 0.0]])).tolist()
        [[0.75, 0.0], [0.0, 0.0]]
    """
    return features / (1 + torch.linalg.vector_norm(features, dim=-1, keepdim=True))


class CosineHead(nn.Module):
    """``z_c = s · x/(1+|x|) · W_c/|W_c|``, (B, D) -> (B, C), in float32 at least; no bias is learned.

    The head of the paper's models (Section V-A.2; scale 16 for CIFAR-LT and ImageNet-LT).

    Args:
        features: D.
        num_classes: C.
        scale: s.

    Buffers ``class_scale`` and ``class_shift`` (C,) are 1 and 0 until :meth:`fold` writes an adjustment there: rows of
    length 1 cannot carry one.
    """

    class_scale: Tensor
    class_shift: Tensor

    def __init__(self, features: int, num_classes: int, scale: float = 16.0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a number above 0, got {scale!r}")
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        self.fixed_scale = float(scale)
        self.register_buffer("class_scale", torch.ones(num_classes))
        self.register_buffer("class_shift", torch.zeros(num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows in random directions."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def scale(self) -> Tensor | float:
        """s, what a cosine of 1 comes to."""
        return self.fixed_scale

    def rows(self) -> Tensor:
        """(C, D) what squashed features are multiplied by."""
        return directions(widened(self.weight)) * (self.class_scale * self.scale()).unsqueeze(-1)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(squash(widened(features)), self.rows(), self.class_shift)

    def class_biases(self) -> Tensor:
        """(C,) what is added to the logits: zeros but for a fold."""
        return self.class_shift

    def class_tensors(self) -> dict[str, Tensor]:
        """What else has a part for each class, by name."""
        return {"class_scale": self.class_scale, "class_shift": self.class_shift}

    @torch.no_grad()
    def fold(self, adjust: LogitAdjustment) -> None:
        """Bake what ``adjust`` does in inference into the rows' directions, ``class_scale`` and ``class_shift``."""
        rows = self.rows()
        adjust.fold_rows(rows, self.class_shift)
        self.weight.copy_(rows)
        self.class_scale.copy_(torch.linalg.vector_norm(rows, dim=-1) / self.scale())


class LearnedCosineHead(CosineHead):
    """A cosine head with ``s = t²``, t learned from 5 on: the paper's head for Places-LT."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, num_classes)
        self.root_scale = nn.Parameter(torch.tensor(5.0))

    def scale(self) -> Tensor:
        return widened(self.root_scale).square()
