"""Keys to what an adjustment is: which scales or shifts, in which phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from iifdet.build.spread import training_dimensions
from iifdet.config import TrainConfig, VariantKeys, WeightKeys
from iifdet.errors import as_input_error
from iifdet.longtail import (
    AdjustedModel,
    ClassCounts,
    balanced_softmax_shift,
    fractal_shift,
    iif_weights,
    logit_adjustment_shift,
    norcal_shift,
    tau_norm_scale,
    tempered,
)

Rule = Callable[[WeightKeys, AdjustedModel, str], dict[str, Any]]


def class_weights(config: VariantKeys, counts: ClassCounts) -> Tensor:
    """(C,) IIF weights under the keys ``variant``, ``by``, ``normalizer``, ``temperature``."""
    with as_input_error():
        weights = iif_weights(counts, config.variant, config.by, config.normalizer, config.on_nonpositive)
    return tempered(weights, config.temperature)


def _none(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    return {}


def _iif(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Multiplies: in training and inference alike, or after training alone."""
    when = "infer" if strategy == "post_process" else "both"
    weights = class_weights(config, _counts(model))
    return {"scale": weights, "when": when, **_background(config), "center": config.center}


def _la(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Adds the log prior inside the loss, or subtracts it after training: never both, they say the same."""
    _refuse_center(config)
    shift = logit_adjustment_shift(_counts(model), config.tau, config.by)
    if strategy == "post_process":
        return {"shift": -shift, "when": "infer", **_background(config)}
    return {"shift": shift, "when": "train", **_background(config)}


def _bsce(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Adds the log count inside the loss."""
    if strategy == "post_process":
        raise ValueError("adjust: Balanced Softmax is a loss and says nothing about a finished model; use adjust=la")
    _refuse_center(config)
    return {"shift": balanced_softmax_shift(_counts(model), config.by), "when": "train", **_background(config)}


def _norcal(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Subtracts the log count after training."""
    _refuse_training("norcal calibrates", strategy)
    _refuse_center(config)
    return {"shift": norcal_shift(_counts(model), config.tau, config.by), "when": "infer", **_background(config)}


def _fracal(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Subtracts the log frequency, and how far a class spreads over images, after training."""
    _refuse_training("fracal calibrates", strategy)
    _refuse_center(config)
    if model.class_activation != "softmax":
        raise ValueError(
            f"adjust: fracal adds to logits under a softmax, got class_loss={model.class_loss} without one; "
            "use adjust=la"
        )
    shift = fractal_shift(_counts(model), training_dimensions(config, model), config.fractal, config.by)
    return {"shift": shift, "when": "infer", **_background(config)}


def _taunorm(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Divides by the lengths of trained class rows."""
    if isinstance(config, TrainConfig):
        raise ValueError(
            "adjust: taunorm divides by the lengths of trained class rows; train with adjust=none, then "
            "iifdet val weights=… adjust=taunorm"
        )
    _refuse_center(config)
    norms = model.row_norms()
    if norms is None:
        raise ValueError(
            "adjust: taunorm wants class rows whose lengths act; cosine and causal heads and exported files have none"
        )
    return {"scale": tau_norm_scale(norms, config.tau), "when": "infer", **_background(config)}


def _cb(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Comes here only where it is wrong: it has no adjustment."""
    if strategy == "post_process":
        raise ValueError(
            "adjust: Class-Balanced weights are of a loss and say nothing about a finished model; use adjust=la"
        )
    raise ValueError(
        f"adjust: cb weighs the loss, got strategy={strategy}; add strategy=cost_sensitive, or use adjust=iif"
    )


def _learned(config: WeightKeys, model: AdjustedModel, strategy: str) -> dict[str, Any]:
    """Begins as the identity; what training makes of it acts in inference too."""
    if config.center != "none" or (config.bg_scale, config.bg_shift) != (1.0, 0.0):
        raise ValueError("center, bg_scale, bg_shift: belong to weights that are given, not to learned ones; drop them")
    if strategy != "decoupled":
        raise ValueError(
            f"adjust: lws and disalign learn in a second stage, got strategy={strategy}; "
            "use strategy=decoupled with weights=<a finished run's last.pt>, or adjust=iif"
        )
    return {}


def _refuse_training(what: str, strategy: str) -> None:
    if strategy != "post_process":
        raise ValueError(
            f"adjust: {what} a finished model, got strategy={strategy}; use strategy=post_process, or adjust=la"
        )


def _refuse_center(config: WeightKeys) -> None:
    if config.center != "none":
        raise ValueError(f"center: expected none beside any adjustment but iif, got {config.center}; drop it")


def _counts(model: AdjustedModel) -> ClassCounts:
    if model.counts is None:
        raise ValueError("adjust: expected training counts in the checkpoint or in data's train split, got none")
    return model.counts


def _background(config: WeightKeys) -> dict[str, Any]:
    return {"bg_scale": config.bg_scale, "bg_shift": config.bg_shift}


#: name -> (keys, model, strategy) -> what ``set_adjustment`` takes. No adjustment is the identity.
ADJUSTMENTS: dict[str, Rule] = {
    "none": _none,
    "iif": _iif,
    "la": _la,
    "bsce": _bsce,
    "norcal": _norcal,
    "fracal": _fracal,
    "taunorm": _taunorm,
    "cb": _cb,
    "lws": _learned,
    "disalign": _learned,
}
