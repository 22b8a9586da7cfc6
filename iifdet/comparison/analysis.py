"""What stands behind the figures of runs on one split: intervals, tests, kinds of errors, calibration.

Steps: 1) match each run's detections once 2) draw images with replacement, the same draws for every run, and take each
run's figures under them 3) McNemar's test, TIDE, Fixed AP and calibration from the same records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from iifdet.comparison.intervals import compare_draws, draw, figure_intervals, figures_of, members_of
from iifdet.comparison.results import ALL, Analysis, BoxSplit, Options, RunAnalysis, Split
from iifdet.comparison.testing import mcnemar_of_boxes, operating_points
from iifdet.errors import InputError
from iifdet.evaluation.curves import Reliability, reliability
from iifdet.evaluation.engine import Array
from iifdet.evaluation.fixed import Unlimited
from iifdet.evaluation.masks import with_rectangles
from iifdet.evaluation.matching import MatchRecords, match_both
from iifdet.evaluation.resampling import weighted_ap
from iifdet.evaluation.tide import tide_errors


def analyse(
    split: BoxSplit,
    predictions: Mapping[str, tuple[Array, list[Any] | None]],
    options: Options | None = None,
    unlimited: Mapping[str, Unlimited] | None = None,
) -> Analysis:
    """Look closely at runs on one split.

    Args:
        split: the data.
        predictions: name of the run -> its (n, 7) detections, and their masks as COCO run lengths or None.
        options: how closely.
        unlimited: name of a run -> its detections without a limit on an image, for Fixed AP; that of the others comes
            from ``predictions``.

    Raises:
        InputError: detections of other images or classes.
    """
    options, unlimited = options or Options(), unlimited or {}
    rows = {name: rows for name, (rows, _) in predictions.items()}
    boxes = _analyse(split, rows, "bbox", options, {name: found.rows for name, found in unlimited.items()})
    if any(masks is None for _, masks in predictions.values()):
        return Analysis(split, options, {"boxes": boxes})
    dicts = {name: _mask_results(rows, masks or []) for name, (rows, masks) in predictions.items()}
    more = {n: _mask_results(found.rows, found.masks) for n, found in unlimited.items() if found.masks is not None}
    return Analysis(split, options, {"boxes": boxes, "masks": _analyse(split, dicts, "segm", options, more)})


def _mask_results(rows: Array, masks: list[Any]) -> list[dict[str, Any]]:
    return [
        {"image_id": int(r[0]), "category_id": int(r[6]), "score": r[5], "segmentation": mask}
        for r, mask in zip(rows.tolist(), masks, strict=True)
    ]


def _analyse(
    split: BoxSplit,
    results: Mapping[str, Any],
    iou_type: str,
    options: Options,
    unlimited: Mapping[str, Any],
) -> list[RunAnalysis]:
    truth = with_rectangles(split.truth) if iou_type == "segm" else split.truth
    if not truth["images"]:
        raise InputError("compare: expected images in the evaluated split, got none")
    records, fixed = [], []
    for name, found in results.items():
        usual, best = match_both(truth, found, split.category_ids, iou_type, split.protocol)
        if name in unlimited:
            best = match_both(truth, unlimited[name], split.category_ids, iou_type, split.protocol)[1]
        records.append(usual)
        fixed.append(best)
    ones = np.ones((1, len(truth["images"])), np.float32)
    whole = [weighted_ap(r, ones)[0] for r in records]  # (C, T) each
    members, images = members_of(split, records[0], options.by), records[0].class_images
    groups = split.all_groups()
    draws, points = draw(records, members, options), operating_points(records, groups, options)
    runs = []
    for i, (name, found) in enumerate(results.items()):
        values = {f: v[0] for f, v in figures_of(whole[i][None], members).items()}
        compared = {} if i == 0 else compare_draws((whole[0], whole[i]), (draws[0], draws[i]), members, images, options)
        runs.append(
            RunAnalysis(
                name,
                figure_intervals(values, draws[i].figures, members, images, options.level, (0.0, 1.0)),
                compared.get("figures", {}),
                whole[i].mean(axis=1),
                compared.get("classes"),
                {} if i == 0 else mcnemar_of_boxes(records[0], records[i], groups, options.iou, (points[0], points[i])),
                _calibration(records[i], split),
                {f: float(v[0]) for f, v in figures_of(weighted_ap(fixed[i], ones), members).items()},
                tide_errors(truth, found, iou_type, split.protocol),
                points[i],
            )
        )
    return runs


def _calibration(records: MatchRecords, split: Split) -> dict[str, Reliability]:
    matches = records.matches(0.5)
    return {ALL: reliability(matches), **{n: reliability(matches, labels=v) for n, v in split.groups.items()}}
