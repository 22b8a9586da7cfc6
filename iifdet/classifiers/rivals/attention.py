"""Attention over the places of a map, as the memory of open long-tailed recognition has it."""

from __future__ import annotations

from torch import Tensor, nn


class ModulatedAttention(nn.Module):
    """(B, C, H, W) -> the same shape: ``x + s · m(x)``. The mask m is what all places have to say to each (a non-local
    block), s a share for each place; it begins as the identity.

    Source: Liu et al., Large-Scale Long-Tailed Recognition in an Open World (OLTR), CVPR 2019, Section 3.1.

    Args:
        channels: C.
        side: H = W; the shares are a linear layer over the whole map.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.side = side
        self.value, self.query, self.key = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.mask = nn.Conv2d(inner, channels, 1, bias=False)
        nn.init.zeros_(self.mask.weight)
        self.shares = nn.Linear(channels * side**2, side**2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"imgsz: expected images whose last maps are {self.side} by {self.side}, got {x.shape[-2]} by "
                f"{x.shape[-1]}; use the size that the network is for"
            )
        value, query, key = (layer(x).flatten(2) for layer in (self.value, self.query, self.key))  # (B, C / 2, H W)
        told = value @ (query.transpose(1, 2) @ key).softmax(dim=-1).transpose(1, 2)
        mask = self.mask(told.unflatten(2, (self.side, self.side)))
        shares = self.shares(x.flatten(1)).softmax(dim=-1).view(-1, 1, self.side, self.side)
        return x + shares * mask
