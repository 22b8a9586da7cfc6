"""Inverse Image Frequency: from class counts to one weight per class (Alexandridis et al., TIP 2023, Table III)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from iifdet.longtail.counts import ClassCounts

#: Every variant takes the (C,) float64 counts n and their normaliser K (p = n / K) and returns (C,) weights.
VARIANTS: dict[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "raw": lambda n, k: torch.log(k / n),
    "smooth": lambda n, k: torch.log((k + 1) / (n + 1)) + 1,
    "relative": lambda n, k: torch.log((k - n) / n),
    "base2": lambda n, k: torch.log2(k / n),
    "base10": lambda n, k: torch.log10(k / n),
    "gombit": lambda n, k: -torch.log(-torch.log1p(-n / k)),
    # The paper prints Φ⁻¹(K/n), which is undefined for K >= n; its published weights are -Φ⁻¹(n/K).
    "normit": lambda n, k: -torch.special.ndtri(n / k),
}

#: Names that older files use.
ALIASES = {"rel": "relative", "prob": "relative"}


def iif_weights(
    counts: ClassCounts,
    variant: str = "smooth",
    by: str = "image",
    normalizer: str = "sum",
    on_nonpositive: str = "raise",
) -> Tensor:
    """Weight of each class: the rarer the class, the larger its weight.

    With p_c = n_c / K the variants of Table III are: raw -ln p, smooth ln((K+1)/(n+1)) + 1, relative ln((K-n)/n),
    base2 and base10 -log p in those bases, gombit -ln(-ln(1-p)), normit -Φ⁻¹(p).

    Args:
        counts: class counts of the *training* set.
        variant: one of VARIANTS. Only ``smooth`` is defined for classes that never appear.
        by: ``"image"`` counts images (IIF), ``"instance"`` counts boxes (IOF).
        normalizer: K for image counts: ``"sum"`` is the paper's Eq. 11, the sum of all classes' counts;
            ``"images"`` is the number of images, which the published detection runs used.
            Instance counts are always divided by their sum.
        on_nonpositive: ``"raise"``, or ``"allow"`` to let weights <= 0 through. Such a weight inverts the logit's sign:
            the surer the detector is of that class, the lower it scores.

    Returns:
        (C,) float64, finite.

    Raises:
        ValueError: unknown choice; a class with zero count under a variant other than smooth; a weight <= 0.

    Example:
        >>> counts = ClassCounts(["common", "rare"], torch.tensor([90, 10]), torch.tensor([180, 20]), num_images=95)
        >>> [round(w, 4) for w in iif_weights(counts, "raw").tolist()]
        [0.1054, 2.3026]
    """
    variant = ALIASES.get(variant, variant)
    if variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got '{variant}'")
    if normalizer not in ("sum", "images"):
        raise ValueError(f"normalizer: expected 'sum' or 'images', got '{normalizer}'")
    if on_nonpositive not in ("raise", "allow"):
        raise ValueError(f"on_nonpositive: expected 'raise' or 'allow', got '{on_nonpositive}'")
    n = counts.by(by).double()
    total = float(counts.num_images) if by == "image" and normalizer == "images" else float(n.sum())
    if variant != "smooth":
        refuse_zero_counts(counts, by, f"variant={variant}", "variant=smooth")
    weights = VARIANTS[variant](n, total)
    _refuse_bad_weights(counts, weights, variant, normalizer, on_nonpositive)
    return weights


def tempered(weights: Tensor, temperature: float | str = 1.0) -> Tensor:
    """Weights divided by a temperature; by their own mean where it is ``"mean"``, which leaves only their ratios.

    Example:
        >>> tempered(torch.tensor([1., 3.]), "mean").tolist()
        [0.5, 1.5]
    """
    return weights / (weights.mean() if isinstance(temperature, str) else temperature)


def refuse_zero_counts(counts: ClassCounts, by: str, what: str, way_out: str) -> None:
    """Raise a ValueError where a class never appears, for formulas (``what``) that have no value there.

    Example:
        >>> counts = ClassCounts(["car", "bus"], torch.tensor([8, 0]), torch.tensor([30, 0]), num_images=9)
        >>> refuse_zero_counts(counts, "image", "ln p", "smooth")
        Traceback (most recent call last):
        ValueError: class 1 'bus' has 0 training images, and ln p is undefined there; use smooth, or drop it from names
    """
    zero = (counts.by(by) == 0).nonzero().flatten().tolist()
    if zero:
        c, more = zero[0], f" (and {len(zero) - 1} more classes)" if len(zero) > 1 else ""
        unit = "images" if by == "image" else "instances"
        raise ValueError(
            f"class {c} '{counts.names[c]}'{more} has 0 training {unit}, and {what} is undefined there; "
            f"use {way_out}, or drop it from names"
        )


def _refuse_bad_weights(
    counts: ClassCounts, weights: Tensor, variant: str, normalizer: str, on_nonpositive: str
) -> None:
    bad = ~weights.isfinite() if on_nonpositive == "allow" else ~(weights.isfinite() & (weights > 0))
    if bad.any():
        c = int(bad.nonzero()[0])
        way_out = "use variant=smooth" + (", or normalizer=sum" if normalizer == "images" else "")
        raise ValueError(
            f"class {c} '{counts.names[c]}': expected a weight > 0, got {weights[c]:.4g} under variant={variant} "
            f"(it would invert the logit's sign); {way_out}"
        )


def effective_imbalance(weights: Tensor) -> float:
    """``max w / min w`` of (C,) weights; 1 means that they change nothing but the temperature.

    Example:
        >>> effective_imbalance(torch.tensor([1.5, 3.0, 6.0]))
        4.0
    """
    low = float(weights.min())
    return float(weights.max()) / low if low > 0 else math.inf
