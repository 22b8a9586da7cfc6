"""COCO's evaluation protocol behind one function, with two engines that agree to the last bit.

``hotcoco`` is the default, ``pycocotools`` the reference; both are imported when first used. What they leave to the
caller is settled here, once for both: ids are checked, annotations get fresh ids, empty results are allowed, nothing
is printed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.errors import InputError, suggest

Array = NDArray[Any]
CocoDict = dict[str, Any]
#: (n, 7) rows ``[image_id, x, y, w, h, score, category_id]``, or COCO result dicts (needed for masks).
Results = Array | list[dict[str, Any]]

#: The twelve figures in COCO's order: average precision, then average recall.
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IOU_TYPES = ("bbox", "segm")
#: protocol -> limits on the detections of an image: COCO's are a class's, LVIS's one is all classes' together.
PROTOCOLS: dict[str, tuple[int, ...]] = {"coco": (1, 10, 100), "lvis": (300,)}


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What an engine measured. -1 means "no ground truth to measure against", as in COCO's own tools.

    Attributes:
        stats: (12,) the figures named in STATS.
        precision: (T, R, K, A, M) for 10 IoU thresholds, 101 recall levels, K categories, 4 area ranges (all, small,
            medium, large) and the 3 limits on detections an image, or LVIS's one.
        recall: (T, K, A, M).
        scores: (T, R, K, A, M), the score at which each precision is reached.
        category_ids: (K,) ascending: the order of the K axis.
        image_ids: (N,) ascending.
    """

    stats: Array
    precision: Array
    recall: Array
    scores: Array
    category_ids: Array
    image_ids: Array


def evaluate(
    gt: CocoDict,
    results: Results,
    *,
    engine: str = "hotcoco",
    iou_type: str = "bbox",
    max_dets: Sequence[int] | None = None,
    protocol: str = "coco",
) -> EngineOutput:
    """Score detections against a COCO or LVIS ground truth.

    1) check ids and choices  2) prepare copies  3) let the engine match and accumulate  4) summarise.

    Args:
        gt: ``images``, ``annotations`` and ``categories`` as in a COCO file; it is not modified. A missing ``iscrowd``
            counts as 0, a missing ``area`` as that of the box.
        results: (n, 7) array, or a list of COCO result dicts; not modified. May be empty.
        engine: a name in ENGINES.
        iou_type: ``bbox`` or ``segm``. Masks need result dicts; there a ``bbox`` beside the mask is ignored, because
            both engines would take the detection's area from it and sort small from large by the wrong area.
        max_dets: limits on the detections of an image, by default those of PROTOCOLS: for COCO three ascending ones,
            each of an image and class, where AP uses the last; for LVIS one, of an image.
        protocol: ``coco``, or ``lvis`` (Gupta et al. 2019, section 3.2; hotcoco only): in an image a class counts only
            where it has a box or is among ``neg_category_ids``, and detections that match nothing are no faults where
            it is among ``not_exhaustive_category_ids``. AR1 and AR10 are then -1, and AR100 is recall at the one limit.

    Raises:
        InputError: unknown choice, image or category; repeated ids; values that are not finite.

    Example:
        >>> box = {"image_id": 1, "category_id": 3, "bbox": [0.0, 0.0, 9.0, 9.0]}
        >>> gt = {"images": [{"id": 1}], "categories": [{"id": 3, "name": "a"}], "annotations": [box]}
        >>> round(float(evaluate(gt, np.array([[1, 0, 0, 9, 9, 0.5, 3]])).stats[0]), 9)
        1.0
    """
    check_choice(engine, protocol)
    if iou_type not in IOU_TYPES:
        raise InputError(f"iou_type: expected 'bbox' or 'segm', got '{iou_type}'")
    limits = _limits(max_dets, protocol)
    run = _run_lvis if protocol == "lvis" else ENGINES[engine]
    image_ids, category_ids = unique_ids(gt["images"], "image"), unique_ids(gt["categories"], "category")
    truth = prepare_truth(gt, iou_type)
    found = prepare_results(results, image_ids, category_ids, iou_type)
    precision, recall, scores = run(truth, found, iou_type, limits)
    return EngineOutput(summarise(precision, recall), precision, recall, scores, category_ids, image_ids)


def summarise(precision: Array, recall: Array) -> Array:
    """Return the (12,) figures named in STATS; the same means over the same entries as COCOeval.summarize.

    Unlike pycocotools', they follow ``max_dets``: AP is always taken at the last limit.
    """
    ap = precision[..., 0, -1]  # (T, R, K)
    ar = recall[..., 0, :]  # (T, K, M)
    parts = [ap, ap[0], ap[5]]  # IoU .50:.95, .50, .75
    parts += [precision[..., area, -1] for area in (1, 2, 3)]
    missing = [np.zeros(0)] * (3 - ar.shape[-1])
    parts += [*missing, *np.moveaxis(ar, -1, 0)]
    parts += [recall[..., area, -1] for area in (1, 2, 3)]
    return np.array([_mean_present(part) for part in parts])


def check_choice(engine: str, protocol: str = "coco") -> None:
    """Raise an InputError unless this engine knows this protocol."""
    if engine not in ENGINES:
        raise InputError(f"engine: expected one of {', '.join(ENGINES)}, got '{engine}'{suggest(engine, ENGINES)}")
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got '{protocol}'")
    if protocol == "lvis" and engine != "hotcoco":
        raise InputError(f"engine: expected hotcoco for LVIS's protocol, got '{engine}'; leave engine out")


def _limits(max_dets: Sequence[int] | None, protocol: str) -> list[int]:
    usual = PROTOCOLS[protocol]
    limits = [int(limit) for limit in (usual if max_dets is None else max_dets)]
    if len(limits) != len(usual) or limits != sorted(set(limits)) or limits[0] < 1:
        what = "three ascending limits such as 1, 10, 100" if protocol == "coco" else "one limit such as 300"
        raise InputError(f"max_dets: expected {what}, got {limits}")
    return limits


def box_iou(detections: Array, boxes: Array, crowd: Array) -> Array:
    """Return (D, G) IoU of ``xywh`` boxes, with the engines' own arithmetic.

    Against a crowd, the share of the detection that lies inside it.
    """
    from hotcoco import primitives

    return np.asarray(primitives.bbox_iou(detections, boxes, crowd.astype(bool)))


def to_labels(categories: Array, category_ids: Array) -> NDArray[np.int64]:
    """(n,) labels of categories, all of which are among the (C,) category ids of the labels, in any order.

    Example:
        >>> to_labels(np.array([3, 7, 3]), np.array([7, 3])).tolist()
        [1, 0, 1]
    """
    order = np.argsort(category_ids)
    return np.asarray(order[np.searchsorted(category_ids, categories.astype(np.int64), sorter=order)], np.int64)


def _mean_present(values: Array) -> float:
    present = values[values > -1]
    return float(np.mean(present)) if present.size else -1.0


def unique_ids(entries: list[dict[str, Any]], what: str) -> Array:
    ids = np.array([entry["id"] for entry in entries], dtype=np.int64)
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{what} ids: expected each once, got {unique[counts > 1][0]} twice; make the ids unique")
    return unique


def prepare_truth(gt: CocoDict, iou_type: str) -> CocoDict:
    # Fresh ids from 1: both engines take an object with id 0 for "not matched", and LVIS-like merges repeat ids.
    annotations = [
        {**a, "id": i, "iscrowd": int(a.get("iscrowd", 0)), "area": a.get("area", a["bbox"][2] * a["bbox"][3])}
        for i, a in enumerate(gt["annotations"], start=1)
    ]
    if iou_type == "segm" and any(not a.get("segmentation") for a in annotations):
        raise InputError(
            "iou_type=segm: expected a segmentation in every annotation, got a box alone; use iou_type=bbox"
        )
    return {"images": gt["images"], "categories": gt["categories"], "annotations": annotations}


def prepare_results(results: Results, image_ids: Array, category_ids: Array, iou_type: str) -> Results:
    if isinstance(results, list):
        try:
            prepared: Results = [{key: r[key] for key in _RESULT_KEYS[iou_type]} for r in results]
            images = np.array([r["image_id"] for r in results], dtype=np.int64)
            categories = np.array([r["category_id"] for r in results], dtype=np.int64)
            values = np.array([[r["score"], *(r["bbox"] if iou_type == "bbox" else ())] for r in results], float)
        except (KeyError, ValueError):  # values of several lengths
            _refuse_first_bad(results, iou_type)
            raise
        if iou_type == "bbox" and len(results) and (values.shape[1] != 5 or (values[:, 3:] < 0).any()):
            _refuse_first_bad(results, iou_type)
    else:
        if iou_type == "segm":
            raise InputError("iou_type=segm: expected result dicts with a segmentation, got an array of boxes")
        values = prepared = _columns(results)
        images, categories = prepared[:, 0].astype(np.int64), prepared[:, 6].astype(np.int64)
    if not np.isfinite(values).all():
        raise InputError("results: expected finite boxes and scores, got NaN or inf; the model has diverged")
    for what, got, known in (("image", images, image_ids), ("category", categories, category_ids)):
        strange = got[~np.isin(got, known)]
        if strange.size:
            raise InputError(
                f"results: expected {what} ids of the ground truth, got {strange[0]}; evaluate against the split "
                "that was predicted, by its own ids (those of predict count classes from 0)"
            )
    return prepared


def _refuse_first_bad(results: list[dict[str, Any]], iou_type: str) -> None:
    """Name the result that COCO's tools would score as one that finds nothing, for want of a box."""
    for number, result in enumerate(results):
        missing = [key for key in _RESULT_KEYS[iou_type] if key not in result]
        if missing:
            raise InputError(f"results: expected '{missing[0]}' in each, got none in number {number}")
        if iou_type == "bbox" and not (len(result["bbox"]) == 4 and result["bbox"][2] >= 0 and result["bbox"][3] >= 0):
            raise InputError(f"results: expected bbox [x, y, width, height], got {result['bbox']} in number {number}")


_RESULT_KEYS = {
    "bbox": ("image_id", "category_id", "score", "bbox"),
    "segm": ("image_id", "category_id", "score", "segmentation"),
}


def _columns(results: Array) -> Array:
    columns = np.ascontiguousarray(results, dtype=np.float64)
    if columns.size == 0:
        return np.zeros((0, 7))
    if columns.ndim != 2 or columns.shape[1] != 7:
        raise InputError(f"results: expected an (n, 7) array, got shape {columns.shape}")
    return columns


def _run_hotcoco(gt: CocoDict, results: Results, iou_type: str, max_dets: list[int]) -> tuple[Array, Array, Array]:
    import hotcoco

    truth = hotcoco.COCO(gt)
    run = hotcoco.COCOeval(truth, truth.load_res(results), iou_type)
    run.params.max_dets = max_dets
    run.evaluate()
    run.accumulate()
    return _arrays(run.eval)


def _run_lvis(gt: CocoDict, results: Results, iou_type: str, max_dets: list[int]) -> tuple[Array, Array, Array]:
    import hotcoco

    truth = hotcoco.COCO(gt)
    found = hotcoco.LVISResults(truth, results, max_dets=max_dets[0])
    run = hotcoco.COCOeval(truth, found, iou_type, lvis_style=True)
    run.params.max_dets = max_dets
    run.evaluate()
    run.accumulate()
    return _arrays(run.eval)


def _run_pycocotools(gt: CocoDict, results: Results, iou_type: str, max_dets: list[int]) -> tuple[Array, Array, Array]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = gt
        truth.createIndex()
        if len(results):
            found = truth.loadRes(results)
        else:  # loadRes looks at the first result
            found.dataset = {**gt, "annotations": []}
            found.createIndex()
        run = COCOeval(truth, found, iou_type)
        run.params.maxDets = max_dets
        run.evaluate()
        run.accumulate()
    return _arrays(run.eval)


def _arrays(measured: dict[str, Any] | None) -> tuple[Array, Array, Array]:
    assert measured is not None, "accumulate() leaves the arrays"
    return measured["precision"], measured["recall"], measured["scores"]


#: name -> (ground truth, results, iou_type, max_dets) -> precision, recall, scores
ENGINES: dict[str, Callable[[CocoDict, Results, str, list[int]], tuple[Array, Array, Array]]] = {
    "hotcoco": _run_hotcoco,
    "pycocotools": _run_pycocotools,
}
