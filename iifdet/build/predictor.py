"""Keys to a prediction: which model, how it looks at pictures, what is written."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import torch

from iifdet.build.adjustment import set_adjustment
from iifdet.build.data import check_rect
from iifdet.build.loop import pick_device
from iifdet.build.model import is_foreign, load_foreign_model, load_model, postprocess_options
from iifdet.config import WeightKeys, resolve
from iifdet.config.prediction import PredictConfig
from iifdet.datasets import EvalTransform, described_names, find_description, load_index
from iifdet.detectors import Detector
from iifdet.errors import InputError, suggest
from iifdet.models import MODELS
from iifdet.prediction import Outputs, PredictionJob, Predictor, list_source
from iifdet.training import AMP_TYPES

#: Keys that a checkpoint's recipe fills in, and those that a model's own options do.
FROM_RECIPE, FROM_OPTIONS = (
    ("imgsz", "resize", "rect", *WeightKeys.model_fields),
    ("iou", "max_det", "nms", "multi_label", "mask_threshold"),
)
#: Keys that no recipe fills in: its values are meant for training and validation.
OWN = ("conf", "batch", "adjust")


def build_prediction(keys: dict[str, Any], source: Any, model: Detector | None = None) -> PredictionJob:
    """Check everything that can be checked before the first picture is read.

    Args:
        keys: of PredictConfig, without ``source``.
        source: see :func:`iifdet.prediction.list_source`.
        model: a detector that is loaded already; it is not changed.

    Raises:
        InputError: bad keys, weights or source.
    """
    keys = {**{key: PredictConfig.model_fields[key].default for key in OWN}, **keys}
    config = resolve(PredictConfig, keys)
    if source is None:
        raise InputError("source: expected images to look at, got none; give source=photo.jpg or a folder")
    entries = list_source(source)
    device = None if model is not None and config.device is None else pick_device(config.device)
    model = _load(config) if model is None else borrow(model, device)
    config = resolve(PredictConfig, {**_habits(model, config), **keys, "source": _plain(source)})
    check_rect(config.rect, config.resize)
    model = model if device is None else model.to(device)
    model.options = postprocess_options(config, model.options)
    if config.adjust is not None:
        _adjust(model, config)
    labels = None if config.classes is None else _labels(config.classes, model.names)
    if labels is not None:  # other classes must not use up the places
        model.options = replace(model.options, only=tuple(labels.tolist()))
    predictor = Predictor(
        model,
        EvalTransform(config.imgsz, config.resize),
        next(model.parameters()).device,
        AMP_TYPES[config.amp],
        batch=config.batch,
        threads=config.workers,
        rect=config.rect,
        labels=labels,
        max_det=config.max_det,
        mask_threshold=config.mask_threshold,
    )
    return PredictionJob(
        entries,
        predictor,
        Outputs(**{f.name: getattr(config, f.name) for f in fields(Outputs)}),
        {"project": config.project, "name": config.name, "exist_ok": config.exist_ok},
        config.model_dump(mode="json"),
        config.frame_stride,
        config.max_frames,
    )


def borrow(model: Detector, device: torch.device | None) -> Detector:
    """A detector with options and adjustment of its own on the weights of ``model``, which stays as it is.

    The weights are copied only where they must change: another device, or a model in train mode.
    """
    if not isinstance(model, Detector):
        raise InputError(f"model: expected a detector such as iifdet.load gives, got {type(model).__name__}")
    if model.training or (device is not None and next(model.parameters()).device != device):
        return copy.deepcopy(model).eval()
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.adjust = copy.deepcopy(model.adjust)
    return twin


def _load(config: PredictConfig) -> Detector:
    if not config.weights:
        raise InputError("weights: expected a checkpoint, got none; give weights=runs/train/<name>/weights/last.pt")
    if not is_foreign(config.weights):
        return load_model(config.weights)
    if config.model is None:
        raise InputError(
            f"model: expected the architecture of {config.weights}, got none; give model=<{'|'.join(MODELS)}>"
        )
    if config.data is None:
        raise InputError(f"data: expected a description that names the classes of {config.weights}, got none")
    return load_foreign_model(config.model, config.weights, class_names(config.data), config.model_args)


def _habits(model: Detector, config: PredictConfig) -> dict[str, Any]:
    """How a model is used to seeing pictures and choosing detections; the weights of another program know nothing."""
    if config.weights and is_foreign(config.weights):
        return {}
    looks = {key: model.recipe[key] for key in FROM_RECIPE if key in model.recipe}
    return {**looks, **{key: getattr(model.options, key) for key in FROM_OPTIONS}}


def class_names(data: str) -> list[str]:
    """The names in the description, or else in the annotations of its first split."""
    names = described_names(data)
    if names is None:
        split = next(iter(find_description(data).splits))
        names = load_index(data, split, max_bad=1.0, segments=False).names
    return names


def _adjust(model: Detector, config: PredictConfig) -> None:
    assert config.adjust is not None
    if config.adjust != "none" and model.counts is None and config.data is not None:
        counts = load_index(config.data, "train", max_bad=1.0, segments=False).counts()
        model.counts = counts if counts.names == model.names else None
    if config.adjust != "none" and model.counts is None:
        raise InputError("adjust: expected training counts in the checkpoint or in data's train split, got none")
    set_adjustment(model, config, config.adjust, model.counts, strategy="post_process")


def _labels(classes: list[int | str], names: list[str]) -> torch.Tensor:
    """(K,) labels of classes given by number or name."""
    for value in classes:
        if isinstance(value, str) and value not in names:
            raise InputError(f"classes: expected names of the model's classes, got '{value}'{suggest(value, names)}")
        if isinstance(value, int) and not 0 <= value < len(names):
            raise InputError(f"classes: expected numbers from 0 to {len(names) - 1}, or names, got {value}")
    return torch.tensor(sorted({names.index(v) if isinstance(v, str) else v for v in classes}))


def _plain(source: Any) -> Any:
    """A source as args.yaml can hold it."""
    if isinstance(source, list | tuple):
        return [_plain(part) for part in source]
    return source if isinstance(source, int | str) else str(source) if hasattr(source, "__fspath__") else "in memory"
