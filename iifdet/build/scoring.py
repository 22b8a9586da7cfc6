"""Keys to the scoring of what another program detected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from iifdet.build.data import build_index
from iifdet.config import ImportedKeys, SplitKeys, TalkKeys, ValConfig
from iifdet.datasets import DatasetIndex, DetectionDataset, EvalTransform, find_description
from iifdet.datasets.description import JSON_FORMATS
from iifdet.datasets.images import existing
from iifdet.datasets.loader import collate
from iifdet.datasets.segments import pack_segments
from iifdet.datasets.select import class_numbers
from iifdet.errors import InputError
from iifdet.evaluation import DetectionEvaluator
from iifdet.evaluation.imported import Ids, Imported, read_detections
from iifdet.pictures import MIN_SCORE, MOST_IMAGES
from iifdet.types import Batch, Detection

#: Keys that act where there is no model.
ABOUT_SCORING = (
    *ImportedKeys.model_fields,
    *SplitKeys.model_fields,
    *TalkKeys.model_fields,
    *("split", "engine", "group_limits", "fixed_ap", "imgsz", "resize"),
)


def refuse_model_keys(keys: Mapping[str, Any]) -> None:
    """Refuse keys that would do nothing to detections that are there already.

    Raises:
        InputError: one is given.
    """
    for key in keys:
        if key not in ABOUT_SCORING:
            raise InputError(
                f"{key}: belongs to a model, got it beside predictions=, which are scored as they are; drop one of both"
            )


def build_scoring(config: ValConfig, index: DatasetIndex) -> tuple[DetectionEvaluator, Imported]:
    """The evaluator of a split that has taken in a file's detections, and these.

    Args:
        config: with ``predictions``.
        index: of the split, by ``classes`` and ``single_cls``.

    Raises:
        InputError: the file cannot be read, or is not about this split.
    """
    found = _imported(config, index)
    with_masks = found.masks is not None
    evaluator = DetectionEvaluator(index, engine=config.engine, masks=with_masks, fixed=config.fixed_ap)
    evaluator.take(found)
    return evaluator, found


def _imported(config: ValConfig, index: DatasetIndex) -> Imported:
    """Detections of the classes of the index; the file may speak of all that the data have."""
    selected = config.classes is not None or config.single_cls
    everything = config.model_copy(update={"classes": None, "single_cls": False})
    whole = build_index(everything, config.split) if selected else index
    own = find_description(config.data).format in JSON_FORMATS
    ids = Ids(whole.image_ids, whole.files, whole.sizes, whole.category_ids, own)
    found = read_detections(str(config.predictions), ids, config.first_category)
    if config.classes is not None:
        labels = class_numbers(config.classes, whole.names)
        found = found.of(np.isin(found.rows[:, 6], whole.category_ids[labels]))
    if config.single_cls:
        found.rows[:, 6] = index.category_ids[0]
    return found


def shown_detections(config: ValConfig, index: DatasetIndex, found: Imported) -> tuple[Batch, list[Detection]] | None:
    """A batch of the split's first images and what was surely detected on them; None where no image file is there.

    Detections take the way of annotations into the tensor, masks too.
    """
    first = np.flatnonzero(existing(index.files))[:MOST_IMAGES]
    if not len(first):
        return None
    part = index.select(first)
    sure = found.of(np.isin(found.rows[:, 0], part.image_ids) & (found.rows[:, 5] >= MIN_SCORE))
    image = _places(part.image_ids, sure.rows[:, 0])
    by_image = np.argsort(image, kind="stable")
    drawn = _as_annotations(part, sure.of(by_image), image[by_image])
    scores = torch.from_numpy(sure.rows[by_image, 5]).split(np.diff(drawn.offsets).tolist())
    pairs = zip(_batch(config, drawn).targets, scores, strict=True)
    return _batch(config, part), [cast(Detection, {**target, "scores": score}) for target, score in pairs]


def _batch(config: ValConfig, index: DatasetIndex) -> Batch:
    transform = EvalTransform(config.imgsz, config.resize)
    dataset = DetectionDataset(index, transform, masks=index.segments is not None)
    return collate([dataset[n] for n in range(len(dataset))])


def _places(ids: NDArray[np.int64], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """Where in ``ids`` each wanted one stands."""
    order = np.argsort(ids, kind="stable")
    return order[np.searchsorted(ids[order], wanted)]


def _as_annotations(index: DatasetIndex, found: Imported, image: NDArray[np.int64]) -> DatasetIndex:
    """An index with detections in place of boxes, sorted by image."""
    boxes = found.rows[:, 1:5].copy()
    boxes[:, 2:] += boxes[:, :2]
    number = len(boxes)
    return replace(
        index,
        box_image=image,
        boxes=boxes.astype(np.float32),
        labels=_places(index.category_ids, found.rows[:, 6]),
        crowd=np.zeros(number, np.bool_),
        areas=boxes[:, 2:].prod(axis=1).astype(np.float32),
        ann_ids=np.arange(1, number + 1),
        segments=None if found.masks is None else pack_segments(found.masks)[0],
        federated=None,
    )
