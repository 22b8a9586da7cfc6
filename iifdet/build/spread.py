"""How the classes of a model's training boxes spread over images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from iifdet.build.detection import detection_index
from iifdet.config import SplitKeys, TrainConfig, validate
from iifdet.datasets import find_description
from iifdet.datasets.description import JSON_FORMATS, task_of
from iifdet.errors import InputError
from iifdet.longtail import AdjustedModel, box_dimensions


class _Annotations(SplitKeys):
    """The split that a model was trained on, without its images where their sizes are in the annotations."""

    @property
    def reads_images(self) -> bool:
        return find_description(self.data).format not in JSON_FORMATS


def training_dimensions(config: Any, model: AdjustedModel) -> Tensor:
    """(C,) fractal dimensions of the boxes that a model was, or is to be, trained on.

    Which boxes these are says the run that trained it, so that all verbs agree; ``data`` may say where they are now.

    Raises:
        InputError: no such data, data of classifiers, or of other classes.
    """
    keys = config.model_dump() if isinstance(config, TrainConfig) else {**model.recipe}
    keys = {key: value for key, value in keys.items() if key in SplitKeys.model_fields}
    keys |= {key: value for key in ("data", "allow_outside") if (value := getattr(config, key, None))}
    if keys.get("data") is None:
        raise InputError("data: expected the training data, whose boxes adjust=fracal looks at, got none; add data=")
    if task_of(keys["data"]) != "detect":
        raise InputError(f"adjust: fracal looks at boxes, got {keys['data']} without any; use adjust=la")
    index = detection_index(validate(_Annotations, keys), "train")
    if list(index.names) != list(model.names):
        raise InputError(
            f"data: expected the model's {len(model.names)} classes, got {len(index.names)}; give the data it was "
            "trained on"
        )
    sizes = index.sizes[index.box_image][:, ::-1]  # width, height
    centres = (index.boxes[:, :2] + index.boxes[:, 2:]) / 2 / sizes
    return box_dimensions(torch.from_numpy(np.clip(centres, 0, 1)), torch.from_numpy(index.labels), len(index.names))
