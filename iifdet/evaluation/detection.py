"""From detections to an EvalResult: COCO's figures, per-class numbers and what the pictures need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.evaluation import curves
from iifdet.evaluation.engine import STATS, Array, CocoDict, EngineOutput, check_choice, evaluate
from iifdet.evaluation.tail import align_counts, group_ap, mean_ap, tail_classes, tail_k
from iifdet.longtail import ClassCounts
from iifdet.types import Batch, Detection

ORDERS = ("image", "instance")
NO_COUNTS = "no training counts: tail and group figures are null; give counts, or data= with a train split"


class TruthIndex(Protocol):
    """What the evaluator needs of a DatasetIndex."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def image_ids(self) -> Any: ...
    @property
    def category_ids(self) -> Any: ...
    def to_coco(self) -> CocoDict: ...
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class EvalResult:
    """One evaluation of C classes on one split. Fractions from 0 to 1; NaN where there was no ground truth.

    Attributes:
        names: the C class names, in label order.
        stats: COCO's twelve figures by name (AP, AP50, …, ARl).
        ap, ap50, ar: (C,) per class: AP at IoU .50:.95 and at .50, and recall at .50:.95.
        gt_images, gt_instances: (C,) images with the class and boxes of it in the evaluated split, crowds excluded.
        precision, scores: (T, R, C, A, M) as in EngineOutput but in label order; -1 without ground truth.
        recall: (T, C, A, M), likewise.
        num_images: images of the split, those without boxes included.
        iou_type: ``bbox`` or ``segm``.
        data_digest: what the split's index says, hashed; runs with different digests cannot be compared.
        groups: labels by the data set's own frequency groups (LVIS), None where it has none.
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
        """Bring an engine's arrays into label order and count the ground truth behind them."""
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
        """Precision-recall and F1 curves at one of COCO's IoU thresholds (.50, .55, … .95)."""
        t = round((iou - 0.5) / 0.05)
        if not (0 <= t < len(self.precision) and math.isclose(0.5 + 0.05 * t, iou)):
            raise ValueError(f"iou: expected one of .50, .55, … .95, got {iou}")
        return curves.precision_recall(self.precision[t, :, :, 0, -1], self.scores[t, :, :, 0, -1])

    def per_class(self, counts: ClassCounts | None = None, weights: Tensor | None = None) -> list[dict[str, Any]]:
        """One row a class, in label order; None where a value is unknown. These are the rows of per_class.csv.

        Args:
            counts: class counts of the *training* set.
            weights: (C,) the weights that the adjustment gives the classes, in label order.
        """
        classes = len(self.names)
        blank = [None] * classes
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
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def metrics(
        self,
        counts: ClassCounts | None = None,
        ks: Sequence[int] = (5, 10, 20),
        groups: Sequence[int] = (10, 100),
        weights: Tensor | None = None,
    ) -> dict[str, Any]:
        """Everything as plain values for metrics.json; NaN becomes None.

        Args:
            counts: class counts of the *training* set; without them tail and group figures are None and ``notices``
                says so.
            ks: which tail-k, each by image and by instance counts.
            groups: upper bounds of the training images of rare and common classes; the data set's own groups win.
            weights: (C,) for the per-class rows.
        """
        numbers: dict[str, Any] = {name: _none(value) for name, value in self.stats.items()}
        numbers |= {
            f"tail{k}": {by: _none(tail_k(self, counts, k, by)) if counts else None for by in ORDERS} for k in ks
        }
        by_group = self._group_ap(counts, groups)
        return numbers | {
            "groups": {name: _none(value) for name, value in by_group.items()},
            "group_thresholds": list(groups),
            "tail_classes": {f"tail{k}": self._tail_names(counts, k) for k in ks} if counts else None,
            "skipped": self.skipped,
            "per_class": self.per_class(counts, weights),
            "images": self.num_images,
            "iou_type": self.iou_type,
            "data_digest": self.data_digest,
            "notices": [] if counts else [NO_COUNTS],
        }

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


class DetectionEvaluator:
    """Collects detections batch by batch and scores them once all images have been seen.

    Args:
        index: a DatasetIndex of the split (names, image_ids, category_ids, to_coco()).
        engine: ``hotcoco`` or ``pycocotools``; the numbers are the same.
        max_per_image: how many detections of an image are kept, by score. COCO's AP looks at 100 a class.

    A federated index (LVIS) is scored by LVIS's protocol, with the groups of its ``frequency`` field where it has one.

    Evaluators of other tasks offer the same ``update``, ``compute``, ``fitness``, ``summary`` and ``reset``.
    """

    def __init__(self, index: TruthIndex, engine: str = "hotcoco", max_per_image: int = 300) -> None:
        self.index = index
        self.engine = engine
        self._federated = getattr(index, "federated", None)
        self.protocol = "coco" if self._federated is None else "lvis"
        check_choice(engine, self.protocol)
        self.max_per_image = max_per_image
        self.category_ids = np.asarray(index.category_ids, dtype=np.int64)  # (C,)
        self._known = np.asarray(index.image_ids, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._seen: list[int] = []
        self._rows: list[Array] = []  # (n, 7) per batch

    def update(self, detections: list[Detection], batch: Batch) -> None:
        """Add one batch: boxes go back to the pixels of the original images.

        Args:
            detections: one Detection an image, boxes in pixels of the image tensor.
            batch: the batch they came from; its infos say where each image tensor came from.
        """
        if len(detections) != len(batch.infos):
            raise ValueError(f"update: expected {len(batch.infos)} detections, one an image, got {len(detections)}")
        if not detections:
            return
        # One copy from the device for the batch, not three for each image.
        sizes = [len(d["scores"]) for d in detections]
        boxes = torch.cat([d["boxes"].reshape(-1, 4) for d in detections]).detach().float().cpu().split(sizes)
        labels = torch.cat([d["labels"] for d in detections]).detach().cpu().split(sizes)
        scores = torch.cat([d["scores"] for d in detections]).detach().float().cpu().split(sizes)
        for info, box, label, score in zip(batch.infos, boxes, labels, scores, strict=True):
            self._seen.append(info.image_id)
            self._rows.append(self._to_rows(info.image_id, info.to_original(box), label, score))

    def _to_rows(self, image_id: int, boxes: Tensor, labels: Tensor, scores: Tensor) -> Array:
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise ValueError(f"image {image_id}: expected finite boxes and scores, got NaN; the model has diverged")
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(self.category_ids)):
            raise ValueError(
                f"image {image_id}: expected labels 0…{len(self.category_ids) - 1}, "
                f"got {int(labels.min())}…{int(labels.max())}; the model has other classes than the data"
            )
        best = scores.argsort(descending=True, stable=True)[: self.max_per_image]
        rows = np.empty((len(best), 7))
        rows[:, 0] = image_id
        rows[:, 1:5] = boxes[best].numpy()  # float64 from here on: width and height lose nothing
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 5] = scores[best].numpy()
        rows[:, 6] = self.category_ids[labels[best].numpy()]
        return rows

    def compute(self, partial: bool = False) -> EvalResult:
        """Score what was collected.

        Args:
            partial: score only the images seen so far, instead of insisting on the whole split.

        Raises:
            ValueError: an image came twice, is not of this split, or (unless partial) is missing.
        """
        self._check_images(partial)
        gt = self.ground_truth()
        output = evaluate(gt, self.rows(), engine=self.engine, protocol=self.protocol)
        whole = len(gt["images"]) == len(self._known)
        digest = self.index.digest() if whole else None  # a subset is other data
        groups = None if self._federated is None else self._federated.groups()
        return EvalResult.from_engine(
            output, gt, self.index.names, self.category_ids, data_digest=digest, groups=groups
        )

    @staticmethod
    def fitness(result: EvalResult) -> float:
        """The one number that picks the best checkpoint: AP; 0 where it is undefined."""
        return 0.0 if math.isnan(result.stats["AP"]) else result.stats["AP"]

    @staticmethod
    def summary(metrics: dict[str, Any]) -> dict[str, float | None]:
        """The figures of :meth:`EvalResult.metrics` that fit on a line: for results.csv and the terminal."""
        tails = {
            name: value["image"] for name, value in metrics.items() if name.startswith("tail") and "image" in value
        }
        return {name: metrics[name] for name in ("AP", "AP50", "AP75")} | tails | metrics["groups"]

    def rows(self) -> Array:
        """Return all detections as (n, 7) ``[image_id, x, y, w, h, score, category_id]``, original pixels."""
        return np.concatenate([np.zeros((0, 7)), *self._rows])

    def predictions(self) -> list[dict[str, Any]]:
        """Return all detections as COCO result dicts, for predictions.json."""
        return [
            {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
            for image, *box, score, category in self.rows().tolist()
        ]

    def ground_truth(self) -> CocoDict:
        """Return the COCO ground truth of the images seen so far."""
        gt = self.index.to_coco()
        seen = set(self._seen)
        if seen.issuperset(image["id"] for image in gt["images"]):
            return gt
        return {
            **gt,
            "images": [image for image in gt["images"] if image["id"] in seen],
            "annotations": [a for a in gt["annotations"] if a["image_id"] in seen],
        }

    def confusion_matrix(self, score: float = 0.25, iou: float = 0.5) -> NDArray[np.int64]:
        """(C+1, C+1) counts at an operating point; see :func:`iifdet.evaluation.curves.confusion_matrix`."""
        truth = curves.truth_rows(self.ground_truth())
        return curves.confusion_matrix(truth, self.rows(), self.category_ids, score, iou)

    def reliability(self, bins: int = 10, iou: float = 0.5, labels: list[int] | None = None) -> curves.Reliability:
        """Confidence against precision; see :func:`iifdet.evaluation.curves.reliability`."""
        truth = curves.truth_rows(self.ground_truth())
        return curves.reliability(curves.match_by_class(truth, self.rows(), self.category_ids, iou), bins, labels)

    def _check_images(self, partial: bool) -> None:
        seen, times = np.unique(np.array(self._seen, dtype=np.int64), return_counts=True)
        problems = {"came more than once": seen[times > 1], "are not of this split": np.setdiff1d(seen, self._known)}
        if not partial:
            problems["are missing"] = np.setdiff1d(self._known, seen)
        for problem, ids in problems.items():
            if len(ids):
                advice = "; feed them, or score a subset with compute(partial=True)" if problem == "are missing" else ""
                raise ValueError(
                    f"evaluation: expected each of {len(self._known)} images once, but {len(ids)} {problem}: "
                    f"{_some(ids)}{advice}"
                )


def _some(ids: Array, limit: int = 10) -> str:
    return ", ".join(map(str, ids[:limit].tolist())) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


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
