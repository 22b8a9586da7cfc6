"""Layers of R-CNNs that look at directions: what features and rows are like, not how long they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.detectors.options import check_positive
from iifdet.longtail import LogitAdjustment, directions, widened

#: What a cosine of 1 comes to, as Wang et al. have it.
SCALE = 20.0


class CosineLinear(nn.Module):
    """``z_c = s · x/|x| · W_c/|W_c| + b_c``, (R, D) -> (R, C), in float32 at least.

    An adjustment acts on z: rows that are multiplied before they get a length of 1 are as they were. Buffer
    ``class_scale`` (C,) is 1 until :meth:`fold` writes lengths there.

    Source: Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, CVPR 2021, Section 3.3 (normalized linear).

    Args:
        features: D.
        columns: C.
        scale: s; the IIF paper's best Mask R-CNN has 8.
    """

    class_scale: Tensor

    def __init__(self, features: int, columns: int, scale: float = SCALE) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = features, columns, float(scale)
        self.weight = nn.Parameter(torch.empty(columns, features))
        self.bias = nn.Parameter(torch.empty(columns))
        self.register_buffer("class_scale", torch.ones(columns))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows in random directions."""
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def rows(self) -> Tensor:
        """(C, D) what features of length 1 are multiplied by."""
        return directions(widened(self.weight)) * (self.scale * self.class_scale).unsqueeze(-1)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(directions(widened(features)), self.rows(), widened(self.bias))

    @torch.no_grad()
    def fold(self, adjust: LogitAdjustment) -> None:
        """Bake what ``adjust`` does in inference into directions, ``class_scale`` and biases; row 0 is background."""
        rows = self.rows()
        adjust.fold_rows(rows[1:], self.bias[1:], (rows[0], self.bias[0]))
        self.weight.copy_(rows)
        self.class_scale.copy_(torch.linalg.vector_norm(rows, dim=-1) / self.scale)


class CosineConv(nn.Module):
    """:class:`CosineLinear` at each place of a map: (N, D, h, w) -> (N, C, h, w) logits of masks.

    Source: Wang et al., Seesaw Loss, CVPR 2021, Section 3.3 (normalized mask predictor).
    """

    def __init__(self, features: int, columns: int, scale: float = SCALE) -> None:
        super().__init__()
        self.scale = float(scale)
        self.weight = nn.Parameter(torch.empty(columns, features, 1, 1))
        self.bias = nn.Parameter(torch.empty(columns))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torchvision's own begins."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            rows = self.scale * directions(widened(self.weight), dim=1)
            return F.conv2d(directions(widened(maps), dim=1), rows, widened(self.bias))


#: What an R-CNN's class logits are: sums, or cosines.
HEADS = ("linear", "cosine")


def check_head(head: str, scale: float | None) -> None:
    """Refuse a head that there is not, or a scale where it scales nothing.

    Raises:
        ValueError: it names the option.
    """
    if head not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, got '{head}'")
    if scale is not None and head != "cosine":
        raise ValueError(f"scale: expected none with head={head}, got {scale}; use head=cosine")
    check_positive("scale", scale)
