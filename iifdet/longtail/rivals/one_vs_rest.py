"""Rivals with a sigmoid for each class: which samples are negatives to a class, and how far they are to be from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iifdet.longtail.losses import one_hot, one_vs_rest

#: Classes that count in a batch of :func:`federated`, as published.
FEDERATED_CLASSES = 50


def equalized(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor) -> Tensor:
    """Equalization loss, (N, C), (N,) -> (N,): one-vs-rest cross-entropy in which rare classes are spared the
    negatives that samples of other classes are to them. Background (label -1) is a negative to all.

    Source: Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020, Section 3.

    Args:
        statistic: 1 for a rare class, 0 for another; see :func:`iifdet.longtail.tail_classes`.

    Example:
        >>> from iifdet.longtail.losses import binary_cross_entropy
        >>> z, y = torch.zeros(1, 4), torch.tensor([2])
        >>> rare = torch.tensor([0.0, 0.0, 0.0, 1.0])
        >>> ratio = equalized(z, y, statistic=rare) / binary_cross_entropy(z, y)
        >>> round(ratio.item(), 4)
        0.75
    """
    target = one_hot(logits, labels)
    spared = statistic.float() * (1 - target) * (labels >= 0).unsqueeze(-1)
    return one_vs_rest(logits, target, labels, class_weight, 1 - spared)


def drop(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor) -> Tensor:
    """DropLoss, (N, C), (N,) -> (N,): :func:`equalized`, and background, too, is a negative to a rare class by lot
    only: with the chance that rare classes have among the batch's foreground. Without foreground it always is.

    Source: Hsieh et al., DropLoss for Long-Tail Instance Segmentation, AAAI 2021, Section 3.

    Args:
        statistic: 1 for a rare class, 0 for another; see :func:`iifdet.longtail.tail_classes`.

    Example:
        >>> z, y = torch.zeros(3, 2), torch.tensor([0, -1, -1])  # foreground shows no rare class
        >>> (drop(z, y, statistic=torch.tensor([0.0, 1.0])) / math.log(2)).tolist()
        [1.0, 1.0, 1.0]
    """
    target, rare = one_hot(logits, labels), statistic.float()
    foreground = (labels >= 0).unsqueeze(-1)
    shown = target.sum(dim=0)
    share = torch.where(shown.sum() > 0, (shown * rare).sum() / shown.sum().clamp(min=1), 1.0)
    dropped = torch.rand_like(target) > share
    spared = rare * (1 - target) * (foreground | dropped)
    return one_vs_rest(logits, target, labels, class_weight, 1 - spared)


def adaptive_suppression(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    *,
    statistic: Tensor,
    confident: float = 0.7,
) -> Tensor:
    """Adaptive class suppression loss, (N, C), (N,) -> (N,): one-vs-rest cross-entropy in which a sample is a negative
    to those classes alone that it is taken for, and background, by lot, to the more common ones more often.

    One lot a sample serves all classes: those that a share of 0.01 draws are among those that 0.1 draws.

    Source: Wang et al., Adaptive Class Suppression Loss for Long-Tail Object Detection, CVPR 2021, Section 3.

    Args:
        statistic: share of background samples that are negatives to a class; see
            :func:`iifdet.longtail.background_share`.
        confident: score from which a class counts as mistaken.

    Example:
        >>> z, y = torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([0])  # 1 is mistaken, 2 is not
        >>> alone = adaptive_suppression(z, y, statistic=torch.ones(3))
        >>> round(alone.item(), 2)  # ln 2 + ln(1 + e^3)
        3.74
    """
    logits, target = logits.float(), one_hot(logits, labels)
    mistaken = logits.detach().sigmoid() >= confident
    drawn = torch.rand_like(logits[:, :1]) < statistic.float()
    counted = torch.where((labels >= 0).unsqueeze(-1), mistaken | (target > 0), drawn).float()
    return one_vs_rest(logits, target, labels, class_weight, counted)


def effective_margins(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor
) -> Tensor:
    """Effective class-margin loss, (N, C), (N,) -> (N,): one-vs-rest cross-entropy of ``2 z + ln(π / (1 - π)) / 4``,
    which asks rare classes for wider margins, each class weighed by ``r ln(1 + 1 / r)``, ``r = (1 - π) / π``.

    The published program scores by ``σ(z)``, as here, and multiplies by 1 - p(background); its background column is
    left out, as in :func:`equalized_v2`.

    Source: Cho and Krähenbühl, Long-tail Detection with Effective Class-Margins, ECCV 2022, Section 4.

    Args:
        statistic: π, each class's share of all samples, background included; see :func:`iifdet.longtail.sample_share`.

    Example:
        >>> z, y = torch.zeros(2, 2), torch.tensor([0, 1])  # neither is far enough ahead
        >>> common, rare = effective_margins(z, y, statistic=torch.tensor([0.1, 0.0001])).tolist()
        >>> round(common, 1), round(rare, 1)
        (1.0, 2.8)
    """
    target, share = one_hot(logits, labels), statistic.float()
    ahead = (share / (1 - share)).log() / 4
    weight = -(-share).log1p() * (1 - share) / share  # r ln(1 + 1 / r)
    return one_vs_rest(2 * logits.float() + ahead, target, labels, class_weight, weight)


def federated(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    *,
    statistic: Tensor,
    classes: int = FEDERATED_CLASSES,
) -> Tensor:
    """Federated loss, (N, C), (N,) -> (N,): one-vs-rest cross-entropy over the batch's own classes and others drawn by
    lot, so that a rare class is seldom a negative. With ``classes`` of C or more nothing is left out.

    Source: Zhou et al., Probabilistic Two-Stage Detection, arXiv 2103.07461, on LVIS.

    Args:
        statistic: what the chance to be drawn is proportional to; the root of the image counts.
        classes: that count at least, those of the batch included.

    Example:
        >>> z, y = torch.zeros(2, 100), torch.tensor([7, -1])
        >>> (federated(z, y, statistic=torch.ones(100)) / math.log(2)).round().tolist()
        [50.0, 50.0]
    """
    target = one_hot(logits, labels)
    shown = target.sum(dim=0) > 0
    lots = statistic.float().log() - torch.empty_like(statistic, dtype=torch.float32).exponential_().log()
    wanted = min(int(classes), len(lots))
    drawn = torch.where(shown, math.inf, lots).topk(wanted).indices  # Gumbel: without putting back
    counted = torch.zeros_like(lots).index_fill(0, drawn, 1.0)
    counted = torch.where(shown, 1.0, counted * (statistic > 0))
    return one_vs_rest(logits, target, labels, class_weight, counted)
