"""McNemar's test of each group of classes, every group at its own false alarms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from iifdet.comparison.results import OperatingPoint, Options
from iifdet.evaluation.matching import MatchRecords
from iifdet.evaluation.significance import McNemar, false_alarms, found_boxes, mcnemar, score_of_alarms


def operating_points(
    records: list[MatchRecords], groups: Mapping[str, NDArray[np.int64]], options: Options
) -> list[dict[str, OperatingPoint]]:
    """Of each run, by group: as many false alarms as the first run has, or fewer where scores are equal."""
    points: list[dict[str, OperatingPoint]] = [{} for _ in records]
    for group, labels in groups.items():
        alarms = [false_alarms(run, options.iou, labels) for run in records]
        allowed = int((alarms[0] >= options.score).sum())
        scores = [options.score, *(score_of_alarms(mine, allowed) for mine in alarms[1:])]
        for run, score, mine in zip(points, scores, alarms, strict=True):
            run[group] = OperatingPoint(score, int((mine >= score).sum()))
    return points


def mcnemar_of_boxes(
    first: MatchRecords,
    second: MatchRecords,
    groups: Mapping[str, NDArray[np.int64]],
    options: Options,
    points: Mapping[str, OperatingPoint],
) -> dict[str, McNemar]:
    """The test of the boxes that two runs find, the second one at its point of each group."""
    a = found_boxes(first, options.score, options.iou)
    b = {group: found_boxes(second, points[group].score, options.iou) for group in groups}
    return mcnemar_by_group(groups, first.truth_label, first.truth_image, a, b)


def mcnemar_by_group(
    groups: Mapping[str, NDArray[np.int64]],
    label: NDArray[np.int64],
    image: NDArray[np.int64],
    first: NDArray[np.bool_],
    second: Mapping[str, NDArray[np.bool_]],
) -> dict[str, McNemar]:
    """The test of each group's part of what two runs found, (m,) each, of these classes in these images.

    Args:
        second: group -> what the second run found, which may be seen differently for each.
    """
    chosen = {group: np.isin(label, labels) for group, labels in groups.items()}
    return {group: mcnemar(first[rows], second[group][rows], image[rows]) for group, rows in chosen.items()}
