"""Keys to a model: a new one, one of a checkpoint, or one of another program's file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from iifdet.build.adjustment import LEARNED, adjust_for_training
from iifdet.build.anchors import fit_anchors_to
from iifdet.build.features import check_later_stage, check_synthesis
from iifdet.build.idle import refuse_idle_keys
from iifdet.build.teaching import teach
from iifdet.checkpoint import read_checkpoint, restore_model
from iifdet.classifiers import Classifier, RobustClassifier, torchvision_weights
from iifdet.config import TrainConfig
from iifdet.datasets import TOGETHER, DatasetIndex
from iifdet.detectors import Detector, PostprocessOptions
from iifdet.detectors.backbone_weights import fetch_default, load_backbone
from iifdet.detectors.darknet_weights import load_darknet
from iifdet.detectors.torchvision_weights import OWN_OPTIONS, from_torchvision, is_detection
from iifdet.detectors.yolov3 import YOLOv3
from iifdet.errors import InputError, as_input_error, some
from iifdet.exporting import is_exported, load_exported
from iifdet.longtail import REFUSE_MIXED, AdjustedModel, ClassCounts
from iifdet.models import MODELS, create_model
from iifdet.transfer import transfer_weights
from iifdet.weight_files import read_state

log = logging.getLogger("iifdet")

#: Detections of an image where there is no limit to speak of.
NO_LIMIT = 100_000
#: Suffixes of files with torchvision's names.
TORCHVISION = (".pth", ".safetensors")


def build_model(config: TrainConfig, index: DatasetIndex, fill: bool = True, counts: ClassCounts | None = None) -> Any:
    """A model for the data's classes, filled from ``weights``, adjusted by ``adjust``.

    ``fill=False`` leaves the weights random: a resumed run brings its own and needs ``weights`` no more. ``counts`` are
    those of the index, if none are given.
    """
    refuse_idle_keys(config)
    torch.manual_seed(config.seed)
    model = create_model(config.model, len(index.names), **config.model_args)
    check_multi_scale(config, model)
    check_sampling(config, model)
    check_synthesis(config, model)
    check_later_stage(config, model)
    if config.anchors == "auto":
        anchors = fit_anchors_to(index, model, config)
        torch.manual_seed(config.seed)
        model = create_model(config.model, len(index.names), **config.model_args, anchors=anchors)
    model.names, model.counts = list(index.names), counts or index.counts()
    if config.weights and fill:
        frozen = config.adjust in LEARNED or isinstance(model, RobustClassifier)
        random = [rows.weight.clone() for rows in model.classifier_rows()] if frozen else []
        for note in load_weights(model, config.weights, whole=config.strategy == "decoupled"):
            log.info("%s", note)
        if frozen:
            _refuse_random_rows(model, random, config)
    settle_options(model, config)
    adjust_for_training(model, config)
    teach(model, config, lambda path: load_model(path, key="teacher"))
    return model


def _refuse_random_rows(model: AdjustedModel, random: Sequence[Tensor], config: TrainConfig) -> None:
    """Refuse to freeze class rows that ``weights`` did not bring."""
    pairs = zip(model.classifier_rows(), random, strict=True)
    left = torch.stack([(rows.weight == before).flatten(1).all(dim=1) for rows, before in pairs]).any(dim=0)
    names = [model.names[c] for c in left.nonzero().flatten().tolist()]
    if names:
        stays = f"adjust={config.adjust}" if config.adjust in LEARNED else "model_args.robust"
        raise InputError(
            f"weights: expected class rows for all classes, which {stays} leaves as they are, got none "
            f"in {config.weights} for {some(names, 5)}; give the data and model_args that it was trained with"
        )


def check_multi_scale(config: TrainConfig, model: Detector) -> None:
    """Refuse ``multi_scale`` where the model undoes it: all that would be left of it is blur."""
    if config.multi_scale is not None and model.size_key:
        raise InputError(
            f"multi_scale: expected a model that takes images as they come, got {config.model}, which resizes each to "
            f"its own size; drop multi_scale, the size comes from {model.size_key}"
        )


def check_sampling(config: TrainConfig, model: AdjustedModel) -> None:
    """Refuse images that are drawn to be trained on together without a model that does so, and the other way round."""
    wanted = model.sampling if isinstance(model, Classifier) else None
    if wanted and config.sampling != wanted:
        raise InputError(
            f"model_args.{model.shape}: expected sampling={wanted}, whose images it learns from together, got "
            f"{config.sampling}; add sampling={wanted}"
        )
    if config.sampling in TOGETHER and not wanted:
        option = "bilateral=true" if config.sampling == "bilateral" else f"contrast={config.sampling}"
        raise InputError(
            f"sampling: {config.sampling} draws images that are learned from together, got a model that does not; "
            f"use sampling=class_aware, or a classifier with model_args.{option}"
        )
    if isinstance(model, Classifier) and model.counts_twice and model.class_loss in REFUSE_MIXED:
        raise InputError(
            f"model_args.class_loss: {model.class_loss} sees a batch as a whole, and model_args.{model.shape} asks for "
            "each image twice; use ce"
        )


def load_model(path: str | Path, trusted: bool = False, key: str = "weights") -> Any:
    """The model of one of our checkpoints, in eval mode, with its names, counts and adjustment; or an exported file.

    Args:
        trusted: a .pt2 may run code that stands in it; it comes from a good place.
        key: what errors call it.
    """
    if is_exported(path):
        if key != "weights":
            raise InputError(f"{key}: expected a checkpoint, got the exported file {path}; give the .pt it was made of")
        return load_exported(path, trusted)
    content = read_checkpoint(path, key)
    try:
        model = create_model(content["model"]["name"], **content["model"]["args"])
        restore_model(model, content)
        if isinstance(model, Detector):
            model.options = _changed(model.options, content["recipe"])
        model.recipe = dict(content["recipe"])
        _refuse_not_finite(model, path, key)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{key}: expected a consistent checkpoint, got {path}: {reason}") from error
    return model.eval()


def _refuse_not_finite(model: torch.nn.Module, path: str | Path, key: str) -> None:
    """Weights that are not numbers find nothing and say nothing."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(
                f"{key}: expected finite numbers, got NaN or infinity in {name} of {path}; use a checkpoint before it"
            )


def load_foreign_model(name: str, weights: str, names: list[str], options: dict[str, Any]) -> Any:
    """A named architecture filled from a full file of Darknet's or torchvision's, for evaluation as it is.

    Columns go by class name where the file's are COCO's, else by order; those that the data do not name are left out.
    """
    model = create_model(name, len(names), **options)
    model.names = list(names)
    if is_darknet(weights):
        report = load_darknet(_yolo(model), weights)
        if not report.full:
            raise InputError(
                f"weights: expected a full file for {len(names)} classes, got one that is not: {report.notes[0]}"
            )
        return model.eval()
    for key, plain in OWN_OPTIONS.items():
        if options.get(key, plain) != plain:
            raise InputError(
                f"model_args.{key}: expected {plain}, as torchvision's models have it, got {options[key]}; drop it, or "
                "train from this file first"
            )
    donor = _torchvision_donor(model, weights, read_state(weights))
    absent = [known for known in names if known not in donor.names]
    if absent:
        raise InputError(
            f"weights: expected a column for each class of the data, got none for {', '.join(absent[:5])}; "
            "leave them out with classes=, or train from this file first"
        )
    transfer_weights(model, donor)
    unused = set(donor.names) - {*names, "N/A"}
    if unused:
        log.info("%s: %d of its classes are not in the data and left out", weights, len(unused))
    return model.eval()


def load_weights(model: Any, path: str, whole: bool = False) -> list[str]:
    """Fill a new model from a Darknet file, torchvision's weights or one of our checkpoints, class rows by class name.

    ``default`` is torchvision's ImageNet backbone; .pth and .safetensors files are whole detectors or backbones.

    Returns:
        What happened and what did not match, one line each.
    """
    if is_darknet(path):
        report = load_darknet(_yolo(model), path)
        return [f"{path}: {report.loaded} of {report.total} layers loaded", *report.notes]
    if is_exported(path):
        raise InputError(f"weights: expected a checkpoint to train from, got the exported file {path}")
    if isinstance(model, Classifier):
        return _load_classifier(model, path, whole)
    if path == "default":
        return load_backbone(model, fetch_default(model))
    if Path(path).suffix in TORCHVISION:
        return _load_torchvision(model, path)
    return transfer_weights(model, load_model(path), whole)


def _load_classifier(model: Classifier, path: str, whole: bool) -> list[str]:
    """torchvision's ImageNet network below the head, or one of our checkpoints."""
    if path == "default":
        return torchvision_weights.load_torchvision(model, torchvision_weights.fetch_default(model))
    if Path(path).suffix in TORCHVISION:
        return torchvision_weights.load_torchvision(model, read_state(path))
    return transfer_weights(model, load_model(path), whole)


def _load_torchvision(model: Detector, path: str) -> list[str]:
    """A file of torchvision's names: a whole detector, its class rows by name, or a backbone."""
    state = read_state(path)
    if not is_detection(state):
        return load_backbone(model, state)
    return transfer_weights(model, _torchvision_donor(model, path, state))


def _torchvision_donor(model: Detector, path: str, state: dict[str, Tensor]) -> Detector:
    """The same architecture with the weights of a file, and the names of the file's columns."""
    if not is_detection(state):
        raise InputError(f"weights: expected one of torchvision's detectors, got something else: {path}")
    args = {k: v for k, v in model.spec["args"].items() if k not in {"num_classes", *OWN_OPTIONS}}
    name, first = model.spec["name"], args.get("backbone", "resnet50_fpn") == "resnet50_fpn"
    donor = from_torchvision(state, lambda n: create_model(name, n, **args), model.names, published_eps=first)
    donor.set_class_loss(model.class_loss_choice)
    return donor


def is_foreign(path: str | Path) -> bool:
    """Whether a file is another program's by its name, and says nothing of the model that it belongs to."""
    return is_darknet(path) or Path(path).suffix in TORCHVISION


def is_darknet(path: str | Path) -> bool:
    """Darknet files are called x.weights or, cut after layer N, x.conv.N."""
    parts = Path(path).name.split(".")
    return parts[-1] == "weights" or (len(parts) > 2 and parts[-2] == "conv" and parts[-1].isdecimal())


def _yolo(model: nn.Module) -> YOLOv3:
    if not isinstance(model, YOLOv3):
        raise InputError(f"weights: a Darknet file fits YOLOv3 models, got {type(model).__name__}; pass another file")
    return model


def task_of_model(name: str | None) -> str:
    """What models of a name do; detection, where there is no such name to say it."""
    return MODELS[name].task if name in MODELS else "detect"


def settle_options(model: Any, config: BaseModel) -> None:
    """Tell a detector how to choose detections; other models choose nothing.

    Raises:
        InputError: bad values; ``fixed_ap`` for a model that has no use for it.
    """
    if isinstance(model, Detector):
        model.options = postprocess_options(config, model.options)
    if getattr(config, "fixed_ap", False):
        model.options = _without_limit(model)


def postprocess_options(config: BaseModel, own: PostprocessOptions) -> PostprocessOptions:
    """The keys that say how detections are chosen; what no key says stays the model's ``own``."""
    with as_input_error():
        return _changed(own, config.model_dump())


def _without_limit(model: Any) -> PostprocessOptions:
    """A detector's options with as many detections an image as pass its thresholds, for Fixed AP."""
    if not isinstance(model, Detector):
        raise InputError(f"fixed_ap: expected a detector, got a {type(model).__name__}; leave it false")
    return replace(model.options, max_det=NO_LIMIT, max_candidates=NO_LIMIT)


def _changed(own: PostprocessOptions, keys: dict[str, Any]) -> PostprocessOptions:
    """``own`` with those of the keys that are options."""
    known = {f.name for f in fields(PostprocessOptions)}
    return replace(own, **{k: v for k, v in keys.items() if k in known})
