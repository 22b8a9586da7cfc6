"""Keys to a prediction of a classifier."""

from __future__ import annotations

from typing import Any

from iifdet.build.classification import ALWAYS_BOXES
from iifdet.classifiers import Classifier
from iifdet.errors import InputError

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


def image_side(model: Classifier, keys: dict[str, Any]) -> int:
    """The side of the images that a classifier looks at: by key, as it was trained, or as its network was made for."""
    if "imgsz" in keys:
        return int(keys["imgsz"])
    return int(model.recipe.get("imgsz", model.network.side))
