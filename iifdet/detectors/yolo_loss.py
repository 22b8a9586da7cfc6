"""YOLOv3's loss: assign, gather, supervise. Batched: nothing here loops over images or waits for the device.

Follows the assignment and coefficients of the IIF paper's YOLOv3 with two corrections: the cell always comes from the
box centre (plain IoU against anchors at cell centres picked a wrong cell for 60 % of boxes), and CIoU is finite at
perfect overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.boxes import IOU_KINDS, cxcywh_to_xyxy, iou, xyxy_to_cxcywh
from iifdet.detectors.options import check_number
from iifdet.detectors.targets import joined
from iifdet.longtail.losses import binary_focal
from iifdet.types import Target

#: Box and slot pairs whose overlaps are held at once: crowded batches would take gigabytes.
PAIRS = 1 << 24


@dataclass(frozen=True)
class YOLOLossOptions:
    """Coefficients of the loss terms; the defaults are the paper's, found by Bayesian optimisation.

    Attributes:
        lambda_xy, lambda_wh: squared error of the centre offsets and of the log sizes.
        lambda_iou: 1 - overlap of decoded box and ground truth, measured by ``iou_type``.
        lambda_conf, lambda_no_conf: focal objectness loss on positives and on negatives.
        lambda_cls: classification loss on positives.
        ignore_threshold: an anchor that overlaps some ground truth by at least this much is no negative.
        focal_alpha, focal_gamma: of the objectness loss.
    """

    lambda_xy: float = 0.41116
    lambda_wh: float = 0.55613
    lambda_iou: float = 0.80387
    lambda_conf: float = 1.26383
    lambda_no_conf: float = 0.48411
    lambda_cls: float = 0.89783
    ignore_threshold: float = 0.49975
    focal_alpha: float = 0.35302
    focal_gamma: float = 1.83501
    iou_type: str = "ciou"

    def __post_init__(self) -> None:
        for name in ("ignore_threshold", "focal_alpha"):
            check_number(name, getattr(self, name), 1.0)
        for name in (
            "lambda_xy",
            "lambda_wh",
            "lambda_iou",
            "lambda_conf",
            "lambda_no_conf",
            "lambda_cls",
            "focal_gamma",
        ):
            check_number(name, getattr(self, name), math.inf)
        if self.iou_type not in IOU_KINDS:
            raise ValueError(f"iou_type: expected one of {', '.join(IOU_KINDS)}, got '{self.iou_type}'")


@dataclass(frozen=True)
class Grid:
    """All N = A·Σ(H·W) anchor slots of an input size, ordered by scale, row, column, anchor.

    Attributes:
        cell: (N, 2) column and row of each slot.
        anchor: (N, 2) anchor width and height in pixels.
        stride: (N, 1) pixels per cell.
        shapes: (rows, columns, stride) of each scale.
        per_cell: A, anchors per cell.
    """

    cell: Tensor
    anchor: Tensor
    stride: Tensor
    shapes: tuple[tuple[int, int, int], ...]
    per_cell: int

    @classmethod
    def build(cls, shapes: Sequence[tuple[int, int, int]], anchors: Tensor) -> Grid:
        """``anchors`` is (S, A, 2) in pixels, one row a scale, in the order of ``shapes``."""
        per_cell = anchors.shape[1]
        cells, sizes, strides = [], [], []
        for (rows, columns, stride), anchor in zip(shapes, anchors, strict=True):
            y, x = torch.meshgrid(
                torch.arange(rows, device=anchors.device), torch.arange(columns, device=anchors.device), indexing="ij"
            )
            cell = torch.stack((x, y), dim=-1).reshape(-1, 1, 2).expand(-1, per_cell, 2)  # (H·W, A, 2)
            cells.append(cell.reshape(-1, 2))
            sizes.append(anchor.repeat(rows * columns, 1))
            strides.append(anchor.new_full((len(sizes[-1]), 1), stride))
        return cls(torch.cat(cells).to(anchors.dtype), torch.cat(sizes), torch.cat(strides), tuple(shapes), per_cell)

    def decode(self, t: Tensor) -> Tensor:
        """(…, N, 4) network outputs t_x, t_y, t_w, t_h to (…, N, 4) xyxy pixels."""
        return decode(t, self.cell, self.anchor, self.stride)

    def anchor_boxes(self) -> Tensor:
        """(N, 4) xyxy: each anchor at the centre of its cell."""
        return cxcywh_to_xyxy(torch.cat(((self.cell + 0.5) * self.stride, self.anchor), dim=1))


def decode(t: Tensor, cell: Tensor, anchor: Tensor, stride: Tensor) -> Tensor:
    """YOLOv3, Section 2.1: centre (σ(t_xy) + cell)·stride, size anchor·exp(t_wh). The exponent is capped at e^8."""
    centre = (t[..., :2].sigmoid() + cell) * stride
    size = t[..., 2:4].clamp(max=8.0).exp() * anchor
    return cxcywh_to_xyxy(torch.cat((centre, size), dim=-1))


@dataclass(frozen=True)
class Assignment:
    """Which slot each of the T boxes of a batch trains.

    Attributes:
        image: (T,) row in the batch.
        slot: (T,) row of the grid.
        boxes: (T, 4) xyxy pixels.
        labels: (T,).
        negative: (B, N) bool, slots that overlap no box enough to be anything else.
    """

    image: Tensor
    slot: Tensor
    boxes: Tensor
    labels: Tensor
    negative: Tensor


def assign(targets: Sequence[Target], grid: Grid, options: YOLOLossOptions) -> Assignment:
    """One slot for each box: the cell that holds its centre, the scale and anchor of the best overlap.

    Two boxes that fall on one slot both train it; its objectness counts once.
    """
    boxes, labels, image = joined(targets, grid.cell.device)
    anchor_boxes = grid.anchor_boxes()
    slot = _best_slot(boxes, grid, anchor_boxes, options.iou_type)
    covered = anchor_boxes.new_zeros(len(targets), len(anchor_boxes))
    at_once = max(1, PAIRS // len(anchor_boxes))
    for some, rows in zip(boxes.split(at_once), image.split(at_once), strict=True):
        overlaps = iou(some[:, None], anchor_boxes[None], options.iou_type) >= options.ignore_threshold  # (T, N)
        covered.index_add_(0, rows, overlaps.float())
    covered.index_put_((image, slot), covered.new_ones(()))
    return Assignment(image, slot, boxes, labels, negative=covered == 0)


def _best_slot(boxes: Tensor, grid: Grid, anchor_boxes: Tensor, iou_type: str) -> Tensor:
    """(T, 4) -> (T,) rows of the grid."""
    centre = xyxy_to_cxcywh(boxes)[:, :2]
    candidates, first = [], 0
    steps = torch.arange(grid.per_cell, device=boxes.device)
    for rows, columns, stride in grid.shapes:
        column = (centre[:, 0] / stride).long().clamp(0, columns - 1)
        row = (centre[:, 1] / stride).long().clamp(0, rows - 1)
        candidates.append(first + (row * columns + column)[:, None] * grid.per_cell + steps)  # (T, A)
        first += rows * columns * grid.per_cell
    slots = torch.cat(candidates, dim=1)  # (T, S·A)
    best = iou(boxes[:, None], anchor_boxes[slots], iou_type).argmax(dim=1, keepdim=True)
    return slots.gather(1, best).squeeze(1)


def yolo_losses(
    t: Tensor,
    class_logits: Tensor,
    targets: Sequence[Target],
    grid: Grid,
    options: YOLOLossOptions,
    class_losses: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Named losses, each a sum over its slots divided by the number of boxes in the batch.

    Args:
        t: (B, N, 5) outputs t_x, t_y, t_w, t_h, t_objectness.
        class_logits: (B, N, C) before adjustment.
        class_losses: (T, C) logits and (T,) labels to (T,) losses; the adjustment happens inside.
    """
    # 1. assign
    found = assign(targets, grid, options)
    # 2. gather what the positives predict
    t = t.float()
    own = t[found.image, found.slot]  # (T, 5)
    cell, anchor, stride = grid.cell[found.slot], grid.anchor[found.slot], grid.stride[found.slot]
    truth = xyxy_to_cxcywh(found.boxes)
    offset = (truth[:, :2] / stride - cell).clamp(1e-4, 1 - 1e-4)
    size = (truth[:, 2:] / anchor).clamp(min=1e-6).log()
    # 3. supervise
    overlap = iou(decode(own, cell, anchor, stride), found.boxes, options.iou_type)
    objectness = t[..., 4]
    positive = torch.zeros_like(objectness).index_put_((found.image, found.slot), objectness.new_ones(()))
    focal = binary_focal(objectness, positive, alpha=options.focal_alpha, gamma=options.focal_gamma)
    sums = {
        "xy": options.lambda_xy * F.mse_loss(own[:, :2].sigmoid(), offset, reduction="sum"),
        "wh": options.lambda_wh * F.mse_loss(own[:, 2:4], size, reduction="sum"),
        "iou": options.lambda_iou * (1 - overlap).sum(),
        "conf": options.lambda_conf * (focal * positive).sum(),
        "no_conf": options.lambda_no_conf * (focal * found.negative).sum(),
        "cls": options.lambda_cls * class_losses(class_logits[found.image, found.slot].float(), found.labels).sum(),
    }
    return {name: value / max(1, len(found.labels)) for name, value in sums.items()}
