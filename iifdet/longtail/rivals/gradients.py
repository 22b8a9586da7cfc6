"""Rivals that balance what training has done to each class so far, which they add to their statistic, in place."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.longtail.losses import binary_focal, one_hot, one_vs_rest, weighed


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
    return one_vs_rest(logits, target, labels, class_weight, weight)


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
