"""Models of every task by name. The task picks data set, evaluator and pictures; the loop knows tasks, not models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from iifdet.classifiers import CLASSIFIERS, OPTIONS
from iifdet.detectors import DETECTORS, PostprocessOptions
from iifdet.detectors.yolo_loss import YOLOLossOptions
from iifdet.errors import InputError, suggest

#: Options that all YOLOs take.
YOLO_OPTIONS = {"class_loss", *(f.name for f in fields(YOLOLossOptions))}


@dataclass(frozen=True)
class ModelEntry:
    """A factory and the task its models do."""

    factory: Callable[..., Any]
    task: str


MODELS: dict[str, ModelEntry] = {
    **{name: ModelEntry(factory, "detect") for name, factory in DETECTORS.items()},
    **{name: ModelEntry(factory, "classify") for name, factory in CLASSIFIERS.items()},
}


def create_model(name: str, num_classes: int, **options: Any) -> Any:
    """Build a model with random weights and note how, so that a checkpoint can build it again.

    Raises:
        InputError: unknown name, unknown or bad option.
    """
    if name not in MODELS:
        raise InputError(f"model: expected a known model, got '{name}'{suggest(name, MODELS)}")
    factory = MODELS[name].factory
    known = model_options(name)
    for key in options:
        if key in {f.name for f in fields(PostprocessOptions)}:
            raise InputError(f"model_args.{key}: how detections are chosen is a key of its own; write {key}=…")
        if key not in known:
            raise InputError(f"model_args.{key}: unknown option of {name}{suggest(key, known)}")
    try:
        model: nn.Module = factory(num_classes, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"model_args: {error}") from error
    model.spec = {"name": name, "args": {"num_classes": num_classes, **options}}  # type: ignore[assignment]
    return model


def model_options(name: str) -> set[str]:
    """Keywords that the factory of ``name`` takes."""
    parameters = inspect.signature(MODELS[name].factory).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        known |= OPTIONS if MODELS[name].task == "classify" else YOLO_OPTIONS
    return known
