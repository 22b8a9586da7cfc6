"""Scoring: COCO's figures and what they hide about rare classes.

``EVALUATORS`` maps a task to its evaluator: ``update(outputs, batch)``, ``compute() -> result``,
``fitness(result) -> float``, ``summary(metrics) -> dict``, ``reset()``.
"""

from typing import Any

from iifdet.evaluation.class_result import SHOT_LIMITS, ClassResult, shots
from iifdet.evaluation.classification import ClassificationEvaluator
from iifdet.evaluation.detection import DetectionEvaluator
from iifdet.evaluation.engine import evaluate
from iifdet.evaluation.result import EvalResult
from iifdet.evaluation.tail import (
    GROUP_LIMITS,
    align_counts,
    frequency_groups,
    group_ap,
    tail_classes,
    tail_k,
)

EVALUATORS: dict[str, Any] = {"detect": DetectionEvaluator, "classify": ClassificationEvaluator}

__all__ = [
    "EVALUATORS",
    "GROUP_LIMITS",
    "SHOT_LIMITS",
    "ClassResult",
    "ClassificationEvaluator",
    "DetectionEvaluator",
    "EvalResult",
    "align_counts",
    "evaluate",
    "frequency_groups",
    "group_ap",
    "shots",
    "tail_classes",
    "tail_k",
]
