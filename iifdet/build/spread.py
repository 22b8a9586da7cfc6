"""How the classes of a model's training boxes spread over images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from iifdet.build.detection import detection_index
from iifdet.config import SplitKeys, validate
from iifdet.datasets.description import task_of
from iifdet.errors import InputError
from iifdet.longtail import AdjustedModel, box_dimensions


def training_dimensions(config: Any, model: AdjustedModel) -> Tensor:
    """(C,) fractal dimensions of the training boxes, read from ``data``, or from where the model was trained.

    Raises:
        InputError: no such data, data of classifiers, or of other classes.
    """
    known = {key: value for key, value in model.recipe.items() if key in SplitKeys.model_fields}
    own = {key: value for key, value in config.model_dump().items() if key in SplitKeys.model_fields}
    keys = {**known, **{key: value for key, value in own.items() if value is not None}, "max_bad": 1.0}
    if keys.get("data") is None:
        raise InputError("data: expected the training data, whose boxes adjust=fracal looks at, got none; add data=")
    if task_of(keys["data"]) != "detect":
        raise InputError(f"adjust: fracal looks at boxes, got {keys['data']} without any; use adjust=la")
    index = detection_index(validate(SplitKeys, keys), "train")
    if list(index.names) != list(model.names):
        raise InputError(
            f"data: expected the model's {len(model.names)} classes, got {len(index.names)}; give the data it was "
            "trained on"
        )
    sizes = index.sizes[index.box_image][:, ::-1]  # width, height
    centres = (index.boxes[:, :2] + index.boxes[:, 2:]) / 2 / sizes
    return box_dimensions(torch.from_numpy(np.clip(centres, 0, 1)), torch.from_numpy(index.labels), len(index.names))
