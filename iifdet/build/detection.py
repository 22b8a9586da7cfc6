"""Keys to the data of a detector: indexes, batches, evaluators."""

from __future__ import annotations

import logging
from typing import Any

import torch

from iifdet.build.batches import EpochBatches
from iifdet.build.splits import Splits
from iifdet.config import DataKeys, InferenceKeys, SplitKeys, TrainConfig, ValConfig
from iifdet.datasets import (
    SAMPLING,
    TRANSFORMS,
    CopyPaste,
    DatasetIndex,
    DetectionDataset,
    EvalTransform,
    Mixing,
    hold_out,
    load_index,
    make_loader,
)
from iifdet.datasets.federated import Federated
from iifdet.distributed import ALONE, World
from iifdet.errors import InputError, counted
from iifdet.evaluation import DetectionEvaluator
from iifdet.evaluation.detection import KEPT
from iifdet.evaluation.engine import PROTOCOLS

#: Keys that mean one label an image.
ABOUT_LABELS = ("select_on", "select_share", "imbalance", "auto_augment", "cutout", "crop_padding")

log = logging.getLogger("iifdet")

#: Above this LVIS's tail has few detections left to be scored.
LVIS_CONF = 0.001


def detection_index(config: SplitKeys, split: str) -> DatasetIndex:
    """The index of a split; a training split without a single box is refused.

    With ``holdout`` the splits train and val are two parts of the training images.
    """
    if config.holdout and split in ("train", "val"):
        index = _parts(config)[split == "val"]
    else:
        index = _read(config, split)
    return _with_boxes(config, index) if split == "train" else index


def detection_split_name(config: SplitKeys, split: str) -> str:
    """What a split is called in the data."""
    return "holdout" if config.holdout and split == "val" else split


def detection_splits(config: TrainConfig) -> Splits:
    """Train and val."""
    refuse_labels(config)
    if config.holdout:
        rest, held = _parts(config)
        return Splits(_with_boxes(config, rest), held, chosen_on="holdout", reported="holdout")
    return Splits(detection_index(config, "train"), detection_index(config, "val"))


def _read(config: SplitKeys, split: str) -> DatasetIndex:
    return load_index(config.data, split, max_bad=config.max_bad, **_selection(config))


def _parts(config: SplitKeys) -> tuple[DatasetIndex, DatasetIndex]:
    """The training images: those to train on, and those of ``holdout``."""
    return hold_out(_read(config, "train"), config.holdout, config.seed)


def _with_boxes(config: SplitKeys, index: DatasetIndex) -> DatasetIndex:
    if not len(index.labels):
        keys = [f"'{key}'" for key in ("classes", "fraction") if getattr(config, key) not in (None, 1.0)]
        which = " and ".join(["its labels", *(f"the key {key}" for key in keys)])
        raise InputError(f"data: expected boxes in the train split of {config.data}, got none; check {which}")
    return index


def refuse_labels(config: TrainConfig) -> None:
    """Refuse keys about images with one label each."""
    for key in ABOUT_LABELS:
        if getattr(config, key) != TrainConfig.model_fields[key].default:
            raise InputError(f"{key}: belongs to classifiers, got it with model={config.model}; drop it")
    if config.cache == "device":
        raise InputError(f"cache: expected ram, disk or false with model={config.model}, got device")


def describe_detection(index: DatasetIndex) -> str:
    """Images and boxes."""
    return f"{counted(len(index), 'training image')}, {counted(len(index.labels), 'box', 'boxes')}"


def _selection(config: SplitKeys) -> dict[str, Any]:
    """The keys that say which part of the data is used."""
    keys = ("fraction", "classes", "single_cls", "seed", "cache_index", "allow_outside")
    return {key: getattr(config, key) for key in keys} | {"need_images": config.reads_images}


def detection_train_batches(
    config: TrainConfig,
    index: DatasetIndex,
    device: torch.device,
    masks: bool = False,
    world: World = ALONE,
) -> EpochBatches:
    """Augmented, shuffled batches of the train split, this process's of them; with ``masks`` each box brings its mask.

    The key ``batch`` counts the images of all processes together.
    """
    check_rect(config.rect, config.resize)
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
    dataset = DetectionDataset(index, transform, config.seed, **options)
    batch = config.batch // world.size
    loader = make_loader(
        dataset,
        batch,
        config.workers,
        shuffle=True,
        seed=config.seed,
        pin_memory=device.type == "cuda",
        draw=SAMPLING[config.sampling](index, config.repeat_threshold, config.sampling_by),
        rect=config.rect,
        rank=world.rank,
        world_size=world.size,
        accumulate=config.accumulate,
    )
    return EpochBatches(loader, batch, config.rect)


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


def check_rect(rect: bool, resize: str) -> None:
    """Refuse ``rect`` beside a resize that fills the square anyway."""
    if rect and resize != "letterbox":
        raise InputError(f"rect: expected resize=letterbox with it, got resize={resize}; use rect=false")


def detection_val_batches(
    config: DataKeys,
    inference: InferenceKeys,
    index: DatasetIndex,
    cache: str | bool = False,
    world: World = ALONE,
    device: torch.device | None = None,
    masks: bool = False,
) -> Any:
    """Every image of a split once: in order, or with ``rect`` from wide to tall.

    Each process has whole batches of it, as large as those of one alone: in another batch size, convolutions round
    otherwise. With ``masks`` each box brings its mask.
    """
    check_rect(inference.rect, config.resize)
    transform = EvalTransform(config.imgsz, config.resize)
    dataset = DetectionDataset(index, transform, config.seed, cache=cache, max_bad=config.max_bad, masks=masks)
    batch = getattr(inference, "val_batch", None) or inference.batch  # in training a key of its own may say
    shares: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    return make_loader(dataset, batch, inference.workers, rect=inference.rect, **shares)


def detection_evaluator(config: InferenceKeys, index: DatasetIndex, masks: bool = False, activation: str = "") -> Any:
    """The evaluator of a split; with ``masks`` it scores those of the detections too."""
    options: dict[str, Any] = {"masks": True, "mask_threshold": config.mask_threshold} if masks else {}
    if isinstance(config, ValConfig) and config.fixed_ap:  # the figures stay those of max_det
        options |= {"fixed": True, "max_per_image": min(config.max_det, KEPT)}
    if index.federated is not None:
        _say_what_lvis_does_not_see(config, index.federated)
    return DetectionEvaluator(index, engine=config.engine, **options)


def _say_what_lvis_does_not_see(config: InferenceKeys, federated: Federated) -> None:
    limit = PROTOCOLS["lvis"][0]
    if config.max_det < limit or config.conf > LVIS_CONF:
        log.warning(
            "LVIS scores up to %d detections an image, the tail's among them; got max_det=%d conf=%g, usual are "
            "max_det=300 conf=%g",
            *(limit, config.max_det, config.conf, LVIS_CONF),
        )
    if config.group_limits is not None and federated.groups() is not None:
        log.warning("group_limits: %s has no effect, the data have groups of their own", list(config.group_limits))
