"""Counts, weights, logit adjustment and losses for long-tailed recognition. Needs torch and nothing else of iifdet."""

from iifdet.longtail.adjust import LogitAdjustment, adjust_logits
from iifdet.longtail.counts import ClassCounts, count_classes
from iifdet.longtail.losses import ACTIVATIONS, CLASS_LOSSES, iif_cross_entropy
from iifdet.longtail.weights import VARIANTS, effective_imbalance, iif_weights

__all__ = [
    "ACTIVATIONS",
    "CLASS_LOSSES",
    "VARIANTS",
    "ClassCounts",
    "LogitAdjustment",
    "adjust_logits",
    "count_classes",
    "effective_imbalance",
    "iif_cross_entropy",
    "iif_weights",
]
