"""Keys to a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iifdet.classifiers import Classifier, Distillation
from iifdet.config import TrainConfig
from iifdet.errors import InputError, as_input_error
from iifdet.longtail import AdjustedModel


def teach(model: AdjustedModel, config: TrainConfig, load: Callable[[str], Any]) -> None:
    """Give a classifier the teacher that the keys name.

    Args:
        load: the model of a checkpoint.

    Raises:
        InputError: no teacher, or one that does not fit.
    """
    if config.distill == "none":
        return
    if config.teacher is None:
        raise InputError(
            f"distill: {config.distill} learns from a finished classifier; give teacher=<its last.pt>, or distill=none"
        )
    if not isinstance(model, Classifier):
        raise InputError(f"distill: belongs to classifiers, got it with model={config.model}; drop it")
    if config.distill == "cbd" and config.strategy == "decoupled":
        raise InputError("distill: cbd teaches features, which strategy=decoupled leaves as they are; use distill=dive")
    if config.distill == "dive" and model.class_activation != "softmax":
        raise InputError(
            f"distill: dive compares scores of a softmax, got class_loss={model.class_loss} without one; use cbd"
        )
    teacher = load(config.teacher)
    if not isinstance(teacher, Classifier):
        raise InputError(f"teacher: expected a classifier's checkpoint, got {config.teacher}")
    options = {"share": config.distill_share, "scale": config.distill_scale}
    options |= {"temperature": config.distill_temperature, "power": config.distill_power}
    with as_input_error():
        model.learn_from(Distillation(teacher, config.distill, **options))
