"""The only wiring: Config -> data, counts, model, optimizer, evaluator."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iifdet.checkpoint import read_checkpoint, restore_model
from iifdet.config import DataKeys, InferenceKeys, TrainConfig, WeightKeys
from iifdet.datasets import (
    DATASETS,
    RESIZES,
    SAMPLING,
    TRANSFORMS,
    CopyPaste,
    DatasetIndex,
    EvalTransform,
    Mixing,
    load_index,
    make_loader,
)
from iifdet.detectors import Detector, PostprocessOptions
from iifdet.detectors.anchors import best_possible_recall, fit_anchors, mean_best_iou
from iifdet.detectors.backbone_weights import fetch_default, load_backbone, read_state
from iifdet.detectors.darknet_weights import load_darknet
from iifdet.detectors.torchvision_weights import from_torchvision, is_detection
from iifdet.detectors.yolov3 import YOLOv3
from iifdet.errors import InputError
from iifdet.evaluation import EVALUATORS
from iifdet.longtail import ClassCounts, balanced_softmax_shift, iif_weights, logit_adjustment_shift
from iifdet.models import MODELS, create_model
from iifdet.optim import AveragedWeights, Schedule, build_optimizer
from iifdet.training import FitOptions, TrainState
from iifdet.transfer import transfer_weights
from iifdet.types import Batch

log = logging.getLogger("iifdet")

Adjustment = Callable[[WeightKeys, ClassCounts, str], dict[str, Any]]


def pick_device(name: str | int | None) -> torch.device:
    """``cpu``, ``cuda``, a device number, or None for the best there is."""
    text = "" if name is None else str(name).strip().lower()
    if text == "":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cpu":
        return torch.device("cpu")
    number = text.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdecimal():
        raise InputError(f"device: expected cpu, cuda or a device number, got '{name}'")
    if not torch.cuda.is_available():
        raise InputError(
            f"device: expected cpu on this machine, which has no CUDA device, got '{name}'; use device=cpu"
        )
    if int(number) >= torch.cuda.device_count():
        raise InputError(f"device: expected 0…{torch.cuda.device_count() - 1}, got {number}")
    return torch.device("cuda", int(number))


# -- data --------------------------------------------------------------------------------------------------------------


class EpochBatches:
    """A loader that can start in the middle of any epoch."""

    def __init__(self, loader: Any, batch: int, rect: bool = False) -> None:
        self.loader, self.batch, self.rect = loader, batch, rect

    def __len__(self) -> int:
        if self.rect:
            return int(self.loader.batch_sampler.epoch_length)
        return -(-int(self.loader.sampler.epoch_length) // self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, … of an epoch."""
        if self.rect:
            self.loader.batch_sampler.set_epoch(epoch, start)
        else:
            self.loader.sampler.set_epoch(epoch, start * self.batch)
        return iter(self.loader)


@contextlib.contextmanager
def ending_workers(*loaders: Any) -> Iterator[None]:
    """End the loaders' workers with the block.

    Left to the garbage collector they may cost 5 s each: it closes their queues first, so that they do not hear of it.
    """
    try:
        yield
    finally:
        for loader in loaders:
            loader = getattr(loader, "loader", loader)
            iterator, loader._iterator = getattr(loader, "_iterator", None), None
            getattr(iterator, "_shutdown_workers", lambda: None)()


def build_index(config: DataKeys, split: str) -> DatasetIndex:
    """The index of a split; a training split without a single box is refused."""
    index = load_index(config.data, split, max_bad=config.max_bad, **_selection(config))
    if split == "train" and not len(index.labels):
        which = "its labels" if config.classes is None else "its labels and the key 'classes'"
        raise InputError(f"data: expected boxes in the train split of {config.data}, got none; check {which}")
    return index


def _selection(config: DataKeys) -> dict[str, Any]:
    """The keys that say which part of the data is used."""
    return {key: getattr(config, key) for key in ("fraction", "classes", "single_cls", "seed", "cache_index")}


def training_counts(config: DataKeys) -> ClassCounts | None:
    """The data's training counts, or None where it has no readable train split."""
    try:
        return load_index(config.data, "train", max_bad=1.0, **_selection(config)).counts()
    except InputError as error:
        log.warning("no training counts: %s", error)
        return None


def build_train_batches(
    config: TrainConfig, index: DatasetIndex, device: torch.device, task: str, masks: bool = False
) -> EpochBatches:
    """Augmented, shuffled batches of the train split; with ``masks`` each box brings its mask."""
    _check_rect(config, config)
    own: dict[str, Any] = {}
    if config.augment == "default":
        own = {
            "flip": config.flip,
            "hsv": (config.hsv_h, config.hsv_s, config.hsv_v),
            "affine": {k: getattr(config, k) for k in ("degrees", "translate", "scale", "shear")},
        }
    transform = TRANSFORMS[config.augment](config.imgsz, config.resize, **own)
    mixing = build_mixing(config, index)
    options: dict[str, Any] = {"mixing": mixing, "cache": config.cache, "max_bad": config.max_bad, "masks": masks}
    dataset = DATASETS[task](index, transform, config.seed, **options)
    loader = make_loader(
        dataset,
        config.batch,
        config.workers,
        shuffle=True,
        seed=config.seed,
        pin_memory=device.type == "cuda",
        draw=SAMPLING[config.sampling](index, config.repeat_threshold, config.sampling_by),
        rect=config.rect,
    )
    return EpochBatches(loader, config.batch, config.rect)


def build_mixing(config: TrainConfig, index: DatasetIndex) -> Mixing:
    """Mosaic, mixup and copy-paste as the keys say; ``rect`` turns mosaic, mixup and multi-scale off, and says so."""
    mosaic, mixup = config.mosaic, config.mixup
    if config.rect:
        off = [k for k in ("mosaic", "mixup", "multi_scale") if getattr(config, k)]
        mosaic = mixup = 0.0
        if off:
            log.warning("rect: turns %s off, which need tensors of one size", ", ".join(off))
    elif mosaic and config.close_mosaic > 0 and config.epochs <= config.close_mosaic:
        log.warning("close_mosaic: %d of %d epochs, so mosaic never acts", config.close_mosaic, config.epochs)
    paste = CopyPaste(index) if config.copy_paste else None
    return Mixing(mosaic, mixup, config.copy_paste, paste, epochs=config.epochs, close=config.close_mosaic)


def _check_rect(config: DataKeys, inference: InferenceKeys) -> None:
    if inference.rect and config.resize != "letterbox":
        raise InputError(f"rect: expected resize=letterbox with it, got resize={config.resize}; use rect=false")


def build_val_batches(
    config: DataKeys, inference: InferenceKeys, index: DatasetIndex, task: str, cache: str | bool = False
) -> Any:
    """Every image of a split once: in order, or with ``rect`` from wide to tall."""
    _check_rect(config, inference)
    transform = EvalTransform(config.imgsz, config.resize)
    dataset = DATASETS[task](index, transform, config.seed, cache=cache, max_bad=config.max_bad)
    return make_loader(dataset, inference.batch, inference.workers, rect=inference.rect)


def build_evaluator(config: InferenceKeys, index: DatasetIndex, task: str) -> Any:
    """The task's evaluator over a split."""
    return EVALUATORS[task](index, engine=config.engine)


# -- model -------------------------------------------------------------------------------------------------------------


def build_model(config: TrainConfig, index: DatasetIndex, fill: bool = True) -> tuple[Any, str]:
    """A model for the data's classes, filled from ``weights``, adjusted by ``adjust``; and its task.

    ``fill=False`` leaves the weights random: a resumed run brings its own and needs ``weights`` no more.
    """
    torch.manual_seed(config.seed)
    model = create_model(config.model, len(index.names), **config.model_args)
    if config.anchors == "auto":
        anchors = fit_anchors_to(index, model, config)
        torch.manual_seed(config.seed)
        model = create_model(config.model, len(index.names), **config.model_args, anchors=anchors)
    model.names, model.counts = list(index.names), index.counts()
    if config.weights and fill:
        for note in load_weights(model, config.weights):
            log.info("%s", note)
    model.options = postprocess_options(config, model.options)
    adjust_for_training(model, config)
    return model, MODELS[config.model].task


def fit_anchors_to(index: DatasetIndex, model: Any, config: TrainConfig) -> list[list[list[float]]]:
    """Anchors for a split's boxes as the network will see them, in the shape that ``model`` has: coarse scale first."""
    if not isinstance(model, YOLOv3):
        raise InputError(f"anchors: expected a YOLOv3 model for auto, got model={config.model}; drop anchors")
    if "anchors" in config.model_args:
        raise InputError("anchors: expected either anchors=auto or model_args.anchors, got both; drop one")
    content = RESIZES[config.resize][1]
    shapes = np.array([content(h, w, config.imgsz) for h, w in index.sizes.tolist()])
    factors = (shapes / index.sizes)[index.box_image][~index.crowd]  # (M, 2) height, width
    boxes = index.boxes[~index.crowd]
    sizes = torch.from_numpy((boxes[:, 2:] - boxes[:, :2]) * factors[:, ::-1])
    scales, per_scale, _ = model.anchors.shape
    fitted = fit_anchors(sizes, scales * per_scale, config.seed)
    for name, anchors in (("before", model.anchors.flatten(0, 1)), ("fitted", fitted)):
        recall, overlap = best_possible_recall(sizes, anchors), mean_best_iou(sizes, anchors)
        log.info("anchors %s: best possible recall %.1f %%, mean best IoU %.3f", name, 100 * recall, overlap)
    return [[[round(v, 1) for v in size] for size in group.tolist()] for group in fitted.flip(0).split(per_scale)]


def load_model(path: str | Path) -> Any:
    """The model of one of our checkpoints, in eval mode, with its names, counts and adjustment."""
    content = read_checkpoint(path)
    try:
        model = create_model(content["model"]["name"], **content["model"]["args"])
        restore_model(model, content)
        known = {f.name for f in fields(PostprocessOptions)}
        model.options = replace(model.options, **{k: v for k, v in content["recipe"].items() if k in known})
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"weights: expected a consistent checkpoint, got {path}: {reason}") from error
    return model.eval()


def load_foreign_model(name: str, weights: str, names: list[str], options: dict[str, Any]) -> Any:
    """A named architecture filled from a full file of another program (Darknet), for evaluation as it is."""
    model = create_model(name, len(names), **options)
    model.names = list(names)
    if not is_darknet(weights):
        raise InputError(f"weights: expected a Darknet .weights file beside model={name}, got {weights}")
    report = load_darknet(_yolo(model), weights)
    if not report.full:
        raise InputError(
            f"weights: expected a full file for {len(names)} classes, got one that is not: {report.notes[0]}"
        )
    return model.eval()


def load_weights(model: Detector, path: str) -> list[str]:
    """Fill a new model from a Darknet file, torchvision's weights or one of our checkpoints, class rows by class name.

    ``default`` is torchvision's ImageNet backbone; .pth and .safetensors files are whole detectors or backbones.

    Returns:
        What happened and what did not match, one line each.
    """
    if is_darknet(path):
        report = load_darknet(_yolo(model), path)
        return [f"{path}: {report.loaded} of {report.total} layers loaded", *report.notes]
    if path == "default":
        return load_backbone(model, fetch_default(model))
    if Path(path).suffix in (".pth", ".safetensors"):
        state = read_state(path)
        if not is_detection(state):
            return load_backbone(model, state)
        args = {k: v for k, v in model.spec["args"].items() if k != "num_classes"}
        name, first = model.spec["name"], args.get("backbone", "resnet50_fpn") == "resnet50_fpn"
        donor = from_torchvision(state, lambda n: create_model(name, n, **args), model.names, published_eps=first)
        donor.set_class_loss(model.class_loss)
        return transfer_weights(model, donor)
    return transfer_weights(model, load_model(path))


def is_darknet(path: str | Path) -> bool:
    """Darknet files are called x.weights or, cut after layer N, x.conv.N."""
    parts = Path(path).name.split(".")
    return parts[-1] == "weights" or (len(parts) > 2 and parts[-2] == "conv" and parts[-1].isdecimal())


def _yolo(model: nn.Module) -> YOLOv3:
    if not isinstance(model, YOLOv3):
        raise InputError(f"weights: a Darknet file fits YOLOv3 models, got {type(model).__name__}; pass another file")
    return model


def postprocess_options(config: InferenceKeys, own: PostprocessOptions) -> PostprocessOptions:
    """The keys that say how detections are chosen; what no key says stays the model's ``own``."""
    known = {f.name for f in fields(PostprocessOptions)}
    try:
        return replace(own, **{k: v for k, v in config.model_dump().items() if k in known})
    except ValueError as error:
        raise InputError(str(error)) from error


# -- adjustment --------------------------------------------------------------------------------------------------------


def class_weights(config: WeightKeys, counts: ClassCounts) -> Tensor:
    """(C,) IIF weights under the keys ``variant``, ``by``, ``normalizer``, ``temperature``."""
    try:
        weights = iif_weights(counts, config.variant, config.by, config.normalizer, config.on_nonpositive)
    except ValueError as error:
        raise InputError(str(error)) from error
    return weights / (weights.mean() if config.temperature == "mean" else config.temperature)


def _none(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    return {}


def _iif(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Multiplies: in training and inference alike, or after training alone."""
    when = "infer" if strategy == "post_process" else "both"
    return {"scale": class_weights(config, counts), "when": when, **_background(config), "center": config.center}


def _la(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Adds the log prior inside the loss, or subtracts it after training: never both, they say the same."""
    shift = logit_adjustment_shift(counts, config.tau, config.by)
    if strategy == "post_process":
        return {"shift": -shift, "when": "infer", **_background(config)}
    return {"shift": shift, "when": "train", **_background(config)}


def _bsce(config: WeightKeys, counts: ClassCounts, strategy: str) -> dict[str, Any]:
    """Adds the log count inside the loss."""
    if strategy == "post_process":
        raise ValueError("adjust: Balanced Softmax is a loss and says nothing about a finished model; use adjust=la")
    return {"shift": balanced_softmax_shift(counts, config.by), "when": "train", **_background(config)}


def _background(config: WeightKeys) -> dict[str, Any]:
    return {"bg_scale": config.bg_scale, "bg_shift": config.bg_shift}


#: name -> (keys, counts, strategy) -> what ``set_adjustment`` takes. No adjustment is the identity.
ADJUSTMENTS: dict[str, Adjustment] = {"none": _none, "iif": _iif, "la": _la, "bsce": _bsce}


def set_adjustment(model: Detector, config: WeightKeys, kind: str, counts: ClassCounts | None, strategy: str) -> None:
    """Give a model the adjustment named ``kind``, acting in the phases that ``strategy`` means."""
    try:
        model.set_adjustment(**ADJUSTMENTS[kind](config, counts, strategy))  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error


def adjust_for_training(model: Detector, config: TrainConfig) -> None:
    """Apply ``adjust`` and ``strategy``; a decoupled stage also freezes everything but the class rows."""
    assert model.counts is not None
    _refuse_odd_pairs(config)
    if config.strategy == "decoupled":
        freeze_all_but_class_rows(model, reinit=config.reinit)
    costs = config.strategy == "cost_sensitive" and config.adjust == "iif"  # weighs the loss, leaves logits alone
    model.set_class_weight(class_weights(config, model.counts) if costs else None)
    set_adjustment(model, config, "none" if costs else config.adjust, model.counts, config.strategy)
    if config.freeze:
        freeze_backbone(model, config.freeze)


def _refuse_odd_pairs(config: TrainConfig) -> None:
    """Keys that are right alone and make no sense together."""
    if config.strategy in ("post_process", "cost_sensitive") and config.adjust == "none":
        raise InputError(f"strategy: {config.strategy} needs an adjustment, got adjust=none; give adjust=iif")
    if config.strategy == "decoupled" and not config.weights:
        raise InputError("strategy: decoupled trains the class rows of a finished model; give weights=<its last.pt>")
    if config.strategy == "cost_sensitive" and config.adjust not in ("iif", "none"):
        raise InputError(
            f"strategy: cost_sensitive weighs the loss by IIF weights; got adjust={config.adjust}, use iif"
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


def freeze_all_but_class_rows(model: Detector, reinit: bool = False) -> None:
    """The second stage of the decoupled strategy: only classifier layers keep a gradient."""
    model.requires_grad_(False)
    for layer in model.classifier_layers():
        layer.requires_grad_(True)
        if reinit and isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def freeze_backbone(model: nn.Module, count: int) -> None:
    """Freeze the first ``count`` parametrised layers, in order of registration."""
    layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    if count >= len(layers):
        raise InputError(f"freeze: expected fewer than {len(layers)} layers, got {count}")
    for layer in layers[:count]:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)


# -- training ----------------------------------------------------------------------------------------------------------


def build_state(config: TrainConfig, model: nn.Module, device: torch.device) -> TrainState:
    """Optimizer, scaler and average around a model that is on its device."""
    optimizer = build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        decay_all=config.decay_all,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    average = AveragedWeights(model, config.ema) if config.ema else None
    return TrainState(model, optimizer, scaler, average)


def build_schedule(config: TrainConfig) -> Schedule:
    """The learning rate over the run."""
    return Schedule(
        config.lr,
        config.epochs,
        config.schedule,
        config.steps,
        config.gamma,
        config.final_lr,
        config.warmup_epochs,
        config.warmup_factor,
    )


def fit_options(config: TrainConfig, device: torch.device) -> FitOptions:
    """The loop's own keys."""
    names = [f.name for f in fields(FitOptions) if f.name != "device"]
    options = FitOptions(device=device, **{name: getattr(config, name) for name in names})
    return replace(options, multi_scale=None) if config.rect else options  # build_mixing says so
