"""Rivals of IIF that are losses of their own: what pushes a class down depends on the class.

All take ``statistic``, which CLASS_STATISTICS of :mod:`.class_losses` makes of the training set's counts. ``eqlv2`` and
``efl`` learn theirs while training: it holds the gradients so far, and they add to it in place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.longtail.losses import binary_focal, cross_entropy, one_hot, weighed

#: Classes that count in a batch of :func:`federated`, as published.
FEDERATED_CLASSES = 50


def seesaw(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    *,
    statistic: Tensor,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
) -> Tensor:
    """Seesaw loss, (N, K), (N,) -> (N,): softmax cross-entropy in which a sample pushes rarer classes down less
    (mitigation), and classes that it is taken for more (compensation).

    With N instances a class and scores σ, ``z_j + ln M_yj + ln C_yj`` stands for each wrong logit, where
    ``M_yj = min(1, (N_j / N_y)^p)`` and ``C_yj = max(1, (σ_j / σ_y)^q)``; no gradient flows through either.

    The paper counts instances as training meets them and sets background apart by an objectness branch. Here the counts
    are the training set's from the start, so that a resumed run and several processes agree; a background logit, where
    there is one, has factors of 1 and no part in the scores, and its own samples push all classes alike.

    Source: Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, CVPR 2021, Section 3.

    Args:
        logits: K = C, or C + 1 with background first.
        statistic: instances of each class.
        p, q: strengths of mitigation and compensation; 0 switches either off.
        eps: smallest score of the true class that compensation divides by.

    Example:
        >>> z, y = torch.zeros(2, 2), torch.tensor([0, 1])  # a common and a rare class, neither preferred
        >>> common, rare = seesaw(z, y, statistic=torch.tensor([100.0, 1.0])).tolist()
        >>> round(common, 3), round(rare, 3)
        (0.025, 0.693)
    """
    logits = logits.float()
    background = logits.shape[-1] - len(statistic)
    seen, label = statistic.float().clamp(min=1).log(), (labels - background).clamp(min=0).unsqueeze(-1)
    scores = logits[:, background:].detach().log_softmax(-1)
    mitigation = (seen - seen[label]).clamp(max=0)
    compensation = (scores - scores.gather(-1, label).clamp(min=math.log(eps))).clamp(min=0)
    factors = (p * mitigation + q * compensation) * (labels >= background).unsqueeze(-1)  # 0 for the true class
    return cross_entropy(logits + F.pad(factors, (background, 0)), labels, class_weight)


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
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, weight=1 - spared, reduction="none").sum(-1)
    return weighed(loss, labels, class_weight)


def ldam(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor) -> Tensor:
    """Label-distribution-aware margin loss, (N, C), (N,) -> (N,): softmax cross-entropy that wants the true logit
    ahead by the margin of its class.

    Source: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019, Section 3.

    Args:
        statistic: margins in logits; see :func:`iifdet.longtail.ldam_margins`.

    Example:
        >>> z, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> torch.equal(ldam(z, y, statistic=torch.tensor([2.0, 9.0])), cross_entropy(z * 0, y))
        True
    """
    return cross_entropy(logits.float() - one_hot(logits, labels) * statistic.float(), labels, class_weight)


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
    drawn = torch.where(shown, math.inf, lots).topk(min(classes, len(lots))).indices  # Gumbel: without putting back
    counted = torch.zeros_like(lots).index_fill(0, drawn, 1.0)
    counted = torch.where(shown, 1.0, counted * (statistic > 0))
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, counted.expand_as(target), reduction="none")
    return weighed(loss.sum(-1), labels, class_weight)


def equalized_v2(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    *,
    statistic: Tensor,
    alpha: float = 4.0,
    gamma: float = 12.0,
    mu: float = 0.8,
) -> Tensor:
    """Equalization loss v2, (N, C), (N,) -> (N,): one-vs-rest cross-entropy whose positive and negative parts are
    weighed by the class's ratio g of positive to negative gradients so far.

    Negatives weigh ``f(g) = 1 / (1 + exp(-γ (g - μ)))``, positives ``1 + α (1 - f(g))``; both 1 before there are any.
    The objectness column of the published program is left out: background is a negative to all classes, as in ``bce``.

    Source: Tan et al., Equalization Loss v2, CVPR 2021, Section 3.

    Args:
        statistic: (2, C) positive and negative gradients so far.

    Example:
        >>> so_far = torch.tensor([[50.0, 1.0], [50.0, 50.0]])  # the second class is pushed down and hardly up
        >>> z, y = torch.zeros(2, 2), torch.tensor([0, 1])
        >>> common, rare = equalized_v2(z, y, statistic=so_far).tolist()
        >>> round(common, 1), round(rare, 1)
        (0.9, 4.1)
    """
    target = one_hot(logits, labels)
    down = torch.sigmoid(gamma * (_gradient_ratio(statistic) - mu))
    weight = target * (1 + alpha * (1 - down)) + (1 - target) * down
    _collect(statistic, target, weight * (logits.detach().float().sigmoid() - target).abs())
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, weight, reduction="none").sum(-1)
    return weighed(loss, labels, class_weight)


def equalized_focal(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    *,
    statistic: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    scale: float = 8.0,
) -> Tensor:
    """Equalized focal loss, (N, C), (N,) -> (N,): focal loss that focuses harder, and weighs more, where a class has
    had fewer positive than negative gradients so far.

    With g, their ratio up to 1, it is focal loss with ``γ_c = γ + scale (1 - g)``, times ``γ_c / γ``.

    Source: Li et al., Equalized Focal Loss for Dense Long-Tailed Object Detection, CVPR 2022, Section 3.

    Args:
        statistic: (2, C) positive and negative gradients so far.

    Example:
        >>> from iifdet.longtail.losses import focal
        >>> z, y = torch.zeros(1, 2), torch.tensor([0])
        >>> torch.equal(equalized_focal(z, y, statistic=torch.zeros(2, 2)), focal(z, y))
        True
    """
    logits, target = logits.float(), one_hot(logits, labels)
    focus = gamma + scale * (1 - _gradient_ratio(statistic).clamp(max=1))
    loss = focus / gamma * binary_focal(logits, target, alpha=alpha, gamma=focus)
    _collect(statistic, target, focus / gamma * _focal_slope(logits.detach(), target, alpha, focus))
    return weighed(loss.sum(-1), labels, class_weight)


def _gradient_ratio(statistic: Tensor) -> Tensor:
    """(C,) positive gradients so far over negative ones; infinite before there are any, which asks for no balance."""
    positive, negative = statistic
    return torch.where(negative > 0, positive / negative.clamp(min=1e-10), math.inf)


def _focal_slope(logits: Tensor, target: Tensor, alpha: float, gamma: Tensor) -> Tensor:
    """How steep :func:`binary_focal` is in the logit, without the sign."""
    log_p = -F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p, alpha_t = log_p.exp(), alpha * target + (1 - alpha) * (1 - target)
    return alpha_t * (1 - p) ** gamma * (1 - p - gamma * p * log_p)


def _collect(statistic: Tensor, target: Tensor, slopes: Tensor) -> None:
    """Add (N, C) absolute gradients to those of positives and of negatives so far, in training alone."""
    if torch.is_grad_enabled():
        statistic += torch.stack(((slopes * target).sum(dim=0), (slopes * (1 - target)).sum(dim=0)))
