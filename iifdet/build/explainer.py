"""Keys to explanations: which models, which images, what of them is explained."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.build.class_explainer import ABOUT_BOXES, class_column, class_pictures
from iifdet.build.class_predictor import refuse_box_keys
from iifdet.build.finished import load_finished, read_about
from iifdet.build.loop import pick_device
from iifdet.build.model import task_of_model
from iifdet.classifiers import Classifier
from iifdet.config import resolve
from iifdet.config.explaining import CamConfig
from iifdet.datasets import DatasetIndex, EvalTransform, load_index, read_image
from iifdet.detectors import Detector
from iifdet.errors import InputError, as_input_error, some, suggest
from iifdet.explaining import CamColumn, CamJob, Choice, View, draw_class_sheet, explain_class
from iifdet.explaining.job import CamTask
from iifdet.explaining.layers import find_layers
from iifdet.exporting import is_exported
from iifdet.prediction.sources import list_source, read_source
from iifdet.types import ImageInfo

log = logging.getLogger("iifdet")

#: Gives the pixels (H, W, 3) of an image, or raises an OSError.
Read = Callable[[], NDArray[np.uint8]]
#: Keys that a checkpoint's recipe fills in: how its images look, and which data it was trained on.
FROM_RECIPE = ("imgsz", "resize")
SELECTION = ("classes", "single_cls")


def build_cam(keys: dict[str, Any]) -> tuple[CamConfig, CamJob]:
    """Check everything that can be checked before the first image is read.

    Raises:
        InputError: bad keys, weights, data or source; models of different classes; an unknown class or layer.
    """
    # A recipe's conf is meant for validation.
    config = resolve(CamConfig, {"conf": CamConfig.model_fields["conf"].default, **keys})
    _check_choice(config)
    if not config.weights:
        raise InputError("weights: expected a checkpoint, got none; give weights=runs/train/<name>/weights/last.pt")
    for weights in filter(is_exported, config.weights):
        raise InputError(f"weights: expected a checkpoint, got {weights}; an exported graph has no layers to look at")
    device = pick_device(config.device)
    recipes, tasks = zip(*map(read_about, config.weights), strict=True)
    if (tasks[0] or task_of_model(config.model)) == "classify":
        return config, _classification(config, keys, recipes[0], device)
    index = _index(config, recipes[0])
    columns = [_column(config, keys, w, r, device) for w, r in zip(config.weights, recipes, strict=True)]
    names = columns[0].model.names
    for weights, column in zip(config.weights, columns, strict=True):
        _check_names(names, column.model.names, weights)
    if index is not None and config.gt is not None and list(index.names) != list(names):
        raise InputError(f"data: expected the checkpoint's {len(names)} classes, got {len(index.names)}, other ones")
    columns = [replace(c, title=t) for c, t in zip(columns, _titles(config.weights), strict=True)]
    options = {k: getattr(config, k) for k in ("method", "layer", "scalar")}
    options |= {"classes_above": config.map_conf, "curve_steps": config.curves}
    return config, CamJob(columns, _tasks(config, index, _label(config.category, names)), options, config.plots)


def _classification(config: CamConfig, keys: dict[str, Any], recipe: dict[str, Any], device: torch.device) -> CamJob:
    """Explanations of classifiers."""
    refuse_box_keys(keys, ABOUT_BOXES)
    data = config.data or recipe.get("data")
    if not config.source and data is None:
        raise InputError("source: expected images to look at, got none; give source=photo.jpg, a folder, or data=")
    models = [load_finished(weights, config) for weights in config.weights]
    for weights, model in zip(config.weights, models, strict=True):
        if not isinstance(model, Classifier):
            raise InputError(f"weights: expected classifiers alone, got the detector {weights}; look at it by itself")
        _check_names(models[0].names, model.names, weights)
        find_layers(model, config.layer)
    columns = [
        replace(class_column(model, keys, device), title=title)
        for model, title in zip(models, _titles(config.weights), strict=True)
    ]
    label = _label(config.category, models[0].names)
    if config.source:
        pictures = _sources(config.source)
    else:
        pictures = class_pictures(str(data), config.split, config.allow_outside)
    tasks = [CamTask(file, read, lambda view: label) for file, read in _first(pictures, config.limit)]
    options = {key: getattr(config, key) for key in ("method", "layer", "scalar")} | {"curve_steps": config.curves}
    return CamJob(columns, tasks, options, config.plots, explain_class, draw_class_sheet)


def _first(pictures: list[tuple[str, Read]], limit: int) -> list[tuple[str, Read]]:
    if limit and len(pictures) > limit:
        log.info("the first %d of %d images; limit=0 takes them all", limit, len(pictures))
    return pictures[: limit or None]


def _check_choice(config: CamConfig) -> None:
    given = [k for k, used in (("gt", config.gt), ("cell", config.cell)) if used is not None]
    given += ["detection"] if config.detection != 1 else []
    if len(given) > 1:
        raise InputError(f"{given[1]}: expected one of detection, gt and cell, got {' and '.join(given)}")


def _index(config: CamConfig, recipe: dict[str, Any]) -> DatasetIndex | None:
    """The data, where something of them is needed: images or ground truths."""
    data = config.data or recipe.get("data")
    if config.source and config.gt is None:
        return None
    if data is None:
        if config.source:
            return None
        raise InputError("source: expected images to look at, got none; give source=photo.jpg, a folder, or data=")
    chosen = {k: recipe[k] for k in SELECTION if k in recipe} if config.data in (None, recipe.get("data")) else {}
    return load_index(data, config.split, max_bad=1.0, segments=False, allow_outside=config.allow_outside, **chosen)


def _column(
    config: CamConfig, keys: dict[str, Any], weights: str, recipe: dict[str, Any], device: torch.device
) -> CamColumn:
    model = load_finished(weights, config)
    if not isinstance(model, Detector):
        raise InputError(f"weights: expected models of one task, got {weights} of a classifier beside detectors")
    chosen = {k: v for k, v in config.model_dump().items() if k in ("conf", "iou", "max_det") and v is not None}
    with as_input_error():
        model.options = replace(model.options, **chosen)
    find_layers(model, config.layer)
    look = {k: recipe[k] for k in FROM_RECIPE if k in recipe and k not in keys}
    transform = EvalTransform(look.get("imgsz", config.imgsz), look.get("resize", config.resize))
    model = model.to(device)
    return CamColumn("", model, partial(prepare_image, model=model, transform=transform, device=device))


def prepare_image(
    file: str, image: NDArray[np.uint8], *, model: Any, transform: EvalTransform, device: torch.device
) -> tuple[Tensor, View]:
    """Pixels (H, W, 3) to a tensor (3, h, w) in [0, 1], and how it lies in the network."""
    out = transform(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    tensor = torch.from_numpy(np.ascontiguousarray(out.image.transpose(2, 0, 1))).to(device).float().div_(255)
    size = (int(tensor.shape[-2]), int(tensor.shape[-1]))
    info = ImageInfo(0, 0, file, (image.shape[0], image.shape[1]), out.scale, out.offset)
    return tensor, View(info, size, model.layout(size))


def _check_names(names: list[str], own: list[str], weights: str) -> None:
    if list(names) != list(own):
        raise InputError(
            f"weights: expected models of the same classes, got {weights} with {len(own)} "
            f"({some(own)}) beside {len(names)} ({some(names)})"
        )


def _titles(weights: list[str]) -> list[str]:
    """The run's name for runs/train/x/weights/last.pt, the file's otherwise; the path where that is not enough."""
    paths = [Path(w) for w in weights]
    short = [p.parent.parent.name if p.parent.name == "weights" and p.suffix == ".pt" else p.name for p in paths]
    short = [s or p.name for s, p in zip(short, paths, strict=True)]
    return short if len(set(short)) == len(short) else [str(p) for p in paths]


def _label(category: str | None, names: list[str]) -> int | None:
    if category is None:
        return None
    if category not in names:
        raise InputError(f"category: expected a class of the model, got '{category}'{suggest(category, names)}")
    return list(names).index(category)


# -- images ------------------------------------------------------------------------------------------------------------


def _tasks(config: CamConfig, index: DatasetIndex | None, label: int | None) -> list[CamTask]:
    pictures = _sources(config.source) if config.source else _of_index(index)
    rows = {} if index is None else {os.path.realpath(f): row for row, f in enumerate(index.files)}
    tasks = []
    for file, read in _first(pictures, config.limit):
        choose: Callable[[View], Choice]
        if config.gt is not None:
            choose = partial(_ground_truth, box=_true_box(config, index, rows, file), label=label)
        elif config.cell is not None:
            choose = partial(_cell, cell=config.cell, label=label)
        else:
            choose = partial(_detection, number=config.detection, label=label)
        tasks.append(CamTask(file, read, choose))
    return tasks


def _sources(source: list[str]) -> list[tuple[str, Read]]:
    """What ``predict`` calls a source, but for videos and cameras."""
    entries = list_source(source[0] if len(source) == 1 else source)
    for entry in entries:
        if entry.moves:
            raise InputError(f"source: expected images, got the video or camera {entry.path}; see iifdet predict")
    return [(item.path, item.read) for item in read_source(entries)]


def _of_index(index: DatasetIndex | None) -> list[tuple[str, Read]]:
    return [] if index is None else [(file, partial(read_image, file)) for file in index.files]


def _true_box(
    config: CamConfig, index: DatasetIndex | None, rows: dict[str, int], file: str
) -> tuple[NDArray[np.float32], int]:
    """(4,) box in original pixels, and its class."""
    assert config.gt is not None
    row = rows.get(os.path.realpath(file))
    if index is None:
        raise InputError(f"gt: expected the data that {file} belongs to, got none; give data=")
    if row is None:
        raise InputError(f"gt: expected {file} among the images of {config.data} {config.split}, it is not; give data=")
    where = index.boxes_of(row)
    if config.gt > where.stop - where.start:
        raise InputError(f"gt: expected 1…{where.stop - where.start}, the boxes of {file}, got {config.gt}")
    box = where.start + config.gt - 1
    return index.boxes[box], int(index.labels[box])


def _to_tensor(view: View, points: NDArray[Any]) -> list[float]:
    """x, y, x, y, … in original pixels to tensor pixels."""
    return [float(view.to_tensor(np.array([p]), 1 - i % 2)[0]) for i, p in enumerate(points)]


def _ground_truth(view: View, *, box: tuple[NDArray[np.float32], int], label: int | None) -> Choice:
    return Choice(box=torch.tensor(_to_tensor(view, box[0])), label=box[1] if label is None else label)


def _cell(view: View, *, cell: tuple[float, float], label: int | None) -> Choice:
    height, width = view.info.size
    if not (0 <= cell[0] < width and 0 <= cell[1] < height):
        raise InputError(f"cell: expected [x, y] inside {width}x{height} pixels, got {list(cell)} for {view.info.file}")
    x, y = _to_tensor(view, np.array(cell))
    return Choice(cell=(x, y), label=label)


def _detection(view: View, *, number: int, label: int | None) -> Choice:
    return Choice(detection=number, label=label)
