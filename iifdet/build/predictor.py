"""Keys to a prediction: which model, how it looks at pictures, what is written."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from iifdet.build.adjustment import refuse_idle_weight_keys
from iifdet.build.class_predictor import class_habits, refuse_box_keys
from iifdet.build.classification import class_view
from iifdet.build.detection import check_rect
from iifdet.build.finished import adjust_finished, borrow, check_exported, habits, load_finished, settled
from iifdet.build.loop import pick_device
from iifdet.build.model import postprocess_options
from iifdet.classifiers import Classifier
from iifdet.config import resolve
from iifdet.config.prediction import PredictConfig
from iifdet.datasets import EvalTransform
from iifdet.detectors.fusing import fuse
from iifdet.errors import InputError, suggest
from iifdet.exporting import ExportedClassifier, ExportedDetector
from iifdet.prediction import (
    ClassPredictor,
    ClassWriter,
    Outputs,
    PredictionJob,
    PredictionSummary,
    Predictor,
    is_one_picture,
    list_source,
)
from iifdet.training import AMP_TYPES

#: Keys that no recipe fills in: its values are meant for training and validation.
OWN = ("conf", "batch", "adjust")


def build_prediction(keys: dict[str, Any], source: Any, model: Any = None) -> PredictionJob:
    """Check everything that can be checked before the first picture is read.

    Args:
        keys: of PredictConfig, without ``source``.
        source: see :func:`iifdet.prediction.list_source`.
        model: a detector or classifier that is loaded already; it is not changed.

    Raises:
        InputError: bad keys, weights or source.
    """
    refuse_idle_weight_keys(keys)
    if model is not None and keys.get("weights"):
        raise InputError("weights: expected model or weights, got both; give one of them")
    defaults = {key: PredictConfig.model_fields[key].default for key in OWN}
    config = resolve(PredictConfig, {**defaults, **keys})
    if source is None:
        raise InputError("source: expected images to look at, got none; give source=photo.jpg or a folder")
    entries = list_source(source)
    device = None if model is not None and config.device is None else pick_device(config.device)
    borrowed = model is not None
    model = borrow(model, device) if borrowed else load_finished(config.weights, config, config.trusted)
    if isinstance(model, Classifier | ExportedClassifier):
        return _classification({**keys, "source": source}, entries, model, device)
    if "top" in keys:
        raise InputError("top: belongs to classifiers, got it with a detector; drop it, or see max_det")
    looks = {**habits(model, config.weights), **defaults, **settled(model)}
    config = resolve(PredictConfig, {**looks, **keys, "source": _plain(source)})
    check_rect(config.rect, config.resize)
    model = model if device is None else model.to(device)
    model.options = postprocess_options(config, model.options)
    check_exported(model, config)
    if config.adjust is not None:
        adjust_finished(model, config)
    labels = None if config.classes is None else _labels(config.classes, model.names)
    if labels is not None:  # other classes must not use up the places
        model.options = replace(model.options, only=tuple(labels.tolist()))
    own = not borrowed and not isinstance(model, ExportedDetector)
    # It takes a forward pass and saves a part of one a picture.
    if own and config.fuse and config.amp == "none" and not is_one_picture(entries):
        fuse(model, (config.imgsz, config.imgsz))
    predictor = Predictor(
        model,
        EvalTransform(config.imgsz, config.resize),
        model.device,
        AMP_TYPES[config.amp],
        batch=config.batch,
        threads=config.workers,
        rect=config.rect,
        labels=labels,
        max_det=config.max_det,
        mask_threshold=config.mask_threshold,
    )
    return _job(entries, predictor, config)


def _classification(
    keys: dict[str, Any], entries: Any, model: Classifier | ExportedClassifier, device: Any
) -> PredictionJob:
    """The same of a classifier."""
    refuse_box_keys(keys)
    looks = class_habits(model, keys)
    config = resolve(PredictConfig, {"adjust": None, **looks, **keys, "source": _plain(keys["source"])})
    model = model if device is None else model.to(device)
    check_exported(model, config)
    if config.adjust is not None:
        adjust_finished(model, config)
    predictor = ClassPredictor(
        model,
        class_view(config.imgsz),
        model.device,
        AMP_TYPES[config.amp],
        batch=config.batch,
        threads=config.workers,
        labels=None if config.classes is None else _labels(config.classes, model.names),
        top=config.top,
    )
    job = _job(entries, predictor, config)
    return replace(job, writer=ClassWriter, summary=PredictionSummary(unit="images"))


def _job(entries: Any, predictor: Predictor, config: PredictConfig) -> PredictionJob:
    return PredictionJob(
        entries,
        predictor,
        Outputs(**{f.name: getattr(config, f.name) for f in fields(Outputs)}),
        {"project": config.project, "name": config.name, "exist_ok": config.exist_ok},
        config.model_dump(mode="json"),
        config.frame_stride,
        config.max_frames,
    )


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
