"""From scores to detections: thresholds, NMS, caps. The same for every detector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import nms

from iifdet.boxes import clip, iou
from iifdet.types import Detection, RawPredictions

NMS_KINDS = ("class", "agnostic", "majority")


@dataclass(frozen=True)
class PostprocessOptions:
    """How detections are chosen. The defaults are those of validation.

    Attributes:
        conf: keep scores above this.
        iou: NMS drops a box that overlaps a better one by more than this.
        max_det: at most so many detections an image.
        nms: ``class`` compares boxes of one class only; ``agnostic`` all; ``majority`` is the original program's vote:
            agnostic, and a kept box takes the most frequent class of those it suppressed if they disagree.
        multi_label: every class of a box above ``conf`` counts; False keeps the best class of each box.
        max_candidates: the best so many enter NMS, which costs the square of it.
        class_candidates: of each class, only the best so many enter NMS; 0 is no limit.
        level_candidates: of each feature level, only the best so many; 0 is no limit.
        min_box: boxes narrower or lower than this many pixels are dropped; those without area always are.
        only: labels that count; others still suppress in NMS, but take none of the ``max_det`` places. Empty is all.
        mask_threshold: probability above which a pixel belongs to a mask. Detections carry the probabilities; whoever
            scores or draws them asks here.
    """

    conf: float = 0.001
    iou: float = 0.6
    max_det: int = 300
    nms: str = "class"
    multi_label: bool = True
    max_candidates: int = 4096
    class_candidates: int = 0
    level_candidates: int = 0
    min_box: float = 0.0
    only: tuple[int, ...] = ()
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.nms not in NMS_KINDS:
            raise ValueError(f"nms: expected one of {', '.join(NMS_KINDS)}, got '{self.nms}'")
        for name in ("conf", "iou", "mask_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(self, name)}")
        if self.max_det < 1 or self.max_candidates < self.max_det:
            raise ValueError(f"max_det: expected 1…{self.max_candidates}, got {self.max_det}")


def select(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    options: PostprocessOptions,
    levels: tuple[int, ...] = (),
) -> tuple[Detection, Tensor]:
    """Choose the detections of one image.

    Args:
        boxes: (N, 4), or (N, C, 4) where boxes are class-specific.
        scores: (N, C) in [0, 1].
        size: (height, width) to clip to.
        levels: how many of the N rows stand on each feature level, for ``level_candidates``.

    Returns:
        The detections, best first, and for each the row (0…N-1) it came from. Ties keep row order.
    """
    if options.level_candidates and levels:
        scores = _best_of_each_level(scores, levels, options)
    rows, labels, kept_scores = _candidates(scores, options)
    picked = boxes[rows] if boxes.ndim == 2 else boxes[rows, labels]
    picked = clip(picked.float(), size)
    sides = picked[:, 2:] - picked[:, :2]
    solid = ((sides > 0) & (sides >= options.min_box)).all(dim=1)
    rows, labels, kept_scores, picked = rows[solid], labels[solid], kept_scores[solid], picked[solid]
    if options.nms == "majority":
        keep, labels = majority_nms(picked, kept_scores, labels, options.iou)
    else:
        apart = _apart(picked, labels) if options.nms == "class" else picked.double()
        most = len(picked) if options.only else options.max_det
        keep = first_survivors(apart, kept_scores.double(), options.iou, most)
    if options.only:
        keep = keep[torch.isin(labels[keep], labels.new_tensor(options.only))]
    keep = keep[: options.max_det]
    return Detection(boxes=picked[keep], labels=labels[keep], scores=kept_scores[keep]), rows[keep]


def in_own_pixels(found: Detection, raw: RawPredictions) -> Detection:
    """Detections chosen among ``raw.network`` in pixels of the image as it was given; others are there already."""
    if raw.network is None:
        return found
    # The factor is rounded, and may carry a box at the border beyond it.
    boxes = clip(resize_boxes(found["boxes"], list(raw.network.size), list(raw.size)), raw.size)
    return Detection(boxes=boxes, labels=found["labels"], scores=found["scores"])


def first_survivors(boxes: Tensor, scores: Tensor, threshold: float, number: int) -> Tensor:
    """Rows of the first ``number`` boxes that NMS keeps, best first.

    A box is suppressed by better ones alone, so the best are looked at first, and the rest only where they do not
    suffice; NMS over all costs the square of their number.

    Args:
        boxes: (N, 4), best first.
        scores: (N,).
    """
    looked_at = 8 * number
    while True:
        keep = nms(boxes[:looked_at], scores[:looked_at], threshold)[:number]
        if len(keep) == number or looked_at >= len(boxes):
            return keep
        looked_at *= 4


def _candidates(scores: Tensor, options: PostprocessOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, labels and scores above the threshold, best first, at most max_candidates."""
    num_classes = scores.shape[1]
    if options.multi_label and options.nms != "majority":
        if 0 < options.class_candidates < len(scores):
            scores = _best_of_each_class(scores, options.class_candidates)
        flat, index = scores.flatten(), None
    else:
        flat, index = scores.max(dim=1)
    above = (flat > options.conf).nonzero().flatten()
    values, order = flat[above].sort(descending=True, stable=True)
    above, values = above[order[: options.max_candidates]], values[: options.max_candidates]
    if index is None:
        return above // num_classes, above % num_classes, values
    return above, index[above], values


def _best_of_each_class(scores: Tensor, number: int) -> Tensor:
    """(N, C) scores in which all but the best ``number`` of each column are -1."""
    values, rows = scores.topk(number, dim=0)
    return torch.full_like(scores, -1.0).scatter_(0, rows, values)


def _best_of_each_level(scores: Tensor, levels: tuple[int, ...], options: PostprocessOptions) -> Tensor:
    """(N, C) scores in which all but the best ``level_candidates`` of each level's rows are -1."""
    kept = []
    for part in scores.split(levels):
        flat = part.flatten()
        above = (flat > options.conf).nonzero().flatten()  # first: few pass, and topk of millions is slow
        best = above[flat[above].topk(min(options.level_candidates, len(above))).indices]
        kept.append(torch.full_like(flat, -1.0).scatter_(0, best, flat[best]).view_as(part))
    return torch.cat(kept)


def _apart(boxes: Tensor, labels: Tensor) -> Tensor:
    """Shift each class to a place of its own, so that one NMS call serves all; float64 keeps the IoU exact there."""
    step = boxes.max().double() + 1 if len(boxes) else 1
    return boxes.double() + (labels.double() * step)[:, None]


def majority_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Class-agnostic NMS in which the suppressed boxes vote on the label of the box that stays.

    If the boxes a kept one suppresses carry at least two different classes, it takes the most frequent of them (ties:
    the lowest class; it does not vote itself); otherwise it keeps its own. A suppressed box votes once, for the best
    box that suppresses it. The original dropped boxes at exactly the threshold without a vote; here they stay, as in
    every other NMS.

    Args:
        boxes: (N, 4), best first.
        scores: (N,).
        labels: (N,).

    Returns:
        The kept rows, and (N,) labels after the vote.
    """
    keep = nms(boxes, scores, threshold)
    if not len(keep):
        return keep, labels
    overlap = iou(boxes[:, None], boxes[keep][None])  # (N, K)
    # At an exact tie rounding may let NMS drop a box that none of these overlaps enough: it votes for no one.
    suppressed = (overlap > threshold).any(dim=1)
    suppressed[keep] = False
    owner = (overlap > threshold).float().argmax(dim=1)  # first, so best, box that suppresses each
    votes = torch.zeros(len(keep), int(labels.max()) + 1, device=boxes.device)  # (K, C)
    votes.index_put_((owner[suppressed], labels[suppressed]), votes.new_ones(()), accumulate=True)
    disputed = (votes > 0).sum(dim=1) >= 2
    voted = labels.clone()
    voted[keep] = torch.where(disputed, votes.argmax(dim=1), labels[keep])
    return keep, voted
