"""How long rows are: their directions alone, and an adjustment that lengths themselves tell."""

from __future__ import annotations

import torch
from torch import Tensor


def directions(values: Tensor, dim: int = -1) -> Tensor:
    """Vectors along ``dim`` at a length of 1, same shape; one of zeros stays so, and its gradient finite.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    return values / torch.where(length > 0, length, 1.0)


def tau_norm_scale(norms: Tensor, tau: float = 1.0) -> Tensor:
    """``‖w‖^-τ`` of τ-normalisation, divided by its mean; (C,) float64.

    Rows of common classes grow longer in training, so that their logits are larger. τ = 1 makes all rows as long, 0
    leaves them. The mean leaves the ratio to a background logit alone; among classes it is without effect on which is
    first. Kang et al. drop the bias; here it is multiplied like the row, as every adjustment does.

    Source: Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020, Section 4.2.

    Args:
        norms: (C,) lengths of the class rows.
        tau: from 0 to 1 in most cases; to be tuned.

    Raises:
        ValueError: a row of length 0, or a τ that is too large.

    Example:
        >>> tau_norm_scale(torch.tensor([3.0, 1.0])).tolist()
        [0.5, 1.5]
    """
    if not (norms > 0).all():
        raise ValueError(f"taunorm: expected class rows longer than 0, got {float(norms.min())}")
    scale = norms.double() ** -tau
    scale = scale / scale.mean()
    if not (scale.isfinite() & (scale > 0)).all():
        raise ValueError(f"tau: expected one that lengths can be raised to, got {tau}; use 0 to 2")
    return scale
