"""Which pictures a run leaves behind, by task: values of the run in, calls to plots out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iifdet import class_pictures, plots
from iifdet.detectors import Detector
from iifdet.evaluation.curves import UNSURE
from iifdet.longtail import AdjustedModel, ClassCounts
from iifdet.types import Batch, Detection, Target

log = logging.getLogger("iifdet")

#: Images in a batch picture, the score above which a detection is drawn and counted as found, and the overlap for that.
MOST_IMAGES, MIN_SCORE, MIN_IOU = 16, 0.25, 0.5
#: Smaller images are shown enlarged, so that the names on the boxes do not cover them.
MIN_SIDE = 320


def draw_batch(
    batch: Batch, names: Sequence[str], path: Path, detections: Sequence[Detection | Target] | None = None
) -> None:
    """Write one picture of a batch with its targets, or with ``detections`` above MIN_SCORE; masks where there are."""
    drawn = []
    for image, found in list(zip(batch.images, detections or batch.targets, strict=False))[:MOST_IMAGES]:
        canvas = plots.as_picture(image)
        zoom = max(1, MIN_SIDE // max(canvas.shape[:2]))
        canvas = plots.enlarged(canvas, zoom)
        scores: Any = found.get("scores")
        keep: Any = slice(None) if scores is None else scores >= MIN_SCORE
        shown = None if scores is None else scores[keep].cpu().numpy()
        boxes, labels = found["boxes"][keep].cpu().numpy() * zoom, found["labels"][keep].cpu().numpy()
        masks = None if "masks" not in found else [plots.enlarged(m, zoom) for m in found["masks"][keep].cpu().numpy()]
        canvas = plots.draw_boxes(canvas, boxes, labels, names, shown, masks)
        nothing = shown is not None and not len(shown)
        drawn.append(plots.write_note(canvas, f"nothing above {MIN_SCORE}") if nothing else canvas)
    plots.mosaic_grid(drawn, path)


def keep_drawn(detections: Sequence[Detection], model: Detector) -> list[Detection]:
    """What :func:`draw_batch` needs of a batch's detections: the sure ones of the first images, masks as 0 and 1.

    The probability masks of a batch are gigabytes, which must not stay until the picture is drawn.
    """
    kept = []
    for found in detections[:MOST_IMAGES]:
        sure = found["scores"] >= MIN_SCORE
        few = Detection(boxes=found["boxes"][sure], labels=found["labels"][sure], scores=found["scores"][sure])
        if "masks" in found:
            few["masks"] = (found["masks"][sure] > model.options.mask_threshold).byte().cpu()
        kept.append(few)
    return kept


class FirstBatch:
    """Of all batches of a split the first one, to draw."""

    def __init__(self, model: Detector) -> None:
        self.model = model
        self.kept: tuple[Batch, list[Detection]] | None = None

    def add(self, batch: Batch, detections: Sequence[Detection]) -> None:
        """Look at a batch and its detections."""
        if self.kept is None:
            self.kept = (batch, keep_drawn(detections, self.model))

    def shown(self) -> tuple[Batch, list[Detection]] | None:
        """The batch, and what :func:`draw_batch` needs of its detections; None where there was none."""
        return self.kept


def draw_result(folder: Path, result: Any, evaluator: Any, counts: ClassCounts | None, metrics: dict[str, Any]) -> None:
    """pr_curve.png, confusion_matrix.png, reliability.png and, with training counts, tail.png."""
    from iifdet.evaluation import frequency_groups

    curves = result.pr_curves(0.5)
    plots.plot_pr_curve(curves.recall, curves.precision.T, result.names, result.ap50, folder / "pr_curve.png")
    if result.masks is not None:
        curves, ap50 = result.masks.pr_curves(0.5), result.masks.ap50
        plots.plot_pr_curve(curves.recall, curves.precision.T, result.names, ap50, folder / "mask_pr_curve.png")
    order = None if counts is None else plots.by_frequency(counts).tolist()
    matrix, point = evaluator.confusion_matrix(MIN_SCORE, MIN_IOU), f"score above {MIN_SCORE}, IoU from {MIN_IOU}"
    plots.plot_confusion(matrix, result.names, folder / "confusion_matrix.png", order, point=point)
    r = evaluator.reliability()
    plots.plot_reliability(r.confidence, r.precision, r.count, r.ece, folder / "reliability.png", UNSURE)
    if counts is not None:
        tails = {name: metrics[name]["image"] for name in ("tail5", "tail10", "tail20")}
        groups = result.groups or frequency_groups(counts, metrics["group_thresholds"])  # LVIS brings its own
        plots.plot_tail(result.ap, counts, result.names, tails, folder / "tail.png", groups)


def draw_model(folder: Path, model: AdjustedModel) -> None:
    """weight_norms.png, where training counts rank the classes; graphs show no rows, cosines need no norms."""
    norms = model.row_norms()
    if model.counts is not None and norms is not None:
        name = str(model.spec.get("name", type(model).__name__))
        plots.plot_weight_norms({name: norms}, model.counts, folder / "weight_norms.png")


@dataclass(frozen=True)
class TaskPictures:
    """What a task draws: a batch, an evaluation result, the model; ``choose`` picks the batch out of a split."""

    batch: Callable[..., None]
    result: Callable[..., None]
    choose: Callable[..., Any]
    model: Callable[..., None]


PICTURES = {
    "detect": TaskPictures(draw_batch, draw_result, FirstBatch, draw_model),
    "classify": TaskPictures(
        class_pictures.draw_batch, class_pictures.draw_result, class_pictures.ClassesInTurn, draw_model
    ),
}


def quietly(draw: Any, *args: Any) -> None:
    """A picture that fails must not cost a run; it is logged instead."""
    try:
        draw(*args)
    except Exception:
        log.exception("a picture could not be drawn; the run goes on")
