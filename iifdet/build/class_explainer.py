"""Keys to explanations of classifiers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.build.class_predictor import image_side
from iifdet.build.classification import class_view, known_split
from iifdet.classifiers import Classifier
from iifdet.datasets.classification import load_class_index
from iifdet.datasets.classification.photos import Middle
from iifdet.datasets.loader import channels_first
from iifdet.detectors.layout import Layout
from iifdet.explaining import CamColumn, View
from iifdet.types import ImageInfo

#: Keys that mean boxes.
ABOUT_BOXES = ("gt", "cell", "detection", "conf", "iou", "max_det", "map_conf", "resize")


def class_column(model: Classifier, keys: dict[str, Any], device: torch.device) -> CamColumn:
    """A classifier, and how it is used to seeing images."""
    view = class_view(image_side(model, keys))
    return CamColumn("", model.to(device), partial(prepare_for_classes, transform=view, device=device))


def prepare_for_classes(
    file: str, image: NDArray[np.uint8], *, transform: Middle, device: torch.device
) -> tuple[Tensor, View]:
    """Pixels (H, W, 3) to a tensor (3, S, S) in [0, 1], and which part of the image that is."""
    tensor = transform(channels_first(image), 0).to(device).float().div_(255)
    shape, side = (image.shape[0], image.shape[1]), (transform.size, transform.size)
    info = ImageInfo(0, 0, file, shape, *transform.place(shape))
    return tensor, View(info, side, Layout(side, side))


def class_pictures(
    data: str, split: str, allow_outside: bool = False
) -> list[tuple[str, Callable[[], NDArray[np.uint8]]]]:
    """Images of a split, ``test`` where there is no ``val``, each class in turn: the first of each, then the second."""
    index = load_class_index(data, known_split(data, split), allow_outside=allow_outside, strict=False)
    turn = np.zeros(len(index), dtype=np.int64)
    for label in range(len(index.names)):
        rows = np.flatnonzero(index.labels == label)
        turn[rows] = np.arange(len(rows))
    order = np.lexsort((index.labels, turn))
    return [(index.file(row), partial(index.read, row)) for row in order.tolist()]
