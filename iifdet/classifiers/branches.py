"""Networks that part into branches: experts that share their first stages, two branches that share nearly all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iifdet.classifiers.network import Network


class ExpertNetwork(Network):
    """(B, 3, H, W) -> (B, E, D) features of E experts.

    Args:
        trunk: first stages, which the experts share.
        experts: the rest of each, up to the maps that are pooled.
        out_features: D.
        side: of the images that it is for, pixels.
    """

    parallel = True

    def __init__(self, trunk: nn.Module, experts: Sequence[nn.Module], out_features: int, side: int) -> None:
        super().__init__()
        self.trunk, self.experts = trunk, nn.ModuleList(experts)
        self.out_features, self.side = out_features, side

    def stages(self) -> dict[str, nn.Module]:
        return {"trunk": self.trunk, "experts": self.experts}

    def last_maps(self) -> dict[str, nn.Module]:
        return {f"expert{number}": expert for number, expert in enumerate(self.experts, start=1)}

    def forward(self, images: Tensor) -> Tensor:
        shared = self.trunk(images)
        return torch.stack([expert(shared).mean(dim=(2, 3)) for expert in self.experts], dim=1)


class BilateralNetwork(Network):
    """(B, 3, H, W) -> (B, 2 D) features of two branches side by side.

    Args:
        trunk: what the branches share.
        uniform, reversed_: the last block of each.
        out_features: 2 D.
        side: of the images that it is for, pixels.
    """

    parallel = True

    def __init__(
        self, trunk: nn.Module, uniform: nn.Module, reversed_: nn.Module, out_features: int, side: int
    ) -> None:
        super().__init__()
        self.trunk, self.uniform, self.reversed = trunk, uniform, reversed_
        self.out_features, self.side = out_features, side

    def stages(self) -> dict[str, nn.Module]:
        return {"trunk": self.trunk, "branches": nn.ModuleList([self.uniform, self.reversed])}

    def last_maps(self) -> dict[str, nn.Module]:
        return {"uniform": self.uniform, "reversed": self.reversed}

    def forward(self, images: Tensor) -> Tensor:
        shared = self.trunk(images)
        return torch.cat([branch(shared).mean(dim=(2, 3)) for branch in (self.uniform, self.reversed)], dim=1)

    def blended(self, ours: Tensor, theirs: Tensor, share: Tensor) -> Tensor:
        """(B, 2 D) features of pairs of images: ``share`` of the first branch's, the rest of the second's, doubled.

        The images of each kind pass the trunk by themselves, so that its batch norms never see both at once.
        """
        first = self.uniform(self.trunk(ours)).mean(dim=(2, 3))
        second = self.reversed(self.trunk(theirs)).mean(dim=(2, 3))
        return 2 * torch.cat([share * first, (1 - share) * second], dim=1)
