"""What an evaluation found, of boxes and of masks: COCO's figures, numbers by class, what the pictures need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iifdet.errors import InputError, counted
from iifdet.evaluation import curves
from iifdet.evaluation.engine import STATS, Array, CocoDict, EngineOutput
from iifdet.evaluation.tail import GROUP_LIMITS, align_counts, group_ap, mean_ap, tail_classes, tail_k
from iifdet.longtail import ClassCounts

ORDERS = ("image", "instance")
NO_COUNTS = "no training counts: tail and group figures are null; give counts, or data= with a train split"


@dataclass(frozen=True, slots=True, eq=False)
class EvalResult:
    """One evaluation of C classes on one split. Fractions from 0 to 1; NaN where there was no ground truth.

    Attributes:
        names: the C class names, in label order.
        stats: COCO's twelve figures by name (AP, AP50, …, ARl). Under LVIS's protocol AR100 and the AR of sizes are
            those of its 300 detections an image.
        ap, ap50, ar: (C,) per class: AP at IoU .50:.95 and at .50, and recall at .50:.95.
        gt_images, gt_instances: (C,) images with the class and boxes of it in the evaluated split, crowds excluded.
        precision, scores: (T, R, C, A, M) as in EngineOutput but in label order; -1 without ground truth.
        recall: (T, C, A, M), likewise.
        num_images: images of the split, those without boxes included.
        iou_type: ``bbox`` or ``segm``.
        data_digest: what the split's index says, hashed; runs with different digests cannot be compared.
        groups: labels by the data set's own frequency groups (LVIS), None where it has none.
        masks: the same evaluation by the overlap of masks, None where only boxes were scored.
        notices: what a reader should know before trusting the figures.
    """

    names: list[str]
    stats: dict[str, float]
    ap: Array
    ap50: Array
    ar: Array
    gt_images: NDArray[np.int64]
    gt_instances: NDArray[np.int64]
    precision: Array
    recall: Array
    scores: Array
    num_images: int
    iou_type: str = "bbox"
    data_digest: str | None = None
    groups: dict[str, list[int]] | None = None
    masks: EvalResult | None = None
    notices: tuple[str, ...] = ()

    @classmethod
    def from_engine(
        cls,
        output: EngineOutput,
        gt: CocoDict,
        names: Sequence[str],
        category_ids: Array,
        iou_type: str = "bbox",
        data_digest: str | None = None,
        groups: dict[str, list[int]] | None = None,
    ) -> EvalResult:
        """Bring an engine's arrays into label order and count the ground truth behind them.

        Args:
            output: of :func:`iifdet.evaluation.engine.evaluate`.
            gt: what was evaluated against.
            names: the C class names.
            category_ids: (C,) the category of each label.

        Raises:
            InputError: the categories are not those of the output, or not as many as the names.
        """
        if len(names) != len(category_ids) or not np.array_equal(np.sort(category_ids), output.category_ids):
            raise InputError(
                f"category_ids: expected the evaluation's {len(output.category_ids)} categories, one for each name, "
                f"got {len(category_ids)} and {counted(len(names), 'name')}"
            )
        k = np.searchsorted(output.category_ids, category_ids)  # label -> place on the K axis
        precision, recall, scores = output.precision[:, :, k], output.recall[:, k], output.scores[:, :, k]
        truth = curves.truth_rows(gt)
        truth = truth[truth[:, 5] == 0]
        pairs = np.unique(truth[:, [0, 6]], axis=0)  # (image, category)
        return cls(
            names=list(names),
            stats={name: _nan_if_missing(float(value)) for name, value in zip(STATS, output.stats, strict=True)},
            ap=_class_means(precision[:, :, :, 0, -1]),
            ap50=_class_means(precision[:1, :, :, 0, -1]),
            ar=_class_means(recall[:, None, :, 0, -1]),
            gt_images=_count(pairs[:, 1], category_ids),
            gt_instances=_count(truth[:, 6], category_ids),
            precision=precision,
            recall=recall,
            scores=scores,
            num_images=len(gt["images"]),
            iou_type=iou_type,
            data_digest=data_digest,
            groups=groups,
        )

    @property
    def skipped(self) -> list[str]:
        """Names of the classes without ground truth in the split; they have no AP."""
        return [name for name, count in zip(self.names, self.gt_instances, strict=True) if count == 0]

    def pr_curves(self, iou: float = 0.5) -> curves.Curves:
        """Precision-recall curves at one of COCO's IoU thresholds (.50, .55, … .95)."""
        t = round((iou - 0.5) / 0.05)
        if not (0 <= t < len(self.precision) and math.isclose(0.5 + 0.05 * t, iou)):
            raise ValueError(f"iou: expected one of .50, .55, … .95, got {iou}")
        return curves.precision_recall(self.precision[t, :, :, 0, -1], self.scores[t, :, :, 0, -1])

    def per_class(self, counts: ClassCounts | None = None, weights: Tensor | None = None) -> list[dict[str, Any]]:
        """One row a class, in label order; None where a value is unknown. These are the rows of per_class.csv.

        ``best_F1`` is the largest F1 at IoU .50 on COCO's 101 recall levels, up to .01 below that over all thresholds,
        and ``best_score`` the score threshold that gives it.
        With masks, ``mask_AP``, ``mask_AP50`` and ``mask_AR`` stand beside the figures of the boxes.

        Args:
            counts: class counts of the *training* set.
            weights: (C,) the weights that the adjustment gives the classes, in label order.
        """
        classes = len(self.names)
        blank, best = [None] * classes, self.pr_curves(0.5)
        counts = align_counts(counts, self.names) if counts else None
        columns = {
            "class": range(classes),
            "name": self.names,
            "train_images": counts.images.tolist() if counts else blank,
            "train_instances": counts.instances.tolist() if counts else blank,
            "weight": blank if weights is None else [float(w) for w in weights],
            "val_instances": self.gt_instances.tolist(),
            "AP": _nones(self.ap),
            "AP50": _nones(self.ap50),
            "AR": _nones(self.ar),
            "best_F1": _nones(best.best_f1),
            "best_score": _nones(best.best_score),
        }
        if self.masks is not None:
            measured = {"AP": self.masks.ap, "AP50": self.masks.ap50, "AR": self.masks.ar}
            columns |= {f"mask_{name}": _nones(values) for name, values in measured.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def metrics(
        self,
        counts: ClassCounts | None = None,
        ks: Sequence[int] = (5, 10, 20),
        groups: Sequence[int] | None = None,
        weights: Tensor | None = None,
    ) -> dict[str, Any]:
        """Everything as plain values for metrics.json; NaN becomes None.

        COCO's twelve figures, tail-k and ``groups`` (APr, APc, APf) are those of the boxes; with masks, ``segm`` holds
        the same by the overlap of masks, under the same names.

        Args:
            counts: class counts of the *training* set; without them tail and group figures are None and ``notices``
                says so.
            ks: which tail-k, each by image and by instance counts.
            groups: upper bounds of the training images of rare and common classes, GROUP_LIMITS by default; the data
                set's own groups win.
            weights: (C,) for the per-class rows.
        """
        groups = GROUP_LIMITS if groups is None else groups
        return {
            **self._figures(counts, ks, groups),
            **({} if self.masks is None else {"segm": self.masks._figures(counts, ks, groups)}),
            "group_thresholds": list(groups) if self.groups is None else None,
            "tail_classes": {f"tail{k}": self._tail_names(counts, k) for k in ks} if counts else None,
            "skipped": self.skipped,
            "per_class": self.per_class(counts, weights),
            "images": self.num_images,
            "iou_type": self.iou_type,
            "data_digest": self.data_digest,
            "notices": [*self.notices, *([] if counts else [NO_COUNTS])],
        }

    def _figures(self, counts: ClassCounts | None, ks: Sequence[int], groups: Sequence[int]) -> dict[str, Any]:
        """What is measured of boxes and of masks alike."""
        tails = {f"tail{k}": {by: _none(tail_k(self, counts, k, by)) if counts else None for by in ORDERS} for k in ks}
        by_group = {name: _none(value) for name, value in self._group_ap(counts, groups).items()}
        return {**{name: _none(value) for name, value in self.stats.items()}, **tails, "groups": by_group}

    def _group_ap(self, counts: ClassCounts | None, thresholds: Sequence[int]) -> dict[str, float]:
        if self.groups is not None:
            return {name: mean_ap(self.ap[labels]) for name, labels in self.groups.items()}
        missing = dict.fromkeys(("rare", "common", "frequent"), math.nan)
        return group_ap(self, counts, thresholds) if counts else missing

    def _tail_names(self, counts: ClassCounts, k: int) -> dict[str, dict[str, list[str]]]:
        """Which classes tail-k is made of, and which it passed over for want of ground truth."""
        picks = {by: tail_classes(self, counts, k, by) for by in ORDERS}
        return {
            by: {"classes": [self.names[c] for c in chosen], "skipped": [self.names[c] for c in skipped]}
            for by, (chosen, skipped) in picks.items()
        }


def _class_means(values: Array) -> Array:
    """(T, R, C) -> (C,) means; an absent class is -1 throughout and becomes NaN."""
    return np.where((values > -1).all(axis=(0, 1)), values.mean(axis=(0, 1)), np.nan)


def _count(categories: Array, category_ids: Array) -> NDArray[np.int64]:
    values, counts = np.unique(categories, return_counts=True)
    found = dict(zip(values.astype(np.int64).tolist(), counts.tolist(), strict=True))
    return np.array([found.get(int(category), 0) for category in category_ids], dtype=np.int64)


def _nan_if_missing(value: float) -> float:
    return math.nan if value == -1 else value


def _none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _nones(values: Array) -> list[float | None]:
    return [_none(value) for value in values.tolist()]
