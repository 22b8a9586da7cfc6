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
    to_labels,
    unique_ids,
)
from iifdet.evaluation.fixed import FIXED

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

    @property
    def class_images(self) -> NDArray[np.int64]:
        """(C,) images with boxes of each class."""
        pairs = np.unique(np.stack([self.truth_label, self.truth_image]), axis=1)
        return np.bincount(pairs[0], minlength=self.num_classes)

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
) -> MatchRecords:
    """Match detections as COCO or LVIS do; see :func:`iifdet.evaluation.engine.evaluate` for the arguments.

    Args:
        category_ids: (C,) the category of each label.

    Raises:
        InputError: as ``evaluate``.
    """
    return match_both(gt, results, category_ids, iou_type, protocol)[0]


def judged_rows(
    gt: CocoDict, rows: Array, category_ids: Sequence[int] | Array, protocol: str = "coco"
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) whether each detection counts at all, and whether it may be right where it finds nothing (LVIS).

    Args:
        rows: (n, 7) ``[image_id, x, y, w, h, score, category_id]``.
    """
    image_ids, labels = unique_ids(gt["images"], "image"), np.asarray(category_ids, np.int64)
    table, boxes = _Table.of(rows, image_ids, labels), _Boxes.of(prepare_truth(gt, "bbox"), image_ids, labels)
    return _judged(table, boxes, gt, image_ids, labels, protocol)


def match_both(
    gt: CocoDict,
    results: Results,
    category_ids: Sequence[int] | Array,
    iou_type: str = "bbox",
    protocol: str = "coco",
) -> tuple[MatchRecords, MatchRecords]:
    """Records under the protocol's limit on an image, and those of Fixed AP, from one matching.

    Fixed AP (Dave et al. 2021) looks at the best FIXED detections of each class over the whole split, however many lie
    in one image. Better-scored detections choose first, so that what a limit leaves out changes nothing for the rest.
    """
    table, boxes, judged, fate = _match_all(gt, results, category_ids, iou_type, protocol)
    limit, group = PROTOCOLS[protocol][-1], table.key if protocol == "coco" else table.image
    usual = judged & _among_best(group, table.score, limit)
    fixed = judged & _among_best(table.label, np.where(judged, table.score, -np.inf), FIXED)
    shape = len(gt["images"]), len(category_ids)
    return _records(table, boxes, fate, usual, shape), _records(table, boxes, fate, fixed, shape)


def excused_rows(
    gt: CocoDict, results: Results, category_ids: Sequence[int] | Array, iou_type: str = "bbox", iou: float = 0.5
) -> NDArray[np.bool_]:
    """(n,) whether COCO takes each detection for neither right nor wrong: it found nothing and lies in a crowd."""
    return _match_all(gt, results, category_ids, iou_type, "coco")[3].ignored[iou_row(iou)]


def _match_all(
    gt: CocoDict, results: Results, category_ids: Sequence[int] | Array, iou_type: str, protocol: str
) -> tuple[_Table, _Boxes, NDArray[np.bool_], _Fate]:
    """Results and boxes as tables, (n,) whether each result counts at all, and what became of all."""
    check_choice("hotcoco", protocol)
    image_ids, labels = unique_ids(gt["images"], "image"), np.asarray(category_ids, np.int64)
    truth = prepare_truth(gt, iou_type)
    found = prepare_results(results, image_ids, np.sort(labels), iou_type)
    table, boxes = _Table.of(found, image_ids, labels), _Boxes.of(truth, image_ids, labels)
    judged, unsure = _judged(table, boxes, gt, image_ids, labels, protocol)
    fate = _match(table, boxes, found, truth, np.flatnonzero(judged), unsure, iou_type, protocol)
    return table, boxes, judged, fate


@dataclass(frozen=True)
class _Fate:
    """What became of all n results and m annotations: (T, n) correct and ignored, (T, m) row of the finder or -1."""

    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    finder: NDArray[np.int64]


def _match(
    table: _Table,
    boxes: _Boxes,
    found: Results,
    truth: CocoDict,
    judged: NDArray[np.int64],
    unsure: NDArray[np.bool_],
    iou_type: str,
    protocol: str,
) -> _Fate:
    fate = _Fate(
        np.zeros((len(IOUS), len(table.key)), bool),
        np.repeat(unsure[None], len(IOUS), axis=0),
        np.full((len(IOUS), len(boxes.key)), -1),
    )
    rows = judged[np.isin(table.key[judged], boxes.key)]
    subset = [found[r] for r in rows.tolist()] if isinstance(found, list) else found[rows]
    for entry in _run(truth, subset, iou_type, protocol):
        mine = rows[np.asarray(entry["dtIds"], np.int64) - 1]
        unclear = np.asarray(entry["dtIgnore"], bool).reshape(len(IOUS), -1)
        fate.correct[:, mine] = np.asarray(entry["dtMatched"], bool).reshape(len(IOUS), -1) & ~unclear
        fate.ignored[:, mine] = unclear
        by = np.asarray(entry["gtMatches"], np.int64).reshape(len(IOUS), -1)  # (T, G) ids from 1, 0 for none
        places = np.asarray(entry["gtIds"], np.int64) - 1
        fate.finder[:, places] = np.where(by > 0, rows[by - 1] if len(rows) else -1, -1)
    return fate


def _records(
    table: _Table, boxes: _Boxes, fate: _Fate, chosen: NDArray[np.bool_], shape: tuple[int, int]
) -> MatchRecords:
    """Records of the chosen results, class by class and best first."""
    images, classes = shape
    rows = np.flatnonzero(chosen)
    for values in (table.image, -table.score, table.label.astype(np.int16)):  # stable: the last one leads
        rows = rows[np.argsort(values[rows], kind="stable")]
    kept = np.flatnonzero(~boxes.crowd)
    kept = kept[np.argsort(boxes.label[kept], kind="stable")]
    finder = fate.finder[:, kept]
    found = (finder >= 0) & chosen[finder] if len(chosen) else finder >= 0
    return MatchRecords(
        images,
        classes,
        table.image[rows],
        table.score[rows],
        np.searchsorted(table.label[rows], np.arange(classes + 1)),
        fate.correct[:, rows],
        fate.ignored[:, rows],
        boxes.image[kept],
        np.searchsorted(boxes.label[kept], np.arange(classes + 1)),
        np.where(found, table.score[finder], -np.inf) if len(chosen) else np.full(finder.shape, -np.inf),
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
        image, label = np.searchsorted(image_ids, image.astype(np.int64)), to_labels(category, category_ids)
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
        image, label = np.searchsorted(image_ids, image), to_labels(category, category_ids)
        return cls(image, label, crowd > 0, image * len(category_ids) + label)


def _judged(
    table: _Table, boxes: _Boxes, gt: CocoDict, image_ids: Array, category_ids: Array, protocol: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) whether each result counts at all, and whether it is a mere maybe where it finds nothing (LVIS)."""
    if protocol == "coco":
        return np.ones(len(table.key), bool), np.zeros(len(table.key), bool)
    negative, unsure = (
        _keys([(i["id"], c) for i in gt["images"] for c in i.get(name, ())], image_ids, category_ids)
        for name in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    judged = np.isin(table.key, np.concatenate([boxes.key, negative]))
    return judged, np.isin(table.key, unsure)


def _keys(pairs: list[tuple[int, int]], image_ids: Array, category_ids: Array) -> NDArray[np.int64]:
    """Numbers of (image id, category id) pairs."""
    image, category = np.array(pairs, np.int64).reshape(-1, 2).T
    return np.searchsorted(image_ids, image) * len(category_ids) + to_labels(category, category_ids)


def _among_best(group: NDArray[np.int64], score: Array, limit: int) -> NDArray[np.bool_]:
    """(n,) whether fewer than ``limit`` of its group come before each; equal scores come in their order."""
    best = np.ones(len(group), bool)
    rows = np.flatnonzero(np.bincount(group)[group] > limit) if len(group) else np.zeros(0, np.int64)
    rows = rows[np.lexsort((-score[rows], group[rows]))]  # most groups are smaller and need no sorting
    ordered = group[rows]
    best[rows] = np.arange(len(rows)) - np.searchsorted(ordered, ordered) < limit
    return best


def _run(truth: CocoDict, results: Results, iou_type: str, protocol: str) -> list[dict[str, Any]]:
    """hotcoco's matches of each image and class that has boxes, without a limit on an image."""
    import hotcoco

    if not len(results):
        return []
    coco = hotcoco.COCO(truth)
    run = hotcoco.COCOeval(coco, coco.load_res(results), iou_type, lvis_style=protocol == "lvis")
    run.params.max_dets = [len(results)]
    run.params.area_rng, run.params.area_rng_lbl = [[0.0, 1e10]], ["all"]
    run.evaluate()
    return [entry for entry in run.eval_imgs if entry is not None and entry["gtIds"]]
