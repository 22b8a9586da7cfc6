"""Distribution alignment: what a second stage learns on top of finished class rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iifdet.longtail.adjust import widened


class Alignment(nn.Module):
    """``σ (α z + β) + (1 - σ) z``, ``σ = sigmoid(v · x + c)``: logits (B, C) and features (B, D) -> (B, C), in float32.

    B images, or in an R-CNN proposals, whose background logit passes it by.

    What is learned of each class is ``gain``, α - 1, and ``shift``, β; both begin at 0, which changes nothing, and
    weight decay leads back there. The authors' program for images begins at a gain of 1, that for boxes as here. The
    gate σ depends on the image, so that no class row can carry it.

    Source: Zhang et al., Distribution Alignment: A Unified Framework for Long-tail Visual Recognition (DisAlign), CVPR
    2021, Section 3.2.

    Args:
        features: D.
        num_classes: C.
        spread: of the normal distribution that v is drawn from, where features are large, as those of boxes; by default
            all of it begins at 0.1. Both are as published.

    Example:
        >>> align, z = Alignment(2, 3), torch.tensor([[1.0, 2.0, 3.0]])
        >>> torch.equal(align(z, torch.ones(1, 2)), z)
        True
    """

    def __init__(self, features: int, num_classes: int, spread: float | None = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(num_classes))
        self.shift = nn.Parameter(torch.zeros(num_classes))
        self.gate = nn.Linear(features, 1)
        if spread is None:
            nn.init.constant_(self.gate.weight, 0.1)
        else:
            nn.init.normal_(self.gate.weight, std=spread)
        nn.init.zeros_(self.gate.bias)

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            gate = self.gate(widened(features)).sigmoid()
            return logits + gate * (logits * self.gain + self.shift)
