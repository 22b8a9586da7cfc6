"""Anchors fitted to a data set's boxes: k-means under 1 - IoU (Redmon and Farhadi, YOLO9000, Section 2)."""

from __future__ import annotations

import torch
from torch import Tensor

#: A box counts as reachable when neither side differs from some anchor's by more than this factor (YOLOv5's rule).
REACH = 4.0
_ROUNDS = 100


def fit_anchors(sizes: Tensor, number: int, seed: int = 0) -> Tensor:
    """Cluster box sizes into anchors, smallest area first.

    Args:
        sizes: (M, 2) width and height of the training boxes in pixels of the network's input, M >= 1.
        number: k, how many anchors.
        seed: of the first centres, which k-means++ draws.

    Returns:
        (k, 2) float32. Where there are fewer than k distinct sizes, anchors repeat.

    Raises:
        ValueError: no sizes, one without area, or ``number`` below 1.

    Example:
        >>> sizes = torch.tensor([[10., 10.], [12., 10.], [80., 40.], [84., 40.]])
        >>> fit_anchors(sizes, 2).tolist()
        [[11.0, 10.0], [82.0, 40.0]]
    """
    if number < 1:
        raise ValueError(f"number: expected at least 1 anchor, got {number}")
    if not len(sizes) or not bool((sizes > 0).all()):
        raise ValueError("sizes: expected boxes with a width and a height above 0")
    sizes = sizes.double()
    centres = _first_centres(sizes, number, torch.Generator().manual_seed(seed))
    for _ in range(_ROUNDS):
        nearest = size_iou(sizes, centres).argmax(dim=1)
        moved = torch.stack(
            [sizes[nearest == k].mean(dim=0) if bool((nearest == k).any()) else centres[k] for k in range(number)]
        )
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres[centres.prod(dim=1).argsort(stable=True)].float()


def size_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of (M, 2) and (k, 2) widths and heights laid on one corner; (M, k)."""
    overlap = torch.minimum(sizes[:, None], anchors[None]).prod(dim=2)
    return overlap / (sizes.prod(dim=1)[:, None] + anchors.prod(dim=1)[None] - overlap)


def best_possible_recall(sizes: Tensor, anchors: Tensor) -> float:
    """Share of (M, 2) sizes that some of (k, 2) anchors reaches: no side off by more than a factor of REACH.

    Example:
        >>> best_possible_recall(torch.tensor([[10., 10.], [100., 10.]]), torch.tensor([[12., 8.]]))
        0.5
    """
    ratio = sizes[:, None] / anchors[None].to(sizes)
    worst = torch.maximum(ratio, 1 / ratio).amax(dim=2)  # (M, k)
    return float((worst.amin(dim=1) <= REACH).double().mean())


def mean_best_iou(sizes: Tensor, anchors: Tensor) -> float:
    """Mean over sizes of the IoU with the best anchor, in (0, 1]."""
    return float(size_iou(sizes.double(), anchors.double()).amax(dim=1).mean())


def _first_centres(sizes: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is drawn by how far sizes lie from those chosen."""
    chosen = [int(torch.randint(len(sizes), (), generator=generator))]
    for _ in range(number - 1):
        far = (1 - size_iou(sizes, sizes[chosen]).amax(dim=1)).clamp(min=0)
        weights = far if float(far.sum()) > 0 else torch.ones_like(far)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return sizes[chosen].clone()
