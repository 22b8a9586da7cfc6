"""How classes spread over the image: the other statistic of boxes, beside how many there are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.weights import iif_weights, refuse_zero_counts

#: Boxes that a class needs for a dimension of its own.
FEWEST = 4


def box_dimensions(centres: Tensor, labels: Tensor, num_classes: int, largest_grid: int = 64) -> Tensor:
    """Fractal dimension of where the boxes of each class lie, (C,) float64: about 1 along a line, 2 all over the image.

    It is the slope of ln(cells with a box) over ln(g) for grids of g x g cells, by least squares over all g whose g² is
    at most the number of boxes. Classes with fewer than four boxes have 1, and so have those whose slope is smaller.

    Source: Alexandridis et al., Fractal Calibration for Long-Tailed Object Detection, CVPR 2025, Section 3.3.

    Args:
        centres: (M, 2) x and y of box centres as shares of the image's width and height, in [0, 1].
        labels: (M,) int, 0…C-1.
        largest_grid: g at most.

    Raises:
        ValueError: centres outside the image.

    Example:
        >>> line = torch.stack([torch.linspace(0, 1, 500), torch.full((500,), 0.5)], dim=1)
        >>> round(box_dimensions(line, torch.zeros(500, dtype=torch.long), 2)[0].item(), 2)
        1.0
    """
    centres, labels = torch.as_tensor(centres).double(), torch.as_tensor(labels).long()
    if not ((centres >= 0) & (centres <= 1)).all():
        raise ValueError("centres: expected shares of the image's width and height, from 0 to 1; got others")
    n = torch.bincount(labels, minlength=num_classes)
    largest_grid = max(2, min(largest_grid, math.isqrt(int(n.max()))))
    grids = torch.arange(1, largest_grid + 1)
    occupied = torch.stack([_occupied(centres, labels, num_classes, g) for g in grids.tolist()])
    fitted = (grids**2)[:, None] <= n
    dimensions = _slopes(grids.double().log()[:, None], occupied.double().clamp(min=1).log(), fitted)
    return torch.where(n >= FEWEST, dimensions, 1.0).clamp(min=1)


def _occupied(centres: Tensor, labels: Tensor, num_classes: int, g: int) -> Tensor:
    """(C,) how many of g x g cells hold a box of each class."""
    column, row = (centres * g).long().clamp(max=g - 1).unbind(dim=1)
    occupied = torch.zeros(num_classes, g * g, dtype=torch.bool)
    occupied[labels, row * g + column] = True
    return occupied.sum(dim=1)


def _slopes(x: Tensor, y: Tensor, used: Tensor) -> Tensor:
    """(C,) least-squares slopes of (G, C) y over (G, 1) x, each over its own rows; 0 where there is but one."""
    weight = used.double()
    total = weight.sum(dim=0).clamp(min=1)
    dx = (x - (x * weight).sum(dim=0) / total) * weight
    dy = y - (y * weight).sum(dim=0) / total
    return (dx * dy).sum(dim=0) / (dx * dx).sum(dim=0).clamp(min=1e-12)


def fractal_shift(counts: ClassCounts, dimensions: Tensor, strength: float = 2.0, by: str = "image") -> Tensor:
    """``log10(N / n) - log10 C - λ ln D`` of fractal calibration, added after training; (C,) float64.

    Takes away the head start of common classes, as NorCal does with ``n^-γ``, and of those that lie all over the image
    (dimension D), by ``D^-λ``. A background logit stays as it is.

    Source: Alexandridis et al., Fractal Calibration for Long-Tailed Object Detection, CVPR 2025: the softmax form. The
    one for sigmoids multiplies two scores and is no adjustment of logits.

    Args:
        dimensions: (C,) see :func:`box_dimensions`.
        strength: λ; 0 leaves frequencies alone to act.

    Raises:
        ValueError: a class without training images.

    Example:
        >>> n = torch.tensor([100, 10])
        >>> counts = ClassCounts(["everywhere", "line"], n, n, num_images=100)
        >>> [round(v, 2) for v in fractal_shift(counts, torch.tensor([2.0, 1.0])).tolist()]
        [-1.69, 0.7]
    """
    refuse_zero_counts(counts, by, "fractal calibration", "adjust=iif variant=smooth")
    frequency = iif_weights(counts, "base10", by, normalizer="images", on_nonpositive="allow")
    return frequency - math.log10(len(counts)) - strength * dimensions.double().log()
