"""Rivals with softmax: logits that are shifted apart, or labels that are spread, by how common classes are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iifdet.longtail.losses import cross_entropy, one_hot, weighed


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


def softmax_equalized(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor, kept: float = 0.1
) -> Tensor:
    """Softmax equalization loss (SEQL), (N, C), (N,) -> (N,): softmax cross-entropy in which a rare class is a negative
    by lot alone, for each sample anew.

    Source: Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020, Section 3.3.

    Args:
        statistic: 1 for rare classes, 0 for the others.
        kept: probability of a rare class to be a negative, 1 - γ.

    Example:
        >>> z, y = torch.zeros(1, 3), torch.tensor([0])
        >>> rare = torch.tensor([0.0, 0.0, 1.0])
        >>> [round(softmax_equalized(z, y, statistic=rare, kept=k).exp().item(), 4) for k in (1.0, 0.0)]
        [3.0, 2.0]
    """
    logits = logits.float()
    left_out = (statistic > 0) & (torch.rand_like(logits) >= kept) & (one_hot(logits, labels) == 0)
    return cross_entropy(logits.masked_fill(left_out, -math.inf), labels, class_weight)


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


def lade(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    *,
    statistic: Tensor,
    strength: float = 0.1,
    penalty: float = 0.1,
) -> Tensor:
    """Label distribution disentangling loss, (N, C), (N,) -> (N,): cross-entropy of logits to which the log prior is
    added, as in ``adjust=la``, and a bound that keeps it out of the logits themselves.

    The bound (regularised Donsker-Varadhan) wants the logit of class c far higher on its own samples than on samples
    of all classes, were they equally frequent. It is one number for the batch, which every sample bears.

    Source: Hong et al., Disentangling Label Distribution for Long-Tailed Visual Recognition, CVPR 2021, Section 3.3.

    Args:
        statistic: π, each class's share of the training images.
        strength: of the bound beside cross-entropy.
        penalty: of the bound's own regularisation.

    Example:
        >>> z, y = torch.zeros(2, 2), torch.tensor([0, 1])
        >>> balanced = lade(z, y, statistic=torch.tensor([0.5, 0.5]))
        >>> torch.equal(balanced, cross_entropy(z, y))
        True
    """
    logits, prior = logits.float(), statistic.float()
    log_prior = prior.log()
    of_class = one_hot(logits, labels)
    own = (of_class * logits).sum(dim=0) / of_class.sum(dim=0).clamp(min=1)
    if_balanced = logits - log_prior - math.log(len(prior))
    all_samples = if_balanced.logsumexp(dim=0) - math.log(max(len(logits), 1))
    bound = (prior * (own - all_samples - penalty * all_samples**2)).sum()
    return weighed(cross_entropy(logits + log_prior, labels) - strength * bound, labels, class_weight)


def label_aware_smoothing(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, *, statistic: Tensor
) -> Tensor:
    """Label-aware smoothing, (N, C), (N,) -> (N,): softmax cross-entropy with a share of each label spread over all
    classes, larger for common ones, which networks are too sure of.

    Source: Zhong et al., Improving Calibration for Long-Tailed Recognition (MiSLAS), CVPR 2021, Section 3.2.

    Args:
        statistic: the share that is spread; see :func:`iifdet.longtail.label_smoothing`.

    Example:
        >>> z, y = torch.tensor([[8.0, 0.0]] * 2), torch.tensor([0, 0])
        >>> sharp = label_aware_smoothing(z, y, statistic=torch.tensor([0.0, 0.0]))
        >>> smooth = label_aware_smoothing(z, y, statistic=torch.tensor([0.3, 0.0]))
        >>> [round(v, 2) for v in (smooth - sharp).tolist()]
        [1.2, 1.2]
    """
    log_p, spread = logits.float().log_softmax(-1), statistic.float()[labels]
    true = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return weighed(-(1 - spread) * true - spread * log_p.mean(-1), labels, class_weight)
