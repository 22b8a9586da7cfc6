"""A finished model for verbs that only use it: of a checkpoint, another program's file or an exported graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from iifdet.build.adjustment import set_adjustment
from iifdet.build.model import is_foreign, load_foreign_model, load_model, task_of_model
from iifdet.checkpoint import read_checkpoint
from iifdet.config import WeightKeys
from iifdet.datasets import described_names, find_description, load_index
from iifdet.datasets.classification import load_class_index
from iifdet.datasets.description import task_of
from iifdet.detectors import Detector
from iifdet.errors import InputError
from iifdet.exporting import CLASSIFY, Exported, ExportedDetector, is_exported, read_card
from iifdet.longtail import AdjustedModel, ClassCounts
from iifdet.models import MODELS

#: Keys that a checkpoint's recipe fills in, and those that a model's own options do.
FROM_RECIPE, FROM_OPTIONS = (
    ("imgsz", "resize", "rect", *WeightKeys.model_fields),
    ("iou", "max_det", "nms", "multi_label", "mask_threshold"),
)


class Chosen(Protocol):
    """The keys that say which model, beside ``weights``."""

    @property
    def model(self) -> str | None: ...

    @property
    def model_args(self) -> dict[str, Any]: ...

    @property
    def data(self) -> str | None: ...


def load_finished(
    weights: str | None, config: Chosen, trusted: bool = False, names: Sequence[str] | None = None
) -> Any:
    """The model of a file, in eval mode on the CPU.

    Args:
        weights: one of our checkpoints or exported files, or another program's weights.
        config: names the architecture and the classes of the latter.
        trusted: as in :func:`load_model`.
        names: the classes of the latter, where they are known.

    Raises:
        InputError: no such file, not what it should be, or nothing says what it belongs to.
    """
    if not weights:
        raise InputError("weights: expected a checkpoint, got none; give weights=runs/train/<name>/weights/last.pt")
    if not is_foreign(weights):
        model = load_model(weights, trusted)
        own = model.spec.get("name")
        if config.model in MODELS and own and config.model != own:
            raise InputError(f"model: expected {own}, which {weights} holds, got {config.model}; leave model= out")
        return model
    if config.model is None:
        raise InputError(f"model: expected the architecture of {weights}, got none; give model=<{'|'.join(MODELS)}>")
    if names is None and config.data is None:
        raise InputError(f"data: expected a description that names the classes of {weights}, got none; give data=")
    names = class_names(str(config.data)) if names is None else list(names)
    return load_foreign_model(config.model, weights, names, config.model_args)


def borrow(model: Any, device: torch.device | None) -> Any:
    """A model with options and adjustment of its own on the weights of a detector or classifier, which stays as it is.

    The weights are copied only where they must change: another device, or a model in train mode.
    """
    if not isinstance(model, AdjustedModel):
        raise InputError(
            f"model: expected a detector or classifier such as iifdet.load gives, got {type(model).__name__}"
        )
    if model.training or (device is not None and model.device != device):
        return copy.deepcopy(model).eval()
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.adjust = copy.deepcopy(model.adjust)
    return twin


def read_about(weights: str | Path) -> tuple[dict[str, Any], str | None]:
    """The keys that a file was trained with, or exported, and its model's task.

    Another program's file says neither.
    """
    if is_foreign(weights):
        return {}, None
    if not is_exported(weights):
        content = read_checkpoint(weights)
        return dict(content["recipe"] or {}), task_of_model(content["model"]["name"])
    card = read_card(weights)
    settled = () if card.task == CLASSIFY else (*FROM_OPTIONS, *(("conf",) if card.nms else ()))
    chosen = {key: card.postprocessing[key] for key in settled}
    return {**card.habits(), **chosen}, card.task


def task_of_loaded(model: AdjustedModel) -> str:
    """What a loaded model does."""
    return model.card.task if isinstance(model, Exported) else task_of_model(model.spec.get("name"))


def habits(model: Detector, weights: str | None) -> dict[str, Any]:
    """How a model is used to seeing pictures and choosing detections; the weights of another program know nothing."""
    if weights and is_foreign(weights):
        return {}
    looks = {key: model.recipe[key] for key in FROM_RECIPE if key in model.recipe}
    return {**looks, **{key: getattr(model.options, key) for key in FROM_OPTIONS}}


def settled(model: Detector) -> dict[str, Any]:
    """Keys whose values an exported file with NMS inside has settled; they hold unless a key says another one."""
    return {"conf": model.card.options.conf} if isinstance(model, ExportedDetector) and model.card.nms else {}


def check_exported(model: AdjustedModel, config: Any) -> None:
    """Refuse keys that an exported file has settled otherwise; other models take them all.

    Raises:
        InputError: another image size, or other detections than its own NMS gives.
    """
    if isinstance(model, Exported):
        model.check(config)


def adjust_finished(model: AdjustedModel, config: Any) -> None:
    """Replace the adjustment by that of ``config.adjust`` and the keys beside it, in inference alone.

    Raises:
        InputError: nobody knows the training counts, or the model's rows carry an adjustment already.
    """
    if model.adjust.folded:
        raise InputError("adjust: expected a model that was not folded, got one that was; use its checkpoint")
    if config.adjust != "none" and model.counts is None and config.data is not None:
        counts = counts_of(config.data)
        model.counts = counts if counts.names == model.names else None
    set_adjustment(model, config, config.adjust, strategy="post_process")


def counts_of(data: str) -> ClassCounts:
    """Training counts of data of either task."""
    if task_of(data) == "classify":
        return load_class_index(data, strict=False).counts()
    return load_index(data, "train", max_bad=1.0, segments=False).counts()


def class_names(data: str) -> list[str]:
    """The names in the description, or else in the annotations of its first split."""
    names = described_names(data)
    if names is None:
        split = next(iter(find_description(data).splits))
        names = load_index(data, split, max_bad=1.0, segments=False).names
    return names
