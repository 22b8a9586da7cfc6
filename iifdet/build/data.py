"""Keys to data, by task: indexes, batches, evaluators. The rest of the package asks here and knows no task by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from iifdet.build.class_predictor import refuse_box_keys
from iifdet.build.classification import (
    NOT_IN_VAL,
    classification_evaluator,
    classification_index,
    classification_split_name,
    classification_splits,
    classification_train_batches,
    classification_val_batches,
    describe_classification,
    refuse_boxes,
)
from iifdet.build.detection import (
    describe_detection,
    detection_evaluator,
    detection_index,
    detection_split_name,
    detection_splits,
    detection_train_batches,
    detection_val_batches,
    refuse_labels,
)
from iifdet.build.splits import Splits
from iifdet.config import DataKeys, InferenceKeys, SplitKeys, TrainConfig
from iifdet.datasets import find_description
from iifdet.datasets.description import JSON_FORMATS, task_of
from iifdet.distributed import ALONE, World
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts

log = logging.getLogger("iifdet")


@dataclass(frozen=True)
class TaskData:
    """How the keys become the data of one task; see the functions of this module for the arguments.

    An index has ``names``, ``counts()``, ``digest()`` and a length.
    """

    index: Callable[[SplitKeys, str], Any]
    split_name: Callable[[SplitKeys, str], str]
    splits: Callable[[TrainConfig], Splits]
    describe: Callable[[Any], str]
    train_batches: Callable[..., Any]
    val_batches: Callable[..., Any]
    evaluator: Callable[..., Any]
    refuse: Callable[[TrainConfig], None]
    not_in_val: tuple[str, ...] = ()


TASKS = {
    "detect": TaskData(
        detection_index,
        detection_split_name,
        detection_splits,
        describe_detection,
        detection_train_batches,
        detection_val_batches,
        detection_evaluator,
        refuse_labels,
    ),
    "classify": TaskData(
        classification_index,
        classification_split_name,
        classification_splits,
        describe_classification,
        classification_train_batches,
        classification_val_batches,
        classification_evaluator,
        refuse_boxes,
        NOT_IN_VAL,
    ),
}


def build_index(config: SplitKeys, split: str, task: str = "detect") -> Any:
    """The index of a split; a training split without anything to learn from is refused."""
    return TASKS[task].index(config, split)


def split_name(config: SplitKeys, split: str, task: str = "detect") -> str:
    """What a split is called in the data: a classifier's ``val`` may be its test split, ``holdout`` makes another."""
    return TASKS[task].split_name(config, split)


def refuse_keys_in_training(config: TrainConfig, task: str) -> None:
    """Refuse keys that the task's models would ignore.

    Raises:
        InputError: one is given.
    """
    TASKS[task].refuse(config)


def refuse_keys_in_val(keys: dict[str, Any], task: str) -> None:
    """Refuse keys of ``val`` that mean nothing to the task's models.

    Raises:
        InputError: one is given.
    """
    refuse_box_keys(keys, TASKS[task].not_in_val)


def training_counts(config: SplitKeys, task: str) -> ClassCounts | None:
    """The data's training counts, or None where it has no readable train split."""
    try:
        return build_index(config.model_copy(update={"max_bad": 1.0}), "train", task).counts()
    except InputError as error:
        log.warning("no training counts: %s", error)
        return None


def check_bare_annotations(data: str) -> None:
    """Refuse to do without image files where they alone say what images there are.

    Raises:
        InputError: neither COCO's nor LVIS's JSON.
    """
    format_ = find_description(data).format if task_of(data) == "detect" else "a classifier's"
    if format_ not in JSON_FORMATS:
        raise InputError(
            f"need_images: expected COCO or LVIS annotations with need_images=false, got {format_} data in {data}, "
            "which are told by their files; drop it"
        )


def build_splits(config: TrainConfig, task: str) -> Splits:
    """The indexes of a training run."""
    return TASKS[task].splits(config)


def describe_index(index: Any, task: str) -> str:
    """What a training split holds, in a few words."""
    return TASKS[task].describe(index)


def build_train_batches(
    config: TrainConfig, index: Any, device: torch.device, task: str, masks: bool = False, world: World = ALONE
) -> Any:
    """Augmented, shuffled batches of the train split, this process's of them; with ``masks`` each box brings its mask.

    The key ``batch`` counts the images of all processes together.
    """
    return TASKS[task].train_batches(config, index, device, masks, world)


def build_val_batches(
    config: DataKeys,
    inference: InferenceKeys,
    index: Any,
    task: str,
    cache: str | bool = False,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Any:
    """Every image of a split once, in an order that does not change.

    Args:
        device: where ``cache="device"`` keeps the images.
    """
    return TASKS[task].val_batches(config, inference, index, cache, world, device)


def build_evaluator(
    config: InferenceKeys, index: Any, task: str, masks: bool = False, activation: str = "softmax"
) -> Any:
    """The task's evaluator over a split; with ``masks`` it scores those of the detections too.

    Args:
        activation: of the model's class logits.
    """
    return TASKS[task].evaluator(config, index, masks, activation)
