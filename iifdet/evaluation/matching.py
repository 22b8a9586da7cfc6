"""Which detection found which box: matched once, then counted as often as resampling needs.

Steps: 1) keep the detections that the protocol looks at 2) let hotcoco match those of images and classes that have
boxes; all others are false alarms and need no matching 3) lay out everything by class and descending score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.evaluation.curves import Matches
from iifdet.evaluation.engine import (
    PROTOCOLS,
    Array,
    CocoDict,
    Results,
    check_choice,
    prepare_results,
    prepare_truth,
    unique_ids,
)

#: Detections of a class that Fixed AP looks at.
FIXED = 10_000
#: COCO's IoU thresholds.
IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, slots=True, eq=False)
class MatchRecords:
    """The fate of n detections and m boxes in N images of C classes at the T = 10 thresholds of IOUS.

    Detections lie class by class, best score first, equal scores by image; what the protocol passes over is not there.

    Attributes:
        num_images, num_classes: N and C.
        image: (n,) row of the image, images in ascending order of their ids.
        score: (n,) float64.
        bounds: (C + 1,) where each class's detections start.
        correct: (T, n) bool, matched to a box that counts.
        ignored: (T, n) bool, neither right nor wrong: in a crowd, or where a data set does not label every instance.
        truth_image: (m,) image of each box that counts (no crowds), class by class.
        truth_bounds: (C + 1,) where each class's boxes start.
        truth_score: (T, m) score of the detection that found the box, -inf where none did.
    """

    num_images: int
    num_classes: int
    image: NDArray[np.int64]
    score: Array
    bounds: NDArray[np.int64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    truth_image: NDArray[np.int64]
    truth_bounds: NDArray[np.int64]
    truth_score: Array

    @property
    def label(self) -> NDArray[np.int64]:
        """(n,) class of each detection."""
        return np.repeat(np.arange(self.num_classes), np.diff(self.bounds))

    @property
    def truth_label(self) -> NDArray[np.int64]:
        """(m,) class of each box."""
        return np.repeat(np.arange(self.num_classes), np.diff(self.truth_bounds))

    def matches(self, iou: float = 0.5) -> Matches:
        """Scores, labels and correctness at one of IOUS, for :func:`iifdet.evaluation.curves.reliability`."""
        t = iou_row(iou)
        kept = ~self.ignored[t]
        return Matches(self.score[kept], self.label[kept], self.correct[t, kept])


def iou_row(iou: float) -> int:
    """Place of a threshold in IOUS."""
    t = int(np.abs(IOUS - iou).argmin())
    if abs(IOUS[t] - iou) > 1e-6:
        raise ValueError(f"iou: expected one of .50, .55, … .95, got {iou}")
    return t


def match_records(
    gt: CocoDict,
    results: Results,
    category_ids: Sequence[int] | Array,
    iou_type: str = "bbox",
    protocol: str = "coco",
    fixed: bool = False,
) -> MatchRecords:
    """Match detections as COCO or LVIS do; see :func:`iifdet.evaluation.engine.evaluate` for the arguments.

    Args:
        category_ids: (C,) the category of each label.
        fixed: what Fixed AP looks at (Dave et al. 2021): the best FIXED detections of each class over the whole split,
            however many lie in one image, in place of the protocol's limit on an image.

    Raises:
        InputError: as ``evaluate``.
    """
    check_choice("hotcoco", protocol)
    image_ids, labels = unique_ids(gt["images"], "image"), np.asarray(category_ids, np.int64)
    truth = prepare_truth(gt, iou_type)
    found = prepare_results(results, image_ids, np.sort(labels), iou_type)
    table = _Table.of(found, image_ids, labels)
    boxes = _Boxes.of(truth, image_ids, labels)
    chosen, passed = _choose(table, boxes, gt, image_ids, labels, protocol, fixed)
    correct, ignored = np.zeros((len(IOUS), len(chosen)), bool), np.repeat(passed[None], len(IOUS), axis=0)
    truth_score = np.full((len(IOUS), len(boxes.image)), -np.inf)
    matched = np.flatnonzero(np.isin(table.key[chosen], boxes.key))
    subset = [found[r] for r in chosen[matched]] if isinstance(found, list) else found[chosen[matched]]
    scores = table.score[chosen[matched]]
    for entry in _run(truth, subset, iou_type, protocol, fixed):
        rows = matched[np.asarray(entry["dtIds"], np.int64) - 1]
        unclear = np.asarray(entry["dtIgnore"], bool).reshape(len(IOUS), -1)
        correct[:, rows] = np.asarray(entry["dtMatched"], bool).reshape(len(IOUS), -1) & ~unclear
        ignored[:, rows] = unclear
        by = np.asarray(entry["gtMatches"], np.int64).reshape(len(IOUS), -1)  # (T, G), 0 for none
        hit = by > 0
        places = np.broadcast_to(np.asarray(entry["gtIds"], np.int64) - 1, by.shape)
        truth_score[np.nonzero(hit)[0], places[hit]] = scores[by[hit] - 1]
    order = np.lexsort((table.image[chosen], -table.score[chosen], table.label[chosen]))  # stable
    chosen, kept = chosen[order], np.flatnonzero(~boxes.crowd)
    kept = kept[np.argsort(boxes.label[kept], kind="stable")]
    return MatchRecords(
        len(image_ids),
        len(labels),
        table.image[chosen],
        table.score[chosen],
        np.searchsorted(table.label[chosen], np.arange(len(labels) + 1)),
        correct[:, order],
        ignored[:, order],
        boxes.image[kept],
        np.searchsorted(boxes.label[kept], np.arange(len(labels) + 1)),
        truth_score[:, kept],
    )


@dataclass(frozen=True)
class _Table:
    """Image row, label and score of each result, and the number of its (image, class) pair."""

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: Array
    key: NDArray[np.int64]

    @classmethod
    def of(cls, results: Results, image_ids: Array, category_ids: Array) -> _Table:
        if isinstance(results, list):
            columns = [(r["image_id"], r["score"], r["category_id"]) for r in results]
            image, score, category = np.array(columns, float).reshape(-1, 3).T
        else:
            image, score, category = results[:, 0], results[:, 5], results[:, 6]
        image, label = np.searchsorted(image_ids, image.astype(np.int64)), _to_labels(category, category_ids)
        return cls(image, label, np.asarray(score, float), image * len(category_ids) + label)


@dataclass(frozen=True)
class _Boxes:
    """Image row, label and crowd flag of each annotation, and the number of its (image, class) pair."""

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    key: NDArray[np.int64]

    @classmethod
    def of(cls, truth: CocoDict, image_ids: Array, category_ids: Array) -> _Boxes:
        columns = [(a["image_id"], a["category_id"], a["iscrowd"]) for a in truth["annotations"]]
        image, category, crowd = np.array(columns, np.int64).reshape(-1, 3).T
        image, label = np.searchsorted(image_ids, image), _to_labels(category, category_ids)
        return cls(image, label, crowd > 0, image * len(category_ids) + label)


def _to_labels(categories: Array, category_ids: Array) -> NDArray[np.int64]:
    order = np.argsort(category_ids)
    return order[np.searchsorted(category_ids, categories.astype(np.int64), sorter=order)]


def _choose(
    table: _Table, boxes: _Boxes, gt: CocoDict, image_ids: Array, category_ids: Array, protocol: str, fixed: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of the results that count, by image and descending score, and whether each is a mere maybe (LVIS)."""
    if fixed:
        chosen = _best_of_each(table.label, table.score, FIXED)
        chosen = chosen[np.lexsort((-table.score[chosen], table.key[chosen]))]
    else:
        chosen = _best_of_each(table.key if protocol == "coco" else table.image, table.score, PROTOCOLS[protocol][-1])
    if protocol == "coco":
        return chosen, np.zeros(len(chosen), bool)
    listed = {
        name: np.array(
            [(i["id"], c) for i in gt["images"] for c in i.get(name, ())] or np.zeros((0, 2)), np.int64
        ).reshape(-1, 2)
        for name in ("neg_category_ids", "not_exhaustive_category_ids")
    }
    negative, unsure = (
        np.searchsorted(image_ids, pairs[:, 0]) * len(category_ids) + _to_labels(pairs[:, 1], category_ids)
        for pairs in listed.values()
    )
    chosen = chosen[np.isin(table.key[chosen], np.concatenate([boxes.key, negative]))]
    return chosen, np.isin(table.key[chosen], unsure)


def _best_of_each(group: NDArray[np.int64], score: Array, limit: int) -> NDArray[np.int64]:
    """Rows by group and descending score, at most ``limit`` of each group; equal scores keep their order."""
    order = np.lexsort((-score, group))
    grouped = group[order]
    return order[np.arange(len(order)) - np.searchsorted(grouped, grouped) < limit]


def _run(truth: CocoDict, results: Results, iou_type: str, protocol: str, fixed: bool) -> list[dict[str, Any]]:
    """hotcoco's matches of each image and class that has boxes."""
    import hotcoco

    coco = hotcoco.COCO(truth)
    limit = max(len(results), 1) if fixed else PROTOCOLS[protocol][-1]
    if not len(results):
        return []
    found = coco.load_res(results)
    run = hotcoco.COCOeval(coco, found, iou_type, lvis_style=protocol == "lvis")
    run.params.max_dets = [limit]
    run.params.area_rng, run.params.area_rng_lbl = [[0.0, 1e10]], ["all"]
    run.evaluate()
    return [entry for entry in run.eval_imgs if entry is not None and entry["gtIds"]]
