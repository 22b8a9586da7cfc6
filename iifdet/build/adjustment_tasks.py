"""What a study of the adjustment alone asks of a task: which outputs are kept, how they are scored, what is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from iifdet.build.classification import share_left_out
from iifdet.config import TrainConfig, validate
from iifdet.tuning import LogitCache, RawCache


@dataclass(frozen=True)
class AdjustmentTask:
    """One task's part.

    Attributes:
        cache: keeps what a model says of a split before adjustment.
        outputs: (model, cached) -> what the evaluator takes.
        of_recipe: keys that the model's own run says about images, classes and outputs.
        same_images: those of them that decide which images a share held out is.
        left_out: (recipe) -> the share of the training images that the model's own run did not learn from.
        figures: what is told of each trial.
    """

    cache: type[RawCache] | type[LogitCache]
    outputs: Callable[[Any, Any], Any]
    of_recipe: tuple[str, ...]
    same_images: tuple[str, ...]
    left_out: Callable[[Mapping[str, Any]], float]
    figures: tuple[str, ...]


def _detections(model: Any, raw: Any) -> Any:
    return model.postprocess(model.adjusted(raw))[0]


def _logits(model: Any, raw: Any) -> Any:
    return model.adjusted(raw)


def _left_out_of_detection(recipe: Mapping[str, Any]) -> float:
    return float(recipe.get("holdout") or 0.0)


def _left_out_of_classification(recipe: Mapping[str, Any]) -> float:
    """A classifier whose best epoch is chosen on a part of the training images was not trained on it either."""
    known = {k: v for k, v in recipe.items() if k in TrainConfig.model_fields}
    return share_left_out(validate(TrainConfig, known))


_IMAGES = ("data", "seed", "classes", "single_cls", "fraction")
_CHOICE = ("imgsz", "resize", "rect", "conf", "iou", "max_det", "nms", "multi_label", "group_limits")
_CUT = ("data", "seed", "classes", "imbalance", "fraction")

ADJUSTMENT_TASKS = {
    "detect": AdjustmentTask(
        RawCache,
        _detections,
        (*_IMAGES, *_CHOICE),
        _IMAGES,
        _left_out_of_detection,
        ("AP", "AP50", "tail5", "tail10", "tail20", "rare", "common", "frequent"),
    ),
    "classify": AdjustmentTask(
        LogitCache,
        _logits,
        (*_CUT, "imgsz", "group_limits"),
        _CUT,
        _left_out_of_classification,
        ("top1", "top5", "mean_class", "many", "medium", "few", "nll", "ece"),
    ),
}
