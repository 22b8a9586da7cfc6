"""Keys to an adjustment: which weights or shifts, in which phases, and what may train beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from iifdet.build.freezing import freeze_all_but_class_rows, freeze_all_but_scale, freeze_backbone
from iifdet.classifiers import Classifier
from iifdet.config import TrainConfig, VariantKeys, WeightKeys
from iifdet.errors import InputError, as_input_error
from iifdet.longtail import (
    REFUSE_MIXED,
    AdjustedModel,
    ClassCounts,
    balanced_softmax_shift,
    class_balanced_weights,
    iif_weights,
    logit_adjustment_shift,
    norcal_shift,
    tempered,
)

Adjustment = Callable[[WeightKeys, ClassCounts, str], dict[str, Any]]


def class_weights(config: VariantKeys, counts: ClassCounts) -> Tensor:
    """(C,) IIF weights under the keys ``variant``, ``by``, ``normalizer``, ``temperature``."""
    with as_input_error():
        weights = iif_weights(counts, config.variant, config.by, config.normalizer, config.on_nonpositive)
    return tempered(weights, config.temperature)


def _none(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    return {}


def _iif(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Multiplies: in training and inference alike, or after training alone."""
    when = "infer" if strategy == "post_process" else "both"
    return {"scale": class_weights(config, counts), "when": when, **_background(config), "center": config.center}


def _la(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Adds the log prior inside the loss, or subtracts it after training: never both, they say the same."""
    _refuse_center(config)
    shift = logit_adjustment_shift(counts, config.tau, config.by)
    if strategy == "post_process":
        return {"shift": -shift, "when": "infer", **_background(config)}
    return {"shift": shift, "when": "train", **_background(config)}


def _bsce(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Adds the log count inside the loss."""
    if strategy == "post_process":
        raise ValueError("adjust: Balanced Softmax is a loss and says nothing about a finished model; use adjust=la")
    _refuse_center(config)
    return {"shift": balanced_softmax_shift(counts, config.by), "when": "train", **_background(config)}


def _norcal(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Subtracts the log count after training."""
    if strategy != "post_process":
        raise ValueError(
            f"adjust: norcal calibrates a finished model, got strategy={strategy}; use strategy=post_process, "
            "or adjust=la"
        )
    _refuse_center(config)
    return {"shift": norcal_shift(counts, config.tau, config.by), "when": "infer", **_background(config)}


def _cb(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Comes here only where it is wrong: it has no adjustment."""
    if strategy == "post_process":
        raise ValueError(
            "adjust: Class-Balanced weights are of a loss and say nothing about a finished model; use adjust=la"
        )
    raise ValueError(
        f"adjust: cb weighs the loss, got strategy={strategy}; add strategy=cost_sensitive, or use adjust=iif"
    )


def _lws(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Begins as the identity; what training makes of it acts in inference too."""
    if config.center != "none" or (config.bg_scale, config.bg_shift) != (1.0, 0.0):
        raise ValueError("center, bg_scale, bg_shift: belong to weights that are given, got adjust=lws; drop them")
    if strategy != "decoupled":
        raise ValueError(
            f"adjust: lws learns its weights in a second stage, got strategy={strategy}; "
            "use strategy=decoupled with weights=<a finished run's last.pt>, or adjust=iif"
        )
    return {}


def _refuse_center(config: WeightKeys) -> None:
    if config.center != "none":
        raise ValueError(
            f"center: expected none beside an adjustment that adds, got {config.center}; it belongs to iif"
        )


def _background(config: WeightKeys) -> dict[str, Any]:
    return {"bg_scale": config.bg_scale, "bg_shift": config.bg_shift}


#: name -> (keys, counts, strategy) -> what ``set_adjustment`` takes. No adjustment is the identity.
ADJUSTMENTS: dict[str, Adjustment] = {
    "none": _none,
    "iif": _iif,
    "la": _la,
    "bsce": _bsce,
    "norcal": _norcal,
    "cb": _cb,
    "lws": _lws,
}


def _cb_weights(config: TrainConfig, counts: ClassCounts) -> Tensor:
    with as_input_error():
        return class_balanced_weights(counts, config.beta, config.by)


#: name -> (keys, counts) -> what each sample's loss is multiplied by for its true class.
COSTS: dict[str, Callable[[TrainConfig, ClassCounts], Tensor]] = {"iif": class_weights, "cb": _cb_weights}


def loss_weights(config: TrainConfig, counts: ClassCounts) -> Tensor | None:
    """(C,) what each sample's loss is multiplied by for its true class; None where all count alike."""
    return COSTS[config.adjust](config, counts) if config.strategy == "cost_sensitive" else None


def set_adjustment(
    model: AdjustedModel, config: WeightKeys, kind: str, counts: ClassCounts | None, strategy: str
) -> None:
    """Give a model the adjustment named ``kind``, acting in the phases that ``strategy`` means."""
    with as_input_error((ValueError, RuntimeError)):
        model.set_adjustment(**ADJUSTMENTS[kind](config, counts, strategy))  # type: ignore[arg-type]


def refuse_idle_weight_keys(keys: Mapping[str, Any]) -> None:
    """Refuse keys of an adjustment where none is asked for: the checkpoint's stays as it is, and they would do nothing.

    Args:
        keys: those that were given, without what a checkpoint says.
    """
    idle = [key for key in WeightKeys.model_fields if key in keys]
    if idle and keys.get("adjust") is None:
        raise InputError(
            f"{idle[0]}: belongs to a new adjustment, and without adjust= the checkpoint's stays as it is; "
            "give adjust=iif (or la) beside it"
        )


def adjust_for_training(model: AdjustedModel, config: TrainConfig) -> None:
    """Apply ``adjust`` and ``strategy``; a decoupled stage also freezes everything but what it is about."""
    assert model.counts is not None
    _refuse_odd_pairs(config)
    _refuse_mixed_labels(model, config)
    learned = config.adjust == "lws"
    if config.strategy == "decoupled" and not learned:
        freeze_all_but_class_rows(model, reinit=config.reinit)
    costs = loss_weights(config, model.counts)
    model.set_class_weight(costs)
    with as_input_error():
        model.set_class_statistic(model.counts)
    set_adjustment(model, config, config.adjust if costs is None else "none", model.counts, config.strategy)
    if learned:
        freeze_all_but_scale(model)
    model.init_class_biases(untrained_only=True)
    if config.freeze:
        freeze_backbone(model, config.freeze)


def _refuse_mixed_labels(model: AdjustedModel, config: TrainConfig) -> None:
    """A detector's mixup shows the boxes of both images, each with its own label."""
    if isinstance(model, Classifier) and model.class_loss in REFUSE_MIXED and config.mixup:
        raise InputError(
            f"mixup: expected 0 beside class_loss={model.class_loss}, which sees a batch as a whole, "
            f"got {config.mixup}; add mixup=0"
        )


def _refuse_odd_pairs(config: TrainConfig) -> None:
    """Keys that are right alone and make no sense together."""
    if config.strategy in ("post_process", "cost_sensitive") and config.adjust == "none":
        raise InputError(f"strategy: {config.strategy} needs an adjustment, got adjust=none; give adjust=iif")
    if config.strategy == "decoupled" and not config.weights:
        raise InputError("strategy: decoupled trains the class rows of a finished model; give weights=<its last.pt>")
    if config.reinit and config.strategy != "decoupled":
        raise InputError(
            f"reinit: starts the class rows of strategy=decoupled afresh, got strategy={config.strategy}; drop one"
        )
    if config.reinit and config.adjust == "lws":
        raise InputError("reinit: starts class rows afresh, and adjust=lws keeps them as they are; drop one")
    if config.freeze and config.adjust == "lws":
        raise InputError("freeze: expected none beside adjust=lws, which leaves nothing but a weight a class; drop it")
    if config.strategy == "cost_sensitive" and config.adjust not in COSTS:
        raise InputError(
            f"strategy: cost_sensitive weighs the loss by IIF or Class-Balanced weights; got adjust={config.adjust}, "
            "use iif or cb"
        )
    if config.defer and config.strategy != "cost_sensitive":
        raise InputError(
            f"defer: puts off the weights of strategy=cost_sensitive, got strategy={config.strategy}; drop one"
        )
    if config.source == "batch" and config.adjust != "iif":
        raise InputError(f"source: batch belongs to adjust=iif, got adjust={config.adjust}; use source=dataset")
    if config.source == "batch" and config.strategy not in ("end_to_end", "decoupled"):
        raise InputError(f"source: batch acts in training, and strategy={config.strategy} leaves that alone; drop one")
    if config.source == "batch" and (config.variant != "smooth" or config.by != "image"):
        raise InputError(
            f"source: batch knows variant=smooth by=image, since most classes are absent from a batch; "
            f"got variant={config.variant} by={config.by}"
        )
