"""Classification losses on (already adjusted) class logits. Pure functions, one table.

Each takes (N, C) logits and (N,) labels and returns a (N,) loss, in float32. ``class_weight`` (C,) multiplies each
sample's loss by the weight of its true class: with IIF weights that is the paper's cost-sensitive rival (CSL). Means
over samples are plain ones and not divided by the weights' sum, as those of ``torch.nn.CrossEntropyLoss(weight=...)``
are: weights with a mean of 3 triple the loss; with ``temperature=mean`` it keeps its size. The one-vs-rest losses also
take the label -1, a sample of no class (background), with weight 1.

Rivals of IIF that treat classes differently also take ``statistic`` (C,), what CLASS_STATISTICS makes of the training
set's counts under the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ClassLoss = Callable[..., Tensor]


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
    target = _one_hot(logits, labels)
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").sum(-1)
    return _weigh(loss, labels, class_weight)


def focal(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017) summed over classes, (N, C), (N,) -> (N,).

    Example:
        >>> z, y = torch.randn(3, 5), torch.tensor([0, 4, 2])
        >>> bool(torch.allclose(2 * focal(z, y, alpha=0.5, gamma=0), binary_cross_entropy(z, y)))
        True
    """
    loss = binary_focal(logits.float(), _one_hot(logits, labels), alpha=alpha, gamma=gamma).sum(-1)
    return _weigh(loss, labels, class_weight)


def binary_focal(logits: Tensor, target: Tensor, *, alpha: float, gamma: float) -> Tensor:
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
    there is one, has factors of 1, and its own samples push all classes alike.

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
    seen = statistic.float().clamp(min=1).log()
    own = seen[(labels - background).clamp(min=0)].unsqueeze(-1)
    scores = logits.detach().log_softmax(-1)
    true = scores.gather(-1, labels.unsqueeze(-1)).clamp(min=math.log(eps))
    factors = p * (seen - own).clamp(max=0) + q * (scores[:, background:] - true).clamp(min=0)  # 0 for the true class
    factors = factors * (labels >= background).unsqueeze(-1)
    return cross_entropy(logits + F.pad(factors, (background, 0)), labels, class_weight)


def equalized(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor) -> Tensor:
    """Equalization loss, (N, C), (N,) -> (N,): one-vs-rest cross-entropy in which rare classes are spared the
    negatives that samples of other classes are to them. Background (label -1) is a negative to all.

    Source: Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020, Section 3.

    Args:
        statistic: 1 for a rare class, 0 for another; see :func:`iifdet.longtail.tail_classes`.

    Example:
        >>> z, y = torch.zeros(1, 4), torch.tensor([2])
        >>> rare = torch.tensor([0.0, 0.0, 0.0, 1.0])
        >>> ratio = equalized(z, y, statistic=rare) / binary_cross_entropy(z, y)
        >>> round(ratio.item(), 4)
        0.75
    """
    target = _one_hot(logits, labels)
    spared = statistic.float() * (1 - target) * (labels >= 0).unsqueeze(-1)
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, weight=1 - spared, reduction="none").sum(-1)
    return _weigh(loss, labels, class_weight)


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
    return cross_entropy(logits.float() - _one_hot(logits, labels) * statistic.float(), labels, class_weight)


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


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels.clamp(min=0), logits.shape[-1]).float() * (labels >= 0).unsqueeze(-1)


def _as_float(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.float()


def _weigh(loss: Tensor, labels: Tensor, class_weight: Tensor | None) -> Tensor:
    if class_weight is None:
        return loss
    return loss * torch.where(labels >= 0, class_weight.float()[labels.clamp(min=0)], 1.0)


#: name -> loss.
CLASS_LOSSES: dict[str, ClassLoss] = {
    "ce": cross_entropy,
    "bce": binary_cross_entropy,
    "focal": focal,
    "seesaw": seesaw,
    "eql": equalized,
    "ldam": ldam,
}

#: The activation that turns logits into scores under each loss.
ACTIVATIONS = {
    "ce": "softmax",
    "bce": "sigmoid",
    "focal": "sigmoid",
    "seesaw": "softmax",
    "eql": "sigmoid",
    "ldam": "softmax",
}
