"""SSD's loss: match, encode, mine hard negatives, supervise (Liu et al., ECCV 2016, Section 2.2). All batched,
and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from iifdet.detectors.default_boxes import encode
from iifdet.detectors.targets import joined
from iifdet.types import Target


def match(boxes: Tensor, image: Tensor, defaults: Tensor, batch: int, threshold: float = 0.5) -> Tensor:
    """Which ground truth each default box of each image is responsible for.

    A default box takes the box it overlaps most, if by at least ``threshold``; then every box gets the default box
    that overlaps it most, whatever the overlap. Where two boxes want the same one, the later has it.

    Args:
        boxes: (T, 4) xyxy, of all images.
        image: (T,) row in the batch.
        defaults: (N, 4) xyxy.
        batch: B.

    Returns:
        (B, N) int64 rows of ``boxes``, -1 for background.
    """
    count, number = len(boxes), len(defaults)
    found = torch.full((batch, number), -1, dtype=torch.int64, device=boxes.device)
    if not count:
        return found
    overlap = box_iou(boxes, defaults)  # (T, N)
    rows = image[:, None].expand(-1, number)
    best = overlap.new_zeros(batch, number).scatter_reduce_(0, rows, overlap, "amax")
    order = torch.arange(count, device=boxes.device)[:, None].expand(-1, number)
    winner = torch.where(overlap == best[image], order, count)  # the first of equals
    first = torch.full_like(found, count).scatter_reduce_(0, rows, winner, "amin")
    found = torch.where((best >= threshold) & (first < count), first, found)
    slot = image * number + overlap.argmax(dim=1)  # (T,) each box's best default box
    forced = torch.full((batch * number,), -1, dtype=torch.int64, device=boxes.device)
    forced.scatter_reduce_(0, slot, order[:, 0], "amax")
    return torch.where(forced.view_as(found) >= 0, forced.view_as(found), found)


def hardest(loss: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """Mark the background boxes with the highest loss, ``ratio`` of them for each positive of the same image.

    Args:
        loss: (B, N) classification losses.
        positive: (B, N) bool.

    Returns:
        (B, N) bool. Ties go to the first.
    """
    wanted = ratio * positive.sum(dim=1, keepdim=True)
    order = loss.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(loss.shape[1], device=loss.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < wanted) & ~positive


def multibox_losses(
    offsets: Tensor,
    class_losses: Callable[[Tensor], Tensor],
    targets: Sequence[Target],
    defaults: Tensor,
    *,
    threshold: float = 0.5,
    negatives: float = 3.0,
) -> dict[str, Tensor]:
    """``box`` (smooth L1) and ``cls``, each a sum over the boxes it counts, divided by the number of positives.

    Args:
        offsets: (B, N, 4) predicted.
        class_losses: (B, N) labels, -1 for background, to (B, N) adjusted losses. Mining ranks by these, so that an
            adjustment also decides which negatives count.
        targets: boxes in pixels of the network's input.
        defaults: (N, 4) xyxy in the same pixels.
    """
    boxes, labels, image = joined(targets, offsets.device)
    # 1. match
    found = match(boxes, image, defaults, len(targets), threshold)
    positive = found >= 0
    # 2. encode: of every default box, since to pick the positive ones the device would have to say how many there are
    row = torch.where(positive, found, len(boxes))  # one more row stands for background
    truth = encode(torch.cat((boxes, boxes.new_zeros(1, 4)))[row], defaults)
    wanted = torch.cat((labels, labels.new_full((1,), -1)))[row]
    # 3. supervise
    box = F.smooth_l1_loss(offsets.float(), torch.where(positive[..., None], truth, 0.0), reduction="none").sum(dim=-1)
    loss = class_losses(wanted)
    counted = positive | hardest(loss, positive, negatives)
    number = positive.sum().clamp(min=1)
    return {
        "box": torch.where(positive, box, 0.0).sum() / number,
        "cls": torch.where(counted, loss, 0.0).sum() / number,
    }


def count_positives(targets: Sequence[Target], defaults: Tensor, threshold: float = 0.5) -> int:
    """How many default boxes :func:`multibox_losses` takes for positive: what it divides by."""
    boxes, _, image = joined(targets, defaults.device)
    return int((match(boxes, image, defaults, len(targets), threshold) >= 0).sum())
