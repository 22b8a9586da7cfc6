"""Causal classifier: in inference features lose what they have in common with the mean of all that training saw."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.longtail import LogitAdjustment, directions, widened

#: Parts that features and rows are normalised in, what is kept of the moving mean a batch, what lengths of rows gain.
PARTS, MOMENTUM, GAMMA = 2, 0.9, 1 / 32


class CausalHead(nn.Module):
    """Total direct effect (TDE): (B, D) -> (B, C), in float32 at least; no bias is learned.

    In training ``z_c = s / K · Σ_k x_k/|x_k| · W_ck / (|W_ck| + γ)`` over K parts of the features, while a moving mean
    m of features goes along. It points where momentum drags all features to, which is where common classes are; so in
    inference each part loses some of it: ``x_k/|x_k| - α cos(x_k, m_k) m_k/|m_k|``. A second stage on finished features
    leaves the mean as it is. The published program moves it less as the rate falls, but for CIFAR.

    Source: Tang et al., Long-Tailed Classification by Keeping the Good and Removing the Bad Momentum Causal Effect,
    NeurIPS 2020, Section 4.

    Args:
        features: D, a multiple of K = 2.
        num_classes: C.
        scale: s.
        effect: α; 0 leaves features as they are.
    """

    class_shift: Tensor
    direction: Tensor
    folded: Tensor
    #: Buffers that each process adds up of its own batches.
    running = ("direction",)

    def __init__(self, features: int, num_classes: int, scale: float = 16.0, effect: float = 3.0) -> None:
        super().__init__()
        if features % PARTS:
            raise ValueError(f"head: causal wants an even number of features, got {features}; choose another width")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a number above 0, got {scale!r}")
        if isinstance(effect, bool | str) or not 0 <= effect < math.inf:
            raise ValueError(f"effect: expected a number from 0, got {effect!r}")
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        self.scale, self.effect = float(scale), float(effect)
        self.register_buffer("direction", torch.zeros(features))
        self.register_buffer("class_shift", torch.zeros(num_classes))
        self.register_buffer("folded", torch.zeros((), dtype=torch.bool))  # the rows are already what they act as
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows in random directions."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = widened(features)
            parts = _unit_parts(features)
            if self.training and features.requires_grad:  # features that are finished give no momentum to follow
                self._follow(features)
            if not self.training:
                common = _unit_parts(self.direction.to(features.dtype))
                parts = parts - self.effect * (parts * common).sum(-1, keepdim=True) * common
            return F.linear(parts.flatten(-2), self.rows(), self.class_shift)

    @torch.no_grad()
    def _follow(self, features: Tensor) -> None:
        """Move the moving mean on; its direction alone counts, so that it need not be scaled."""
        self.direction.mul_(MOMENTUM).add_(features.detach().mean(dim=0).to(self.direction.dtype))

    def rows(self) -> Tensor:
        """(C, D) what normalised features are multiplied by."""
        weight = widened(self.weight)
        parts = weight.unflatten(-1, (PARTS, -1))
        lengths = torch.linalg.vector_norm(parts, dim=-1, keepdim=True)
        return torch.where(self.folded, weight, (parts / (lengths + GAMMA)).flatten(-2) * (self.scale / PARTS))

    def class_biases(self) -> Tensor:
        """(C,) what is added to the logits: zeros but for a fold."""
        return self.class_shift

    def class_tensors(self) -> dict[str, Tensor]:
        """What else has a part for each class, by name."""
        return {"class_shift": self.class_shift}

    @torch.no_grad()
    def fold(self, adjust: LogitAdjustment) -> None:
        """Bake what ``adjust`` does in inference into the rows, which are taken as they are from then on."""
        rows = self.rows()
        adjust.fold_rows(rows, self.class_shift)
        self.weight.copy_(rows)
        self.folded.fill_(True)


def _unit_parts(features: Tensor) -> Tensor:
    """(..., D) -> (..., K, D / K), each part of length 1; a part of zeros stays one."""
    return directions(features.unflatten(-1, (PARTS, -1)))
