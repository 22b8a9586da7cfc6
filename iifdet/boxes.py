"""Pure box arithmetic. Boxes are (..., 4) float tensors, ``xyxy`` in pixels unless a name says otherwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

IOU_KINDS = ("iou", "giou", "diou", "ciou")


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...,) in square pixels; an inverted box has area 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def has_area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...,) whether a box is wider and higher than nothing."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip (..., 4) boxes to an image of ``size`` (height, width)."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def iou(a: Tensor, b: Tensor, kind: str = "iou", eps: float = 1e-9) -> Tensor:
    """Overlap of boxes that broadcast against each other.

    Args:
        a: (..., 4).
        b: (..., 4), broadcastable to ``a``; ``a[:, None], b[None]`` gives the (N, M) matrix.
        kind: ``iou`` in [0, 1]; ``giou`` (Rezatofighi et al., CVPR 2019), ``diou`` and ``ciou`` (Zheng et al.,
            AAAI 2020) in (-1.5, 1].
        eps: keeps empty boxes finite. CIoU's trade-off weight is finite at perfect overlap, where v/(1-iou+v) is 0/0.

    Returns:
        (...,) in the dtype of the boxes.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in IOU_KINDS:
        raise ValueError(f"iou_type: expected one of {', '.join(IOU_KINDS)}, got '{kind}'")
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    union = area(a) + area(b) - inter
    overlap = inter / (union + eps)
    if kind == "iou":
        return overlap
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    if kind == "giou":
        hull_area = hull.prod(dim=-1)
        return overlap - (hull_area - union) / (hull_area + eps)
    distance = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) ** 2).sum(-1) / 4
    overlap_d = overlap - distance / ((hull**2).sum(-1) + eps)
    return overlap_d if kind == "diou" else overlap_d - _aspect_penalty(a, b, overlap, eps)


def _aspect_penalty(a: Tensor, b: Tensor, overlap: Tensor, eps: float) -> Tensor:
    v = (4 / math.pi**2) * (_angle(a, eps) - _angle(b, eps)) ** 2
    with torch.no_grad():
        trade_off = v / (1 - overlap + v + eps)
    return trade_off * v


def _angle(boxes: Tensor, eps: float) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.atan(width / (height + eps))
