"""Additive rivals of Inverse Image Frequency: shifts of the logits by the log prior of their class."""

from __future__ import annotations

from torch import Tensor

from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.weights import refuse_zero_counts


def log_prior(counts: ClassCounts, by: str = "image") -> Tensor:
    """Log of each class's share of all counts, ln π_c with Σ π_c = 1; (C,) float64.

    Args:
        counts: class counts of the *training* set.
        by: ``"image"`` or ``"instance"`` counts.

    Raises:
        ValueError: unknown ``by``; a class that never appears, whose prior has no logarithm.

    Example:
        >>> import torch
        >>> n = torch.tensor([75, 25])
        >>> log_prior(ClassCounts(["common", "rare"], n, n, num_images=100)).exp().tolist()
        [0.75, 0.25]
    """
    refuse_zero_counts(counts, by, "a log prior", "adjust=iif variant=smooth")
    n = counts.by(by).double()
    return (n / n.sum()).log()


def logit_adjustment_shift(counts: ClassCounts, tau: float = 1.0, by: str = "image") -> Tensor:
    """``τ ln π`` of Logit Adjustment (Menon et al., ICLR 2021); (C,) float64.

    Added to the logits inside the loss (their Eq. 10), or subtracted from them after training (Eq. 9): training
    against a head start of the common classes, or taking it away.

    Args:
        tau: strength; 1 is Fisher-consistent for the balanced error, 0 changes nothing.

    Example:
        >>> import torch
        >>> n = torch.tensor([75, 25])
        >>> counts = ClassCounts(["common", "rare"], n, n, num_images=100)
        >>> [round(v, 4) for v in logit_adjustment_shift(counts, tau=2.0).tolist()]
        [-0.5754, -2.7726]
    """
    return tau * log_prior(counts, by)


def norcal_shift(counts: ClassCounts, gamma: float = 1.0, by: str = "image") -> Tensor:
    """``-γ ln n`` of NorCal (Pan et al., NeurIPS 2021), added after training; (C,) float64.

    Their calibration ``n_c^-γ e^z_c / (e^z_bg + Σ_j n_j^-γ e^z_j)``, which leaves the background as it is. Without a
    background logit it is Logit Adjustment after training, because softmax ignores the constant γ ln Σn.

    Args:
        gamma: strength; to be tuned.

    Example:
        >>> import torch
        >>> n = torch.tensor([100, 10])
        >>> counts = ClassCounts(["common", "rare"], n, n, num_images=110)
        >>> [round(v, 3) for v in norcal_shift(counts).exp().tolist()]
        [0.01, 0.1]
    """
    return -gamma * balanced_softmax_shift(counts, by)


def balanced_softmax_shift(counts: ClassCounts, by: str = "image") -> Tensor:
    """``ln n`` of Balanced Softmax (Ren et al., NeurIPS 2020, Eq. 4), added inside the loss; (C,) float64.

    Without a background logit this is Logit Adjustment with τ = 1, because softmax ignores the constant ln Σn. Against
    a background logit the constant counts: foreground starts ln Σn ahead, so the background needs a shift of its own.

    Example:
        >>> import torch
        >>> n = torch.tensor([75, 25])
        >>> balanced_softmax_shift(ClassCounts(["common", "rare"], n, n, num_images=100)).exp().round().tolist()
        [75.0, 25.0]
    """
    return log_prior(counts, by) + counts.by(by).double().sum().log()
