"""Figures of runs under the same draws of images, and what their differences are certain of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.comparison.results import Options, Split
from iifdet.evaluation.engine import Array
from iifdet.evaluation.matching import MatchRecords
from iifdet.evaluation.resampling import Interval, enough_images, image_weights, interval, weighted_ap
from iifdet.evaluation.tail import tail_classes

TAILS = (5, 10, 20)


@dataclass(frozen=True)
class Draws:
    """One run under all draws: figure -> (B,), and (B, C) AP of each class."""

    figures: dict[str, Array]
    ap: Array


def draw(records: list[MatchRecords], members: Mapping[str, list[int]], options: Options) -> list[Draws]:
    """Every run under the same draws.

    Args:
        records: of the runs, on one split.
        members: see :func:`members_of`.
        options: how many draws, and from which seed.
    """
    parts: list[list[Draws]] = [[] for _ in records]
    for weights in image_weights(records[0].num_images, options.draws, options.seed):
        for mine, run in zip(parts, records, strict=True):  # the same weights for every run: differences are paired
            ap = weighted_ap(run, weights)
            mine.append(Draws(figures_of(ap, members), ap.mean(axis=2)))
    return [_join(mine, members, records[0].num_classes) for mine in parts]


def _join(parts: list[Draws], members: Mapping[str, list[int]], classes: int) -> Draws:
    empty = Draws(dict.fromkeys(("AP", "AP50", "AP75", *members), np.zeros(0)), np.zeros((0, classes)))
    parts = parts or [empty]
    figures = {f: np.concatenate([p.figures[f] for p in parts]) for f in parts[0].figures}
    return Draws(figures, np.concatenate([p.ap for p in parts]))


def members_of(split: Split, records: MatchRecords, by: str) -> dict[str, list[int]]:
    """Labels that each tail and each group averages. They stay those of the whole split in every draw."""
    if split.counts is None:
        return dict(split.groups)
    result = _Scored(split.names, np.zeros(len(split.names)), np.diff(records.truth_bounds))
    return {f"tail{k}": tail_classes(result, split.counts, k, by)[0] for k in TAILS} | split.groups


@dataclass(frozen=True)
class _Scored:
    names: list[str]
    ap: Array
    gt_instances: NDArray[np.int64]


def figures_of(ap: Array, members: Mapping[str, list[int]]) -> dict[str, Array]:
    """(B, C, T) AP to figures (B,); classes without a box in a draw are left out of its means."""
    by_class = ap.mean(axis=2)
    figures = {"AP": by_class, "AP50": ap[:, :, 0], "AP75": ap[:, :, 5]}
    figures |= {name: by_class[:, labels] for name, labels in members.items()}
    return {name: present_mean(values) for name, values in figures.items()}


def present_mean(values: Array) -> Array:
    """(B, K) -> (B,) means over what is not NaN."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1)


def compare_draws(
    whole: tuple[Array, Array],
    draws: tuple[Draws, Draws],
    members: Mapping[str, list[int]],
    images: NDArray[np.int64],
    options: Options,
) -> dict[str, Any]:
    """Intervals of the paired differences between two runs: ``figures``, and (C, 3) of the ``classes``."""
    first, mine = (figures_of(ap[None], members) for ap in whole)
    changes = {f: v[0] - first[f][0] for f, v in mine.items()}
    drawn_changes = {f: draws[1].figures[f] - draws[0].figures[f] for f in changes}
    figures = figure_intervals(changes, drawn_changes, members, images, options.level)
    change, drawn = (whole[1] - whole[0]).mean(axis=1), draws[1].ap - draws[0].ap
    return {"figures": figures, "classes": class_intervals(change, drawn, images, options.level)}


def figure_intervals(
    values: Mapping[str, float],
    draws: Mapping[str, Array],
    members: Mapping[str, list[int]],
    images: NDArray[np.int64],
    level: float,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> dict[str, Interval]:
    """Intervals of figures, from (B,) draws each; without one where the classes of a figure have too few images.

    Args:
        members: figure -> its classes; those that are not there are of all classes.
        images: (C,) images with each class.
    """
    enough = {f: enough_images(images[members.get(f, slice(None))]) for f in values}
    return {f: interval(v, draws[f], level, bounds, enough[f]) for f, v in values.items()}


def class_intervals(values: Array, draws: Array, images: NDArray[np.int64], level: float) -> Array:
    """(C, 3) value, low and high of each class, from (B, C) draws; without an interval where images are few."""
    spans = [interval(v, draws[:, c], level, enough=enough_images(images[c : c + 1])) for c, v in enumerate(values)]
    return np.array([(span.value, span.low, span.high) for span in spans]).reshape(-1, 3)
