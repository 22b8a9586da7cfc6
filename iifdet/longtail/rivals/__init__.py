"""Rivals of IIF that are losses of their own: what pushes a class down depends on the class.

All take ``statistic``, which CLASS_STATISTICS (:mod:`iifdet.longtail.class_losses`) makes of the training set's counts.
"""

from iifdet.longtail.rivals.gradients import equalized_focal, equalized_v2
from iifdet.longtail.rivals.one_vs_rest import (
    FEDERATED_CLASSES,
    adaptive_suppression,
    drop,
    effective_margins,
    equalized,
    federated,
)
from iifdet.longtail.rivals.softmax import label_aware_smoothing, lade, ldam, seesaw, softmax_equalized

__all__ = [
    "FEDERATED_CLASSES",
    "adaptive_suppression",
    "drop",
    "effective_margins",
    "equalized",
    "equalized_focal",
    "equalized_v2",
    "federated",
    "label_aware_smoothing",
    "lade",
    "ldam",
    "seesaw",
    "softmax_equalized",
]
