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
    """Of each run, by group: the lowest score with no more false alarms than the first run's from ``options.score`` on.

    The first run is seen there too, not at ``options.score``: the others, whose scores go down to the next false alarm,
    would find more than their own equal.
    """
    points: list[dict[str, OperatingPoint]] = [{} for _ in records]
    for group, labels in groups.items():
        alarms = [false_alarms(run, options.iou, labels) for run in records]
        allowed = int((alarms[0] >= options.score).sum())
        scores = [score_of_alarms(mine, allowed) for mine in alarms]
        for run, score, mine in zip(points, scores, alarms, strict=True):
            run[group] = OperatingPoint(score, int((mine >= score).sum()))
    return points


def mcnemar_of_boxes(
    first: MatchRecords,
    second: MatchRecords,
    groups: Mapping[str, NDArray[np.int64]],
    iou: float,
    points: tuple[Mapping[str, OperatingPoint], Mapping[str, OperatingPoint]],
) -> dict[str, McNemar]:
    """The test of the boxes that two runs find, each at its point of each group."""
    a, b = (
        {group: found_boxes(run, at[group].score, iou) for group in groups}
        for run, at in zip((first, second), points, strict=True)
    )
    return mcnemar_by_group(groups, first.truth_label, first.truth_image, a, b)


def mcnemar_by_group(
    groups: Mapping[str, NDArray[np.int64]],
    label: NDArray[np.int64],
    image: NDArray[np.int64],
    first: Mapping[str, NDArray[np.bool_]],
    second: Mapping[str, NDArray[np.bool_]],
) -> dict[str, McNemar]:
    """The test of each group's part of what two runs found, (m,) each, of these classes in these images.

    Args:
        first, second: group -> what the run found, which may be seen differently for each.
    """
    chosen = {group: np.isin(label, labels) for group, labels in groups.items()}
    return {group: mcnemar(first[group][rows], second[group][rows], image[rows]) for group, rows in chosen.items()}
