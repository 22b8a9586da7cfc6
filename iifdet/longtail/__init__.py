"""Counts, weights, logit adjustment and losses for long-tailed recognition. Needs torch and nothing else of iifdet."""

from iifdet.longtail.activations import LOG_PARTS, class_scores
from iifdet.longtail.adjust import LogitAdjustment, adjust_logits, widened
from iifdet.longtail.class_losses import (
    ACTIVATIONS,
    CLASS_LOSSES,
    CLASS_STATISTICS,
    REFUSE_MIXED,
    ClassLossChoice,
    read_choice,
    spell_choice,
)
from iifdet.longtail.costs import class_balanced_weights, generalized_weights
from iifdet.longtail.counts import ClassCounts, count_classes
from iifdet.longtail.losses import iif_cross_entropy
from iifdet.longtail.model import AdjustedModel, ClassifierRows
from iifdet.longtail.norms import directions, tau_norm_scale
from iifdet.longtail.online import batch_counts, online_weights
from iifdet.longtail.priors import balanced_softmax_shift, log_prior, logit_adjustment_shift, norcal_shift
from iifdet.longtail.spread import box_dimensions, fractal_shift
from iifdet.longtail.statistics import (
    background_share,
    class_temperatures,
    label_smoothing,
    ldam_margins,
    rare_classes,
    sample_share,
    tail_classes,
)
from iifdet.longtail.weights import VARIANTS, effective_imbalance, iif_weights, tempered

__all__ = [
    "ACTIVATIONS",
    "CLASS_LOSSES",
    "CLASS_STATISTICS",
    "LOG_PARTS",
    "REFUSE_MIXED",
    "VARIANTS",
    "AdjustedModel",
    "ClassCounts",
    "ClassLossChoice",
    "ClassifierRows",
    "LogitAdjustment",
    "adjust_logits",
    "background_share",
    "balanced_softmax_shift",
    "batch_counts",
    "box_dimensions",
    "class_balanced_weights",
    "class_scores",
    "class_temperatures",
    "count_classes",
    "directions",
    "effective_imbalance",
    "fractal_shift",
    "generalized_weights",
    "iif_cross_entropy",
    "iif_weights",
    "label_smoothing",
    "ldam_margins",
    "log_prior",
    "logit_adjustment_shift",
    "norcal_shift",
    "online_weights",
    "rare_classes",
    "read_choice",
    "sample_share",
    "spell_choice",
    "tail_classes",
    "tau_norm_scale",
    "tempered",
    "widened",
]
