"""Weights that multiply a sample's loss by its true class: the rivals of weights that multiply logits."""

from __future__ import annotations

import math

from torch import Tensor

from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.weights import refuse_zero_counts


def class_balanced_weights(counts: ClassCounts, beta: float = 0.9999, by: str = "image") -> Tensor:
    """``(1 - β) / (1 - β^n)``, one over the effective number of samples; (C,) float64.

    They are divided by their mean over what is counted, so that β leaves the size of the loss alone. The authors'
    weights have a mean of 1 over classes, which makes the loss of a long tail several times smaller; LDAM-DRW's
    authors divide a batch's loss by its weights, and these come to that on average.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, Section 4.

    Args:
        counts: class counts of the *training* set.
        beta: 0 weighs all alike; towards 1 the weights go to the inverse of the counts.
        by: ``"image"`` or ``"instance"`` counts.

    Raises:
        ValueError: ``beta`` outside [0, 1); unknown ``by``; a class that never appears.

    Example:
        >>> import torch
        >>> n = torch.tensor([300, 100])
        >>> counts = ClassCounts(["common", "rare"], n, n, num_images=400)
        >>> [round(w, 2) for w in class_balanced_weights(counts, beta=0.9999).tolist()]
        [0.67, 1.99]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta: expected a number from 0 to below 1, got {beta}")
    refuse_zero_counts(counts, by, "an effective number", "adjust=iif variant=smooth")
    n = counts.by(by).double()
    # 1 - β^n without the cancellation that β close to 1 brings
    weights = 1 / -(n * math.log(beta)).expm1() if beta else n.new_ones(len(n))
    return _one_a_sample(weights, n)


def generalized_weights(counts: ClassCounts, exponent: float = 1.2, by: str = "image") -> Tensor:
    """``n^-ρ`` of generalised re-weighting; (C,) float64.

    Divided by their mean over what is counted, as those of :func:`class_balanced_weights` are; the authors divide a
    batch's loss by its weights.

    Source: Zhang et al., Distribution Alignment: A Unified Framework for Long-tail Visual Recognition (DisAlign), CVPR
    2021, Section 3.3.

    Args:
        counts: class counts of the *training* set.
        exponent: ρ; 0 weighs all alike, 1 by the inverse of the counts. 1.2 for classification, 0.8 for detection.
        by: ``"image"`` or ``"instance"`` counts.

    Raises:
        ValueError: ``exponent`` below 0; unknown ``by``; a class that never appears.

    Example:
        >>> import torch
        >>> n = torch.tensor([300, 100])
        >>> counts = ClassCounts(["common", "rare"], n, n, num_images=400)
        >>> [round(w, 2) for w in generalized_weights(counts, exponent=1.0).tolist()]
        [0.67, 2.0]
    """
    if not 0 <= exponent < math.inf:
        raise ValueError(f"exponent: expected a finite number from 0, got {exponent}")
    refuse_zero_counts(counts, by, "a weight", "adjust=iif variant=smooth")
    n = counts.by(by).double()
    return _one_a_sample((n / n.min()) ** -exponent, n)  # at the largest exponents, too, one class weighs something


def _one_a_sample(weights: Tensor, n: Tensor) -> Tensor:
    """Weights whose mean over all that is counted is 1."""
    return weights / ((n * weights).sum() / n.sum())
