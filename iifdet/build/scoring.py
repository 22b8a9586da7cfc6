"""Keys to the scoring of what another program detected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from iifdet.build.data import build_index
from iifdet.config import ImportedKeys, SplitKeys, TalkKeys, ValConfig
from iifdet.datasets import DatasetIndex, DetectionDataset, EvalTransform, find_description, load_index
from iifdet.datasets.checking import lookup
from iifdet.datasets.description import JSON_FORMATS
from iifdet.datasets.images import existing
from iifdet.datasets.loader import collate
from iifdet.datasets.segments import pack_segments
from iifdet.datasets.select import merge_classes
from iifdet.errors import InputError
from iifdet.evaluation import DetectionEvaluator
from iifdet.evaluation.doubts import meet
from iifdet.evaluation.engine import to_labels
from iifdet.evaluation.imported import Imported, read_detections
from iifdet.evaluation.naming import Ids
from iifdet.pictures import MIN_SCORE, MOST_IMAGES
from iifdet.types import Batch, Detection

#: Keys that act where there is no model. Parts of the training images were not chosen by who predicted the split.
ABOUT_SCORING = (
    *ImportedKeys.model_fields,
    *(key for key in SplitKeys.model_fields if key not in ("holdout", "fraction", "imbalance")),
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
            raise InputError(f"{key}: does nothing to predictions=, which are scored as they are; drop one of both")


def refuse_imported_keys(keys: Mapping[str, Any]) -> None:
    """Refuse keys about a results file where there is none.

    Raises:
        InputError: one is given.
    """
    for key in ImportedKeys.model_fields:
        if keys.get(key) is not None:
            raise InputError(f"{key}: belongs to predictions=<file>, got it without; drop it")


@dataclass(frozen=True)
class Scoring:
    """A results file, ready to be scored.

    Attributes:
        index: of the split, by ``classes`` and ``single_cls``.
        found: the file's detections of these classes.
        evaluator: has taken them in.
    """

    index: DatasetIndex
    found: Imported
    evaluator: DetectionEvaluator


def build_scoring(config: ValConfig) -> Scoring:
    """The detections of ``predictions`` and the split that they are of.

    Raises:
        InputError: the file or the data cannot be read, or the file is not about this split.
    """
    index = build_index(config.model_copy(update={"single_cls": False}), config.split)
    whole, own = _whole_index(config, index)
    ids = Ids(whole.image_ids, whole.files, whole.sizes, whole.category_ids, whole.names, own)
    found = read_detections(str(config.predictions), ids, config.first_category, config.image_id)
    found = _undoubted(config, found, whole)
    found = found.of(np.isin(found.rows[:, 6], index.category_ids))  # the file may speak of all that the data have
    if config.single_cls:
        index = merge_classes(index)
        found.rows[:, 6] = index.category_ids[0]
    with_masks = found.masks is not None
    evaluator = DetectionEvaluator(index, engine=config.engine, masks=with_masks, fixed=config.fixed_ap)
    evaluator.take(found)
    return Scoring(index, found, evaluator)


def _whole_index(config: ValConfig, index: DatasetIndex) -> tuple[DatasetIndex, bool]:
    """The split with all classes that its annotations have, and whether their categories are the data's own."""
    description = find_description(config.data)
    own = description.format in JSON_FORMATS
    if config.classes is None and not (own and description.names is not None):
        return index, own
    described = replace(description, names=None) if own else description
    options = {key: getattr(config, key) for key in ("max_bad", "cache_index", "allow_outside")}
    return load_index(described, config.split, need_images=config.reads_images, **options), own


def _undoubted(config: ValConfig, found: Imported, whole: DatasetIndex) -> Imported:
    """The detections with notices about what is odd; refused where their classes are better read otherwise."""
    meeting = meet(found, whole)
    first = meeting.better_first()
    said = meeting.notices()
    if first is not None:
        text = (
            f"{config.predictions}: expected detections of the classes that they lie on: {meeting.agreeing} agree as "
            f"categories are read, {meeting.reading(first)} if class 0 is category {first}"
        )
        if config.first_category is None:
            raise InputError(f"{text}; give first_category=, which then holds whatever it is")
        said.append(text)
    return replace(found, notices=(*found.notices, *said))


def shown_detections(config: ValConfig, scoring: Scoring) -> tuple[Batch, list[Detection]] | None:
    """A batch of the split's first images and what was surely detected on them; None where no image file is there.

    Detections take the way of annotations into the tensor, masks too.
    """
    first = np.flatnonzero(existing(scoring.index.files))[:MOST_IMAGES]
    if not len(first):
        return None
    part = scoring.index.select(first)
    image = lookup(part.image_ids, scoring.found.rows[:, 0].astype(np.int64))
    wanted = np.flatnonzero((image >= 0) & (scoring.found.rows[:, 5] >= MIN_SCORE))
    by_image = wanted[np.argsort(image[wanted], kind="stable")]
    sure = scoring.found.of(by_image)
    drawn = _as_annotations(part, sure, image[by_image])
    scores = torch.from_numpy(sure.rows[:, 5]).split(np.diff(drawn.offsets).tolist())
    pairs = zip(_batch(config, drawn).targets, scores, strict=True)
    return _batch(config, part), [cast(Detection, {**target, "scores": score}) for target, score in pairs]


def _batch(config: ValConfig, index: DatasetIndex) -> Batch:
    transform = EvalTransform(config.imgsz, config.resize)
    dataset = DetectionDataset(index, transform, masks=index.segments is not None)
    return collate([dataset[n] for n in range(len(dataset))])


def _as_annotations(index: DatasetIndex, found: Imported, image: NDArray[np.int64]) -> DatasetIndex:
    """An index with detections in place of boxes, sorted by image."""
    boxes = found.rows[:, 1:5].copy()
    boxes[:, 2:] += boxes[:, :2]
    number = len(boxes)
    return replace(
        index,
        box_image=image,
        boxes=boxes.astype(np.float32),
        labels=to_labels(found.rows[:, 6], index.category_ids),
        crowd=np.zeros(number, np.bool_),
        areas=boxes[:, 2:].prod(axis=1).astype(np.float32),
        ann_ids=np.arange(1, number + 1),
        segments=None if found.masks is None else pack_segments(found.masks)[0],
        federated=None,
    )
