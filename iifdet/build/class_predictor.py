"""Keys to a prediction of a classifier."""

from __future__ import annotations

from typing import Any

from iifdet.build.classification import ALWAYS_BOXES
from iifdet.classifiers import Classifier
from iifdet.config import WeightKeys
from iifdet.errors import InputError
from iifdet.exporting import ExportedClassifier

#: Keys of ``predict`` that mean boxes.
ABOUT_BOXES = (*ALWAYS_BOXES, "mask_format", "fuse")


def refuse_box_keys(keys: dict[str, Any], refused: tuple[str, ...] = ABOUT_BOXES) -> None:
    """Refuse keys about boxes, which an image with one label does not have.

    Raises:
        InputError: one is given.
    """
    for key in refused:
        if key in keys:
            raise InputError(f"{key}: belongs to detectors, got it with a classifier; drop it")


def image_side(model: Classifier | ExportedClassifier, keys: dict[str, Any]) -> int:
    """The side of the images that a classifier looks at: by key, as it was trained, or as its network was made for."""
    made_for = {"imgsz": model.network.side} if isinstance(model, Classifier) else {}
    return int({**made_for, **model.recipe, **keys}["imgsz"])


def class_habits(model: Classifier | ExportedClassifier, keys: dict[str, Any]) -> dict[str, Any]:
    """How a classifier is used to seeing pictures, and the keys of its adjustment."""
    looks = {key: model.recipe[key] for key in WeightKeys.model_fields if key in model.recipe}
    return {**looks, "imgsz": image_side(model, keys)}
