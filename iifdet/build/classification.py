"""Keys to the data of a classifier: indexes, batches, evaluators."""

from __future__ import annotations

from typing import Any

import torch

from iifdet.build.batch import images_together
from iifdet.build.batches import EpochBatches
from iifdet.build.splits import Splits
from iifdet.config import DataKeys, InferenceKeys, SplitKeys, TrainConfig
from iifdet.datasets import SAMPLING, EpochSampler
from iifdet.datasets.classification import ClassIndex, find_class_description, load_class_index
from iifdet.datasets.classification.augment import SmallAugment
from iifdet.datasets.classification.photos import (
    ClassDataset,
    Middle,
    PhotoTransform,
    SmallTransform,
    Transform,
    make_class_loader,
)
from iifdet.datasets.classification.resident import ResidentImages, ResidentSplit, ResidentTraining
from iifdet.distributed import ALONE, World
from iifdet.errors import InputError, counted
from iifdet.evaluation import ClassificationEvaluator

#: Images up to this side are cropped out of a border and looked at as a whole; larger ones are photographs.
SMALL = 64
#: Keys that mean boxes, of every verb, of ``val`` and of training, and those of an augmentation that images with one
#: label do not get.
ALWAYS_BOXES = ("conf", "iou", "max_det", "nms", "multi_label", "rect", "resize", "mask_threshold")
NOT_IN_VAL = (*ALWAYS_BOXES, "single_cls", "engine")
ABOUT_BOXES = (*NOT_IN_VAL, "anchors", "multi_scale", "mosaic", "copy_paste")
OTHER_AUGMENTATION = ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear")
#: Keys of training that act on small images alone; 0 is off.
ABOUT_SMALL = ("crop_padding", "cutout")


def classification_index(config: SplitKeys, split: str) -> ClassIndex:
    """The index of a split; data without a val split are evaluated on their test split.

    With ``holdout`` the splits train and val are two parts of the training images.
    """
    if config.holdout and split in ("train", "val"):
        return _parts(config)[split == "val"]
    return _read(config, known_split(config.data, split))


def _read(config: SplitKeys, split: str) -> ClassIndex:
    return load_class_index(
        config.data,
        split,
        imbalance=config.imbalance,
        fraction=config.fraction,
        classes=config.classes,
        seed=config.seed,
        allow_outside=config.allow_outside,
    )


def _parts(config: SplitKeys) -> tuple[ClassIndex, ClassIndex]:
    """The training images: those to train on, and those of ``holdout``."""
    return _read(config, "train").holdout(config.holdout, config.seed)


def classification_split_name(config: SplitKeys, split: str) -> str:
    """What a split is called in the data."""
    return "holdout" if config.holdout and split == "val" else known_split(config.data, split)


def known_split(data: str, split: str) -> str:
    """``test`` for the ``val`` of data that have a test split and no val split."""
    splits = find_class_description(data).splits
    return "test" if split == "val" and "val" not in splits and "test" in splits else split


def classification_splits(config: TrainConfig) -> Splits:
    """Train, what chooses the best epoch (``select_on``), and what is reported."""
    refuse_boxes(config)
    splits = find_class_description(config.data).splits
    if config.holdout:
        return Splits(*_parts(config), chosen_on="holdout", reported="holdout")
    chosen = _chosen(config)
    report = "test" if "test" in splits else "val"
    train, final = classification_index(config, "train"), classification_index(config, report)
    if chosen == "holdout":
        rest, held = train.holdout(config.select_share, config.seed)
        return Splits(rest, held, final, chosen, report, train.counts())
    if chosen not in splits:
        raise InputError(
            f"select_on: expected one of holdout, {', '.join(s for s in splits if s != 'train')}, got '{chosen}'"
        )
    if chosen == report:
        return Splits(train, final, None, chosen, report)
    return Splits(train, classification_index(config, chosen), final, chosen, report)


def _chosen(config: TrainConfig) -> str:
    return config.select_on or ("val" if "val" in find_class_description(config.data).splits else "holdout")


def share_left_out(config: TrainConfig) -> float:
    """The share of the training images that a run with these keys does not learn from."""
    return config.holdout or (config.select_share if _chosen(config) == "holdout" else 0.0)


def refuse_boxes(config: TrainConfig) -> None:
    """Refuse keys about boxes, which an image with one label does not have, and those that this size has no use for."""
    for key in (*ABOUT_BOXES, *OTHER_AUGMENTATION):
        if getattr(config, key) != TrainConfig.model_fields[key].default:
            raise InputError(f"{key}: belongs to detectors, got it with model={config.model}; drop it")
    if config.imgsz > SMALL and config.cache != "device":
        _refuse_keys_of_small_images(config)
    if config.augment != "default":
        raise InputError(f"augment: expected default with model={config.model}, got {config.augment}; see auto_augment")
    if config.cache not in (False, "device"):
        raise InputError(f"cache: expected false or device with model={config.model}, got {config.cache}")


def _refuse_keys_of_small_images(config: TrainConfig) -> None:
    for key in ABOUT_SMALL:
        value = getattr(config, key)
        if value not in (0, TrainConfig.model_fields[key].default):
            raise InputError(
                f"{key}: expected 0 with imgsz={config.imgsz}, since it acts on images up to {SMALL} px alone, "
                f"got {value}; give {key}=0"
            )


def describe_classification(index: ClassIndex) -> str:
    """Images."""
    return counted(len(index), "training image")


def classification_train_batches(
    config: TrainConfig, index: ClassIndex, device: torch.device, masks: bool = False, world: World = ALONE
) -> Any:
    """Augmented, shuffled batches of the train split, made on the device with ``cache=device``, else by workers."""
    batch = config.batch // world.size
    draw = SAMPLING[config.sampling](index, config.repeat_threshold, config.sampling_by)
    order: dict[str, Any] = {"draw": draw, "together": images_together(config)}
    order |= {"rank": world.rank, "world_size": world.size}
    if config.cache == "device":
        sampler = EpochSampler(len(index), config.seed, batch=batch, **order)
        data = ResidentImages.of(index, device, config.imgsz)
        return ResidentTraining(data, sampler, batch, small_augment(config), config.mixup, config.channels_last)
    dataset = ClassDataset(index, train_transform(config), config.seed, grey=False, max_bad=config.max_bad)
    loader = make_class_loader(
        dataset,
        batch,
        config.workers,
        shuffle=True,
        mixup=config.mixup,
        pin_memory=device.type == "cuda",
        **order,
    )
    return EpochBatches(loader, batch)


def small_augment(config: TrainConfig) -> SmallAugment:
    """What happens to small images in training."""
    try:
        return SmallAugment(config.crop_padding, config.flip, config.auto_augment, config.cutout)
    except ValueError as error:
        advice = f"photographs, with others, are imgsz above {SMALL} with cache=false"
        raise InputError(f"{error}; use one of these ({advice})") from error


def train_transform(config: TrainConfig) -> Transform:
    """Augmentation of one image, by ``imgsz``."""
    if config.imgsz <= SMALL:
        return SmallTransform(config.imgsz, small_augment(config))
    try:
        return PhotoTransform(config.imgsz, config.flip, config.auto_augment)
    except ValueError as error:
        raise InputError(f"{error}; use one of these, or imgsz up to {SMALL}") from error


def class_view(side: int) -> Middle:
    """How a classifier looks at pictures, in validation and in prediction."""
    return Middle(side, whole=side <= SMALL)


def classification_val_batches(
    config: DataKeys,
    inference: InferenceKeys,
    index: ClassIndex,
    cache: str | bool = False,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Any:
    """Every image of a split once, in order."""
    batch = getattr(inference, "val_batch", None) or inference.batch
    if cache == "device" and device is not None:
        return ResidentSplit(ResidentImages.of(index, device, config.imgsz), batch, world.rank, world.size)
    dataset = ClassDataset(index, class_view(config.imgsz), config.seed, grey=True, max_bad=config.max_bad)
    shares: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    return make_class_loader(dataset, batch, inference.workers, shuffle=False, **shares)


def classification_evaluator(
    config: InferenceKeys, index: ClassIndex, masks: bool = False, activation: str = "softmax"
) -> ClassificationEvaluator:
    """The evaluator of a split."""
    return ClassificationEvaluator(index, activation)
