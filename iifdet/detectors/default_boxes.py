"""SSD's default boxes, and the code that turns boxes into offsets from them and back (Liu et al., ECCV 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iifdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

#: Offsets are multiplied by these, so that all have about unit variance.
CENTRE, SIZE = 10.0, 5.0
#: Largest exponent when a size is decoded: no default box grows by more than 1000/16.
_LARGEST = math.log(1000 / 16)


@dataclass(frozen=True)
class BoxPlan:
    """The default boxes of an input size.

    Attributes:
        size: side of the input in pixels.
        grids: cells a side of each feature map.
        steps: pixels between cells.
        scales: box side as a share of the input for each map, and one more; √(s_k s_{k+1}) gives the second square.
        ratios: aspect ratios beside 1; each comes lying and standing.
    """

    size: int
    grids: tuple[int, ...]
    steps: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[tuple[int, ...], ...]

    @property
    def per_cell(self) -> list[int]:
        """Default boxes at each cell of each map."""
        return [2 + 2 * len(r) for r in self.ratios]

    def boxes(self) -> Tensor:
        """(N, 4) xyxy in pixels, ordered by map, row, column, box; they may reach outside the input."""
        parts = []
        for k, (grid, step) in enumerate(zip(self.grids, self.steps, strict=True)):
            centre = (torch.arange(grid) + 0.5) / (self.size / step)
            y, x = torch.meshgrid(centre, centre, indexing="ij")
            shapes = self._shapes(k)  # (A, 2)
            centres = torch.stack((x, y), dim=-1).reshape(-1, 1, 2).expand(-1, len(shapes), 2)  # (H·W, A, 2)
            parts.append(torch.cat((centres, shapes.expand(len(centres), -1, 2)), dim=2).reshape(-1, 4))
        return cxcywh_to_xyxy(torch.cat(parts)) * self.size

    def _shapes(self, k: int) -> Tensor:
        scale, between = self.scales[k], math.sqrt(self.scales[k] * self.scales[k + 1])
        shapes = [(scale, scale), (between, between)]
        for ratio in self.ratios[k]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        return torch.tensor(shapes).clamp(max=1.0)


#: The published models' plans: 8732 and 24564 boxes.
PLANS = {
    300: BoxPlan(
        300,
        (38, 19, 10, 5, 3, 1),
        (8, 16, 32, 64, 100, 300),
        (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    ),
    512: BoxPlan(
        512,
        (64, 32, 16, 8, 4, 2, 1),
        (8, 16, 32, 64, 128, 256, 512),
        (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
        ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    ),
}


def encode(boxes: Tensor, defaults: Tensor) -> Tensor:
    """(..., 4) xyxy boxes to offsets from (..., 4) xyxy default boxes (SSD, Eq. 2)."""
    box, default = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(defaults)
    centre = (box[..., :2] - default[..., :2]) / default[..., 2:]
    size = (box[..., 2:] / default[..., 2:]).log()
    return torch.cat((centre * CENTRE, size * SIZE), dim=-1)


def decode(offsets: Tensor, defaults: Tensor) -> Tensor:
    """(..., 4) offsets back to xyxy boxes; the inverse of :func:`encode`."""
    default = xyxy_to_cxcywh(defaults)
    centre = offsets[..., :2] / CENTRE * default[..., 2:] + default[..., :2]
    size = (offsets[..., 2:] / SIZE).clamp(max=_LARGEST).exp() * default[..., 2:]
    return cxcywh_to_xyxy(torch.cat((centre, size), dim=-1))
