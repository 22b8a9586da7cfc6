"""Classification losses on (already adjusted) class logits. Pure functions; :mod:`.class_losses` has them in one table.

Each takes (N, C) logits and (N,) labels and returns a (N,) loss, in float32. ``class_weight`` (C,) multiplies each
sample's loss by the weight of its true class: with IIF weights that is the paper's cost-sensitive rival (CSL). Means
over samples are plain ones and not divided by the weights' sum, as those of ``torch.nn.CrossEntropyLoss(weight=...)``
are: weights with a mean of 3 triple the loss; with ``temperature=mean`` it keeps its size. The one-vs-rest losses also
take the label -1, a sample of no class (background), with weight 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.longtail.activations import LOG_PARTS


def cross_entropy(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy, (N, C), (N,) -> (N,).

    On logits multiplied by IIF weights w this is the paper's Eq. 15, and its gradient for the raw logit z_i is
    w_i (q_i - [i = y]) (Eq. 16).

    Example:
        >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
        1.3863
    """
    return F.cross_entropy(logits.float(), labels, weight=_as_float(class_weight), reduction="none")


def binary_cross_entropy(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """One-vs-rest sigmoid cross-entropy summed over classes, (N, C), (N,) -> (N,).

    Example:
        >>> round(binary_cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
        2.7726
    """
    return one_vs_rest(logits, one_hot(logits, labels), labels, class_weight)


def focal(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017) summed over classes, (N, C), (N,) -> (N,).

    Example:
        >>> z, y = torch.randn(3, 5), torch.tensor([0, 4, 2])
        >>> bool(torch.allclose(2 * focal(z, y, alpha=0.5, gamma=0), binary_cross_entropy(z, y)))
        True
    """
    loss = binary_focal(logits.float(), one_hot(logits, labels), alpha=alpha, gamma=gamma).sum(-1)
    return weighed(loss, labels, class_weight)


def gumbel_cross_entropy(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """One-vs-rest cross-entropy of Gumbel scores summed over classes, (N, C), (N,) -> (N,).

    A Gumbel score falls to zero faster than a sigmoid and comes to one more slowly, so that a rare class, nearly always
    a negative, is pushed down less.

    Source: Alexandridis et al., Long-tailed Instance Segmentation using Gumbel Optimized Loss, ECCV 2022, Section 3.

    Example:
        >>> round(gumbel_cross_entropy(torch.zeros(1, 2), torch.tensor([1])).item(), 4)  # 1 - ln(1 - 1 / e)
        1.4587
    """
    target = one_hot(logits, labels)
    log_p, log_rest = LOG_PARTS["gumbel"](logits.float())
    return weighed(-(target * log_p + (1 - target) * log_rest).sum(-1), labels, class_weight)


def binary_focal(logits: Tensor, target: Tensor, *, alpha: float, gamma: float | Tensor) -> Tensor:
    """Elementwise focal loss ``α_t (1 - p_t)^γ BCE`` for targets in {0, 1}; any shape, same shape out.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Eq. 5.

    Example:
        >>> sure, unsure = binary_focal(torch.tensor([5.0, 0.0]), torch.ones(2), alpha=0.5, gamma=2.0)
        >>> bool(unsure > 1000 * sure)
        True
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_t = torch.exp(-bce)
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    # At saturation 1 - p_t is 0, where a power below one has no finite slope.
    return alpha_t * (1 - p_t).clamp(min=1e-7) ** gamma * bce


def iif_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """IIF cross-entropy, Eq. 15: softmax cross-entropy of ``w * z``, (N, C), (N,), (C,) -> (N,).

    The detectors reach the same value through LogitAdjustment; this is the formula on its own.

    Example:
        >>> z = torch.tensor([[1.0, 0.0]], requires_grad=True)
        >>> iif_cross_entropy(z, torch.tensor([1]), torch.tensor([0.5, 2.0])).sum().backward()
        >>> q = torch.softmax(torch.tensor([0.5, 0.0]), 0)
        >>> bool(torch.allclose(z.grad[0], torch.tensor([0.5, 2.0]) * (q - torch.tensor([0.0, 1.0]))))
        True
    """
    if logits.ndim != 2 or weights.shape != logits.shape[1:]:
        raise ValueError(
            f"expected (N, C) logits and (C,) weights, got {tuple(logits.shape)} and {tuple(weights.shape)}"
        )
    return cross_entropy(logits.float() * weights.float(), labels)


def one_vs_rest(
    logits: Tensor, target: Tensor, labels: Tensor, class_weight: Tensor | None, weight: Tensor | None = None
) -> Tensor:
    """(N,) sigmoid cross-entropies summed over classes, from (N, C) logits and their ``target`` of :func:`one_hot`.

    Args:
        weight: (N, C) or (C,) what each class's part is multiplied by.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, weight, reduction="none").sum(-1)
    return weighed(loss, labels, class_weight)


def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, C) ones and zeros; a row of zeros for the label -1. Reads no value, so that a step can be recorded.

    Raises:
        RuntimeError: a label is not -1…C-1 (a device-side assertion on CUDA).
    """
    table = logits.new_zeros((*labels.shape, logits.shape[-1] + 1), dtype=torch.float32)
    return table.scatter_(-1, labels.unsqueeze(-1) + 1, 1.0)[..., 1:]  # the first column is for -1


def _as_float(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.float()


def weighed(loss: Tensor, labels: Tensor, class_weight: Tensor | None) -> Tensor:
    """(N,) losses times the weights of their classes; background weighs 1."""
    if class_weight is None:
        return loss
    return loss * torch.where(labels >= 0, class_weight.float()[labels.clamp(min=0)], 1.0)
