"""Counts, weights, logit adjustment and losses for long-tailed recognition. Needs torch and nothing else of iifdet."""

from iifdet.longtail.adjust import LogitAdjustment, adjust_logits, widened
from iifdet.longtail.class_losses import ACTIVATIONS, CLASS_LOSSES, CLASS_STATISTICS, OF_WHOLE_BATCH
from iifdet.longtail.costs import class_balanced_weights
from iifdet.longtail.counts import ClassCounts, count_classes
from iifdet.longtail.losses import iif_cross_entropy
from iifdet.longtail.model import AdjustedModel, ClassifierRows
from iifdet.longtail.online import batch_counts, online_weights
from iifdet.longtail.priors import balanced_softmax_shift, log_prior, logit_adjustment_shift, norcal_shift
from iifdet.longtail.statistics import ldam_margins, tail_classes
from iifdet.longtail.weights import VARIANTS, effective_imbalance, iif_weights, tempered

__all__ = [
    "ACTIVATIONS",
    "CLASS_LOSSES",
    "CLASS_STATISTICS",
    "OF_WHOLE_BATCH",
    "VARIANTS",
    "AdjustedModel",
    "ClassCounts",
    "ClassifierRows",
    "LogitAdjustment",
    "adjust_logits",
    "balanced_softmax_shift",
    "batch_counts",
    "class_balanced_weights",
    "count_classes",
    "effective_imbalance",
    "iif_cross_entropy",
    "iif_weights",
    "ldam_margins",
    "log_prior",
    "logit_adjustment_shift",
    "norcal_shift",
    "online_weights",
    "tail_classes",
    "tempered",
    "widened",
]
