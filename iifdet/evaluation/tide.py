"""What AP50 loses to which kind of error (TIDE, Bolya et al. 2020), and to false positives as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from iifdet.evaluation.engine import PROTOCOLS, Array, CocoDict, Results, prepare_results, prepare_truth, unique_ids
from iifdet.evaluation.matching import excused_rows

#: Of the six kinds each wrong detection or missed box has one: wrong class, wrong place, both, found twice, background,
#: missed. The last two mend all false positives and all false negatives.
ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")


@dataclass(frozen=True, slots=True)
class TideErrors:
    """AP50 gained if one kind of error were mended, and how often it occurs.

    Attributes:
        delta: kind -> fraction of AP50 gained. ``FP`` is the paper's own measure, ΔAP_FP: every detection that finds
            nothing taken away.
        counts: kind -> number of detections, for ``Miss`` of boxes; without FP and FN.
        ap50: AP50 as it is.
    """

    delta: dict[str, float]
    counts: dict[str, int]
    ap50: float


def tide_errors(gt: CocoDict, results: Results, iou_type: str = "bbox", protocol: str = "coco") -> TideErrors:
    """Sort the errors by kind: foreground from IoU .5 on, background below .1.

    The arguments are those of :func:`iifdet.evaluation.engine.evaluate`. In federated data (LVIS) only what its
    protocol looks at is judged. Crowds, and the detections that they excuse, are taken out beforehand: they are no
    partners of an error.

    Raises:
        InputError: as ``evaluate``.
    """
    import hotcoco

    images, categories = unique_ids(gt["images"], "image"), unique_ids(gt["categories"], "category")
    if protocol == "coco" and any(a.get("iscrowd") for a in gt["annotations"]):
        gt, results = _without_crowds(gt, results, categories, iou_type)
    truth = prepare_truth(gt, iou_type)
    found = prepare_results(results, images, categories, iou_type)
    coco, limits = hotcoco.COCO(truth), list(PROTOCOLS[protocol])
    if protocol == "lvis":
        run = hotcoco.COCOeval(coco, hotcoco.LVISResults(coco, found, max_dets=limits[0]), iou_type, lvis_style=True)
    else:
        run = hotcoco.COCOeval(coco, coco.load_res(found), iou_type)
    run.params.max_dets = limits
    run.evaluate()
    errors = run.tide_errors()
    counts = {kind: int(errors["counts"][kind]) for kind in ERRORS if kind in errors["counts"]}
    return TideErrors({k: float(errors["delta_ap"][k]) for k in ERRORS}, counts, float(errors["ap_base"]))


def _without_crowds(gt: CocoDict, results: Results, categories: Array, iou_type: str) -> tuple[CocoDict, Results]:
    kept = ~excused_rows(gt, results, categories, iou_type)
    chosen = [r for r, keep in zip(results, kept, strict=True) if keep] if isinstance(results, list) else results[kept]
    return {**gt, "annotations": [a for a in gt["annotations"] if not a.get("iscrowd")]}, chosen
