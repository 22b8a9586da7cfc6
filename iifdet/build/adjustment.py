"""Give a model the adjustment that the keys ask for, and what may train beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from iifdet.build.freezing import (
    freeze_all_but_alignment,
    freeze_all_but_class_rows,
    freeze_all_but_scale,
    freeze_backbone,
)
from iifdet.build.rules import ADJUSTMENTS, class_weights
from iifdet.classifiers import Classifier
from iifdet.config import TrainConfig, WeightKeys
from iifdet.errors import InputError, as_input_error
from iifdet.longtail import (
    REFUSE_MIXED,
    AdjustedModel,
    ClassCounts,
    class_balanced_weights,
    generalized_weights,
)


def _cb_weights(config: TrainConfig, counts: ClassCounts) -> Tensor:
    with as_input_error():
        return class_balanced_weights(counts, config.beta, config.by)


def _grw_weights(config: TrainConfig, counts: ClassCounts) -> Tensor:
    with as_input_error():
        return generalized_weights(counts, config.rho, config.by)


#: name -> (keys, counts) -> what each sample's loss is multiplied by for its true class.
COSTS: dict[str, Callable[[TrainConfig, ClassCounts], Tensor]] = {"iif": class_weights, "cb": _cb_weights}


@dataclass(frozen=True)
class Learned:
    """What a second stage learns in place of class rows.

    Attributes:
        says: what that is, in a line of the log.
        freeze: leaves nothing else to train.
        weights: name in the state dict of the (C,) weights of classes, less ``offset``.
        costs: what its loss is multiplied by for a sample's true class, where it is.
    """

    says: str
    freeze: Callable[[AdjustedModel], None]
    weights: str
    offset: float = 0.0
    costs: Callable[[TrainConfig, ClassCounts], Tensor] | None = None


#: name -> what is learned.
LEARNED = {
    "lws": Learned("a weight for each class to be learned", freeze_all_but_scale, "adjust.scale"),
    "disalign": Learned(
        "weights and shifts of classes to be learned, and how far they act on an image",
        freeze_all_but_alignment,
        "align.gain",
        offset=1.0,
        costs=_grw_weights,
    ),
}


def loss_weights(config: TrainConfig, counts: ClassCounts) -> Tensor | None:
    """(C,) what each sample's loss is multiplied by for its true class; None where all count alike."""
    if config.strategy == "cost_sensitive":
        return COSTS[config.adjust](config, counts)
    learned = LEARNED.get(config.adjust)
    return learned.costs(config, counts) if learned and learned.costs else None


def set_adjustment(model: AdjustedModel, config: WeightKeys, kind: str, strategy: str) -> None:
    """Give a model the adjustment named ``kind``, acting in the phases that ``strategy`` means."""
    with as_input_error((ValueError, RuntimeError)):
        model.set_adjustment(**ADJUSTMENTS[kind](config, model, strategy))


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
    if config.strategy == "decoupled" and config.adjust not in LEARNED:
        freeze_all_but_class_rows(model, reinit=config.reinit)
    costs = loss_weights(config, model.counts)
    with as_input_error():
        model.set_class_weight(costs)
        model.set_class_statistic(model.counts)
    set_adjustment(model, config, "none" if config.strategy == "cost_sensitive" else config.adjust, config.strategy)
    if config.adjust in LEARNED:
        LEARNED[config.adjust].freeze(model)
    model.init_class_biases(untrained_only=True)
    if config.freeze:
        freeze_backbone(model, config.freeze)


def _refuse_mixed_labels(model: AdjustedModel, config: TrainConfig) -> None:
    """A detector's mixup shows the boxes of both images, each with its own label."""
    if not (isinstance(model, Classifier) and config.mixup):
        return
    if not model.takes_mixed_labels:
        raise InputError(f"mixup: expected 0 beside model_args.{model.shape}, got {config.mixup}; add mixup=0")
    if model.class_loss in REFUSE_MIXED:
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
    if config.reinit and config.adjust in LEARNED:
        raise InputError(
            f"reinit: starts class rows afresh, and adjust={config.adjust} keeps them as they are; drop one"
        )
    if config.freeze and config.adjust in LEARNED:
        raise InputError(f"freeze: expected none beside adjust={config.adjust}, which freezes every layer; drop it")
    if config.strategy == "cost_sensitive" and config.adjust not in COSTS:
        raise InputError(
            f"strategy: cost_sensitive weighs the loss by IIF or Class-Balanced weights; got adjust={config.adjust}, "
            "use iif or cb"
        )
    if config.defer and config.strategy != "cost_sensitive" and not config.model_args.get("generator"):
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
