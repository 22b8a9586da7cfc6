"""Keys to passes over images beside training: for features that are drawn, for centroids, for chances."""

from __future__ import annotations

import logging
from typing import Any

import torch

from iifdet.build.data import build_val_batches
from iifdet.build.detection import detection_val_batches
from iifdet.build.splits import Splits
from iifdet.classifiers import Classifier, Moments, RobustClassifier, Synthesis
from iifdet.config import TrainConfig
from iifdet.curriculum import AdaptedChances, Centroids, features_of
from iifdet.detectors.rcnn import FasterRCNN
from iifdet.distributed import World
from iifdet.errors import InputError, as_input_error
from iifdet.longtail import AdjustedModel

log = logging.getLogger("iifdet")

#: Numbers in the covariances of all classes at most: 1 GB as they are used, 2 while they are added up.
MOST = 2**28


def check_later_stage(config: TrainConfig, model: AdjustedModel) -> None:
    """Refuse what begins with the features of a finished classifier without one."""
    if isinstance(model, RobustClassifier) and not model.trains_features:
        raise InputError(
            "model_args.robust: trains features, got trainable_stages=0, which leaves them as they are; give 1 or more"
        )
    if not (isinstance(model, Classifier) and model.wants_centroids):
        return
    if not config.weights:
        raise InputError(
            f"model_args.{model.shape}: begins with the features of a finished classifier; give weights=<its last.pt>"
        )


def check_synthesis(config: TrainConfig, model: AdjustedModel) -> None:
    """Refuse ``synthesis`` where features move, or come otherwise than in the proportions of the training set."""
    if config.synthesis == "none":
        return
    if not isinstance(model, Classifier) or model.shape:
        got = f"model_args.{model.shape}" if isinstance(model, Classifier) else f"model={config.model}"
        raise InputError(f"synthesis: belongs to plain classifiers, got {got}; drop one")
    wanted: dict[str, Any] = {"strategy": "decoupled", "frozen_bn": "eval", "sampling": "random", "distill": "none"}
    for key, value in (wanted | {"mixup": 0}).items():
        if getattr(config, key) != value:
            raise InputError(
                f"{key}: expected {value} beside synthesis={config.synthesis}, which draws features of a finished "
                f"network, got {getattr(config, key)}; add {key}={value}"
            )
    width, classes = model.network.out_features, model.num_classes
    if classes * width**2 > MOST:
        raise InputError(
            f"synthesis: expected covariances of {MOST:,} numbers at most, got {classes} classes with {width}x{width} "
            "each; use a smaller network"
        )


def prepare_synthesis(
    config: TrainConfig, model: AdjustedModel, batches: Any, device: torch.device, world: World
) -> None:
    """Look at the training images once with the finished network, and let the classifier draw features like theirs."""
    if config.synthesis == "none":
        return
    assert isinstance(model, Classifier)
    log.info("synthesis: one pass over the training images, for the features of each class")
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # a resumed run draws on where it stopped
        moments = Moments.of(features_of(model, batches.epoch(0), device), model.num_classes)
    sums = (moments.images, moments.first, moments.second)
    world.average_(sums)
    for each in sums:
        each.mul_(world.size)
    with as_input_error():
        model.synthesis = Synthesis.of(moments, config.synthesis_neighbors, config.synthesis_spread)


def look_before_epochs(
    config: TrainConfig, model: AdjustedModel, splits: Splits, device: torch.device, world: World
) -> Centroids | AdaptedChances | None:
    """What a model wants to know of images before an epoch begins, as a hook; None for most models.

    Centroids are of the training images, in order, as they are; chances follow images that ``holdout`` keeps apart.
    """
    if isinstance(model, Classifier) and model.wants_centroids:
        batches = build_val_batches(config, config, splits.train, "classify", config.cache, world, device)
        return Centroids(batches, device, world)
    if isinstance(model, FasterRCNN) and model.augmentation is not None and config.holdout:
        batches = detection_val_batches(config, config, splits.val, config.cache, world, device, model.wants_masks)
        return AdaptedChances(batches, device, world)
    return None
