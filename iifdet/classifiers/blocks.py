"""Squeeze-and-excitation."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole map says of them (Hu et al., CVPR 2018): ``x · σ(B relu(A mean(x)))``.

    (B, C, H, W), same shape out. Both layers are without bias.

    Args:
        channels: C.
        reduction: r; the layer between has C / r channels.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        if type(reduction) is not int or not 1 <= reduction <= channels:
            raise ValueError(f"reduction: expected a whole number from 1 to {channels}, got {reduction!r}")
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3))  # (B, C)
        gates = self.excite(self.squeeze(pooled).relu()).sigmoid()
        return x * gates[:, :, None, None]
