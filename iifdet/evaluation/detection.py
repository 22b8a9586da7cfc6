"""From detections, batch by batch, to an EvalResult: boxes, and masks beside them where a model gives some."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.boxes import has_area
from iifdet.errors import InputError
from iifdet.evaluation import curves
from iifdet.evaluation.coverage import count_unread, find_gap, unread_notices
from iifdet.evaluation.engine import Array, CocoDict, Results, check_choice, evaluate
from iifdet.evaluation.fixed import BestOfClasses, Unlimited
from iifdet.evaluation.imported import Imported
from iifdet.evaluation.masks import RLE, encode_masks, mask_truth, with_rectangles
from iifdet.evaluation.matching import judged_rows, match_records
from iifdet.evaluation.result import EvalResult
from iifdet.types import Batch, Detection, ImageInfo

log = logging.getLogger("iifdet")

#: From here on, neighbouring whole numbers are one as floating-point numbers.
MOST_ID = 1 << 53
#: Detections of an image that are kept at most.
KEPT = 300
#: Figures of the masks that stand beside those of the boxes in results.csv and on the terminal.
MASK_SUMMARY = ("AP", "AP50")


class TruthIndex(Protocol):
    """What the evaluator needs of a DatasetIndex; for masks also its ``segments``, for LVIS ``federated``."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def image_ids(self) -> Any: ...
    @property
    def category_ids(self) -> Any: ...
    def to_coco(self) -> CocoDict: ...
    def digest(self) -> str: ...


@dataclass
class Part:
    """The detections of one batch.

    Attributes:
        seen: ids of its images.
        rows: (n, 7) of each image, see :meth:`DetectionEvaluator.rows`.
        rles: one a row, where masks are scored.
        best: what Fixed AP looks at; it may hold that of earlier batches too.
        unread: how many images are grey ones in place of files that cannot be read.
    """

    seen: list[int] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)
    rles: list[RLE] = field(default_factory=list)
    best: BestOfClasses | None = None
    unread: int = 0


class DetectionEvaluator:
    """Collects detections batch by batch and scores them once all images have been seen.

    Args:
        index: a DatasetIndex of the split (names, image_ids, category_ids, to_coco()).
        engine: ``hotcoco`` or ``pycocotools``; the numbers are the same.
        max_per_image: how many detections of an image are kept, by score. COCO's AP looks at 100 a class.
        masks: score the masks of the detections too. They are kept as run lengths of the original images. A box whose
            annotation has no mask stands as its rectangle, as in training; where no annotation has one, boxes alone
            are scored. A log line and ``notices`` say so.
        mask_threshold: probability above which a pixel belongs to a mask.
        fixed: also keep what Fixed AP looks at, beyond ``max_per_image``; see :meth:`unlimited`.

    A federated index (LVIS) is scored by LVIS's protocol, with the groups of its ``frequency`` field where it has one.

    What it holds are plain values, a row of numbers and a run-length mask a detection, batch by batch in ``parts``:
    those of a split that other processes have seen are joined by joining the lists.

    Evaluators of other tasks offer the same ``update``, ``parts``, ``compute``, ``fitness``, ``summary`` and ``reset``.
    """

    def __init__(
        self,
        index: TruthIndex,
        engine: str = "hotcoco",
        max_per_image: int = KEPT,
        *,
        masks: bool = False,
        mask_threshold: float = 0.5,
        fixed: bool = False,
    ) -> None:
        self.index = index
        self.engine = engine
        self._federated = getattr(index, "federated", None)
        self.protocol = "coco" if self._federated is None else "lvis"
        check_choice(engine, self.protocol)
        self.max_per_image = max_per_image
        self.masks, self.notices = mask_truth(index) if masks else (False, ())
        self.mask_threshold = mask_threshold
        self.fixed = fixed
        self.category_ids = np.asarray(index.category_ids, dtype=np.int64)  # (C,)
        self._known = np.asarray(index.image_ids, dtype=np.int64)
        if len(self._known) and np.abs(self._known).max() >= MOST_ID:
            raise InputError(
                f"image ids: expected numbers below 2**53, got {np.abs(self._known).max()}; COCO's tools keep them as "
                "floating-point numbers, so give the images smaller ones"
            )
        for notice in self.notices:
            log.warning("%s", notice)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self.parts: list[Part] = []
        self._best = BestOfClasses()

    def update(self, detections: list[Detection], batch: Batch) -> None:
        """Add one batch: boxes and masks go back to the pixels of the original images.

        Args:
            detections: one Detection an image, boxes and masks in pixels of the image tensor. Boxes of which nothing
                lies in the image, but in the padding around it, are left out.
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
        part = Part(unread=count_unread(batch.infos))
        for info, box, label, score, found in zip(batch.infos, boxes, labels, scores, detections, strict=True):
            box = info.to_original(box)
            order = score.argsort(descending=True, stable=True)
            order = order[has_area(box)[order] | ~box[order].isfinite().all(dim=1)]  # the rest lay in the padding
            order = order if self.fixed else order[: self.max_per_image]
            rows = self._to_rows(info, box, label, score, order)
            rles = self._to_rles(info, found, order) if self.masks else None
            part.seen.append(info.image_id)
            part.rows.append(rows[: self.max_per_image])
            part.rles += rles[: self.max_per_image] if rles else []
            if self.fixed:
                self._best.add(rows, rles)
        self.parts.append(part)
        if self.fixed:  # one collection a process, in its first part, since parts are what is sent and joined
            self.parts[0].best = self._best

    def take(self, found: Imported) -> None:
        """Take all detections of the split at once, as another program wrote them down; none of them is left out."""
        for notice in found.notices:
            log.warning("%s", notice)
        self.notices = (*self.notices, *found.notices)
        rles = found.masks if self.masks else None
        part = Part(seen=self._known.tolist(), rows=[found.rows], rles=rles or [])
        if self.fixed:
            self._best.add(found.rows, rles)
            part.best = self._best
        self.parts.append(part)

    def _to_rows(self, info: ImageInfo, boxes: Tensor, labels: Tensor, scores: Tensor, order: Tensor) -> Array:
        image_id = info.image_id
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise ValueError(f"image {image_id}: expected finite boxes and scores, got NaN; the model has diverged")
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(self.category_ids)):
            raise ValueError(
                f"image {image_id}: expected labels 0…{len(self.category_ids) - 1}, "
                f"got {int(labels.min())}…{int(labels.max())}; the model has other classes than the data"
            )
        rows = np.empty((len(order), 7))
        rows[:, 0] = image_id
        rows[:, 1:5] = boxes[order].numpy()  # float64 from here on: width and height lose nothing
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 5] = scores[order].numpy()
        rows[:, 6] = self.category_ids[labels[order].numpy()]
        return rows

    def _to_rles(self, info: ImageInfo, found: Detection, order: Tensor) -> list[RLE]:
        masks = found.get("masks")
        if masks is None or masks.ndim != 3 or len(masks) != len(found["scores"]):
            got = "none" if masks is None else f"a tensor of shape {tuple(masks.shape)}"
            raise ValueError(
                f"image {info.image_id}: expected masks ({len(found['scores'])}, H, W) beside the boxes, got {got}"
            )
        return encode_masks(masks.detach(), info, self.mask_threshold, order.tolist())

    def compute(self, partial: bool = False) -> EvalResult:
        """Score what was collected.

        Args:
            partial: score only the images seen so far, instead of insisting on the whole split.

        Raises:
            ValueError: an image came twice, is not of this split, or (unless partial) is missing.
        """
        self._check_images(partial)
        with collector_at_rest():
            return self._compute()

    def _compute(self) -> EvalResult:
        gt = self.ground_truth()
        whole = len(gt["images"]) == len(self._known)
        digest = self.index.digest() if whole else None  # a subset is other data
        unread = unread_notices(sum(part.unread for part in self.parts), len(gt["images"]))
        result = replace(self._score(gt, self.rows(), "bbox", digest), notices=(*self.notices, *unread))
        if not self.masks:
            return result
        return replace(result, masks=self._score(with_rectangles(gt), self.predictions(), "segm", digest))

    def _score(self, gt: CocoDict, results: Results, iou_type: str, digest: str | None) -> EvalResult:
        output = evaluate(gt, results, engine=self.engine, iou_type=iou_type, protocol=self.protocol)
        groups = None if self._federated is None else self._federated.groups()
        return EvalResult.from_engine(output, gt, self.index.names, self.category_ids, iou_type, digest, groups)

    @staticmethod
    def fitness(result: EvalResult) -> float:
        """The one number that picks the best checkpoint: AP of the boxes; 0 where it is undefined."""
        return 0.0 if math.isnan(result.stats["AP"]) else result.stats["AP"]

    @staticmethod
    def summary(metrics: dict[str, Any]) -> dict[str, float | None]:
        """The figures of :meth:`EvalResult.metrics` that fit on a line: for results.csv and the terminal."""
        masks = {f"mask_{name}": metrics["segm"][name] for name in MASK_SUMMARY} if "segm" in metrics else {}
        tails = {
            name: value["image"]
            for name, value in metrics.items()
            if name.startswith("tail") and isinstance(value, dict) and "image" in value
        }
        return {name: metrics[name] for name in ("AP", "AP50", "AP75")} | masks | tails | metrics["groups"]

    def rows(self) -> Array:
        """Return all detections as (n, 7) ``[image_id, x, y, w, h, score, category_id]``, original pixels."""
        return np.concatenate([np.zeros((0, 7)), *(rows for part in self.parts for rows in part.rows)])

    def unlimited(self) -> Unlimited | None:
        """What Fixed AP looks at, the best of each class; None where it was not asked for."""
        if not self.fixed:
            return None
        best = BestOfClasses()
        for found in (part.best.best() for part in self.parts if part.best is not None):
            best.add(found.rows, found.masks)
        return best.best()

    def predictions(self) -> list[dict[str, Any]]:
        """Return all detections as COCO result dicts, for predictions.json; with masks, each has a ``segmentation``."""
        found = [
            {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
            for image, *box, score, category in self.rows().tolist()
        ]
        if not self.masks:
            return found
        rles = [rle for part in self.parts for rle in part.rles]
        return [{**d, "segmentation": rle} for d, rle in zip(found, rles, strict=True)]

    def ground_truth(self) -> CocoDict:
        """Return the COCO ground truth of the images seen so far."""
        gt = self.index.to_coco()
        seen = set(self._seen())
        if seen.issuperset(image["id"] for image in gt["images"]):
            return gt
        return {
            **gt,
            "images": [image for image in gt["images"] if image["id"] in seen],
            "annotations": [a for a in gt["annotations"] if a["image_id"] in seen],
        }

    def confusion_matrix(self, score: float = 0.25, iou: float = 0.5) -> NDArray[np.int64]:
        """(C+1, C+1) counts at an operating point; see :func:`iifdet.evaluation.curves.confusion_matrix`.

        Of a federated data set (LVIS), detections of classes that nobody looked for in their image are left out, and
        those of classes that were not marked exhaustively are no false alarms.
        """
        gt, rows = self.ground_truth(), self.rows()
        judged, unsure = judged_rows(gt, rows, self.category_ids, self.protocol)
        truth = curves.truth_rows(gt)
        return curves.confusion_matrix(truth, rows[judged], self.category_ids, score, iou, unsure[judged])

    def reliability(self, bins: int = 10, iou: float = 0.5, labels: list[int] | None = None) -> curves.Reliability:
        """Confidence against precision; see :func:`iifdet.evaluation.curves.reliability`."""
        records = match_records(self.ground_truth(), self.rows(), self.category_ids, protocol=self.protocol)
        return curves.reliability(records.matches(iou), bins, labels)

    def _seen(self) -> list[int]:
        return [image for part in self.parts for image in part.seen]

    def _check_images(self, partial: bool) -> None:
        gap = find_gap(np.array(self._seen(), dtype=np.int64), self._known, partial)
        if gap is not None:
            problem, ids = gap
            advice = "; feed them, or score a subset with compute(partial=True)" if problem == "are missing" else ""
            raise ValueError(
                f"evaluation: expected each of {len(self._known)} images once, but {len(ids)} {problem}: "
                f"{_some(ids)}{advice}"
            )


@contextlib.contextmanager
def collector_at_rest() -> Iterator[None]:
    """A block without Python's search for cycles: a ground truth of a million dicts, in which there is none, would be
    gone through again and again while it is made."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _some(ids: Array, limit: int = 10) -> str:
    return ", ".join(map(str, ids[:limit].tolist())) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
