"""What stands behind the figures of classifiers' runs on one split: intervals, tests and calibration, image by image.

The same steps as for detectors: the same draws of images for every run, then McNemar's test and calibration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.comparison.intervals import class_intervals, present_mean
from iifdet.comparison.results import ALL, IMAGES, Analysis, Options, RunAnalysis, Split
from iifdet.comparison.testing import mcnemar_by_group
from iifdet.errors import InputError
from iifdet.evaluation import ClassResult, shots
from iifdet.evaluation.classification import NO_CLASS
from iifdet.evaluation.engine import Array
from iifdet.evaluation.resampling import Interval, enough_images, image_weights, interval
from iifdet.longtail import ClassCounts


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """What a run said of a split.

    Attributes:
        ids: (N,) of the images, ascending.
        result: in the same order.
    """

    ids: NDArray[np.int64]
    result: ClassResult

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the best class is the image's."""
        return self.result.rank == 0


def read_classified(folder: Path, names: Sequence[str]) -> Classified:
    """predictions.json of a classifier's run; NLL and Brier score are not in it.

    Raises:
        InputError: there is none, or not a classifier's of these classes.
    """
    path = folder / "predictions.json"
    try:
        rows: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        found = sorted((int(r["image_id"]), int(r["label"]), *_best(r)) for r in rows)
    except OSError:
        raise InputError(f"expected {path}, which is not there; run iifdet val again") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: expected a classifier's predictions, got {type(error).__name__}") from None
    ids, labels, predicted = (np.array([row[i] for row in found], dtype=np.int64) for i in range(3))
    if not all(0 <= label < len(names) for label in {*labels.tolist(), *predicted.tolist()} - {NO_CLASS}):
        raise InputError(f"{path}: expected classes below {len(names)}, got others; run iifdet val again")
    scores, unknown = np.array([row[3] for row in found]), np.full(len(ids), np.nan)
    rank = (predicted != labels).astype(np.int64)
    return Classified(ids, ClassResult(list(names), labels, predicted, rank, scores, unknown, unknown))


def _best(row: dict[str, Any]) -> tuple[int, float]:
    """The best class and its score; none where the logits were no numbers."""
    return (int(row["classes"][0]), float(row["scores"][0])) if row["classes"] else (NO_CLASS, 0.0)


def class_split(found: Classified, counts: ClassCounts | None, limits: Sequence[int]) -> Split:
    """The data that a run was evaluated on, as far as its predictions tell."""
    return Split(found.result.names, len(found.ids), counts, {} if counts is None else shots(counts, limits))


def analyse_classifiers(split: Split, found: Mapping[str, Classified], options: Options) -> Analysis:
    """Look closely at classifiers' runs on one split.

    Args:
        split: the data.
        found: name of the run -> what it said.
        options: how closely.

    Raises:
        InputError: no images, or runs of different ones.
    """
    first = next(iter(found.values()))
    if not split.images:
        raise InputError("expected images in the evaluated split, got none")
    for name, run in found.items():
        if not (np.array_equal(run.ids, first.ids) and np.array_equal(run.result.labels, first.result.labels)):
            raise InputError(f"expected predictions of the same images, got others in {name}")
    draws = _draw(split, found, options)
    base = next(iter(draws.values()))
    runs = [_look(split, name, run, draws[name], (first, base), options) for name, run in found.items()]
    return Analysis(split, options, {IMAGES: runs}, "accuracy")


@dataclass(frozen=True)
class _Draws:
    """A run as it is (row 0) and under every draw: figure -> (1 + B,), and (1 + B, C) accuracy of each class."""

    figures: dict[str, Array]
    classes: Array


def _draw(split: Split, found: Mapping[str, Classified], options: Options) -> dict[str, _Draws]:
    labels = next(iter(found.values())).result.labels
    order = labels.argsort(kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    parts: dict[str, list[_Draws]] = {name: [] for name in found}
    for some in (np.ones((1, split.images), np.float32), *image_weights(split.images, options.draws, options.seed)):
        weights = some[:, order]
        sizes = np.add.reduceat(weights, starts, axis=1, dtype=np.float64)
        for name, run in found.items():  # the same weights for every run: differences are paired
            right = np.add.reduceat(weights * run.right[order], starts, axis=1, dtype=np.float64)
            parts[name].append(_weighted(split, present, right, sizes))
    return {
        name: _Draws(
            {f: np.concatenate([part.figures[f] for part in mine]) for f in mine[0].figures},
            np.concatenate([part.classes for part in mine]),
        )
        for name, mine in parts.items()
    }


def _weighted(split: Split, present: NDArray[np.int64], right: Array, sizes: Array) -> _Draws:
    """Figures from (B, P) images of the present classes, right ones and all; a class without any is in no mean."""
    classes = np.full((len(sizes), len(split.names)), np.nan)
    with np.errstate(invalid="ignore"):
        classes[:, present] = right / sizes
    figures = {"top1": right.sum(axis=1) / sizes.sum(axis=1), "mean_class": present_mean(classes)}
    return _Draws(figures | {g: present_mean(classes[:, labels]) for g, labels in split.groups.items()}, classes)


def _look(
    split: Split, name: str, run: Classified, drawn: _Draws, base: tuple[Classified, _Draws], options: Options
) -> RunAnalysis:
    """One run, beside the first."""
    first, before = base
    images = first.result.gt_images
    enough = _enough(split, images)
    differences: dict[str, Interval] = {}
    classes, tests = None, {}
    if run is not first:
        changes = {f: v - before.figures[f] for f, v in drawn.figures.items()}
        differences = {f: interval(v[0], v[1:], options.level, enough=enough[f]) for f, v in changes.items()}
        change = drawn.classes - before.classes
        classes = class_intervals(change[0], change[1:], images, options.level)
        groups = split.all_groups()
        right = (dict.fromkeys(groups, seen.right) for seen in (first, run))
        tests = mcnemar_by_group(groups, first.result.labels, first.ids, *right)
    return RunAnalysis(
        name,
        {f: interval(v[0], v[1:], options.level, (0.0, 1.0), enough[f]) for f, v in drawn.figures.items()},
        differences,
        drawn.classes[0],
        classes,
        tests,
        {ALL: run.result.reliability(), **{g: run.result.reliability(v) for g, v in split.groups.items()}},
    )


def _enough(split: Split, images: NDArray[np.int64]) -> dict[str, bool]:
    """Of each figure, whether its classes have images enough; top-1 counts images and no classes."""
    by_class = {"mean_class": images, **{group: images[labels] for group, labels in split.groups.items()}}
    return {"top1": True, **{figure: enough_images(n) for figure, n in by_class.items()}}
