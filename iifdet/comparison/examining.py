"""From run folders to an Analysis, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iifdet.comparison.analysis import analyse
from iifdet.comparison.classifiers import analyse_classifiers, class_split, read_classified
from iifdet.comparison.files import read_metrics, read_predictions, read_settings, short_names
from iifdet.comparison.results import Analysis, BoxSplit, Options
from iifdet.comparison.runs import Comparison
from iifdet.errors import InputError
from iifdet.evaluation import GROUP_LIMITS, SHOT_LIMITS
from iifdet.evaluation.detection import KEPT
from iifdet.evaluation.engine import Array
from iifdet.evaluation.fixed import Unlimited, read_fixed
from iifdet.longtail import ClassCounts


def examine(
    found: Comparison,
    folders: Sequence[str | Path],
    index_of: Callable[[dict[str, Any]], Any],
    options: Options | None = None,
) -> Comparison:
    """Look behind the figures of runs, where predictions and data allow it; a notice says why not.

    Args:
        found: what :func:`iifdet.comparison.compare_runs` said about the folders.
        folders: the run folders.
        index_of: settings of a run -> DatasetIndex of the split that it was evaluated on.
        options: how closely to look.
    """
    paths, options = [Path(folder) for folder in folders], options or Options()
    metrics = [read_metrics(path) for path in paths]
    names = [f"{name} ({i})" if repeated else name for i, (name, repeated) in enumerate(_numbered(paths), 1)]
    if "top1" in found.rows[0].values:
        return _examine_classifiers(found, paths, names, metrics, options)
    try:
        predictions, fixed = [read_predictions(path) for path in paths], [read_fixed(path) for path in paths]
        index = index_of(read_settings(paths[0]))
        _check_index(index, metrics)
        counts = _training_counts(metrics[0], index.names)
        split = BoxSplit.of(index, counts, metrics[0].get("group_thresholds") or GROUP_LIMITS)
        unlimited = {name: found for name, found in zip(names, fixed, strict=True) if found is not None}
        analysis = analyse(split, dict(zip(names, predictions, strict=True)), options, unlimited)
    except InputError as error:
        return replace(found, notices=[*found.notices, f"no intervals, tests and errors: {error}"])
    said = [
        *_disagreements(analysis, metrics, paths),
        *_other_counts(metrics),
        *_capped(names, paths, predictions, unlimited),
    ]
    return replace(found, analysis=analysis, notices=[*found.notices, *said])


def _examine_classifiers(
    found: Comparison, paths: list[Path], names: list[str], metrics: list[dict[str, Any]], options: Options
) -> Comparison:
    """Predictions of classifiers bring their images' classes along: no data are read."""
    try:
        classes = [row.get("name") for row in metrics[0].get("per_class") or []]
        if not classes:
            raise InputError(f"expected per_class in {paths[0] / 'metrics.json'}, got none; run iifdet val again")
        results = [read_classified(path, classes) for path in paths]
        limits = metrics[0].get("group_thresholds", SHOT_LIMITS)
        split = class_split(results[0], _training_counts(metrics[0], classes), limits)
        analysis = analyse_classifiers(split, dict(zip(names, results, strict=True)), options)
    except InputError as error:
        return replace(found, notices=[*found.notices, f"no intervals and tests: {error}"])
    said = [*_disagreements(analysis, metrics, paths), *_other_counts(metrics)]
    return replace(found, analysis=analysis, notices=[*found.notices, *said])


def _numbered(paths: list[Path]) -> list[tuple[str, bool]]:
    names = short_names(paths)
    return [(name, names.count(name) > 1) for name in names]


def _check_index(index: Any, metrics: list[dict[str, Any]]) -> None:
    evaluated = next((m["data_digest"] for m in metrics if m.get("data_digest")), None)
    if evaluated is not None and index.digest() != evaluated:
        raise InputError(
            f"expected the data that the runs were evaluated on ({evaluated[:12]}), got {index.digest()[:12]}; "
            "run iifdet val again, or name the data with data="
        )


def _training_counts(metrics: dict[str, Any], names: list[str]) -> ClassCounts | None:
    """The training counts that a run's tables were made with; the number of training images plays no part here."""
    rows = metrics.get("per_class") or []
    if [row.get("name") for row in rows] != list(names) or any(row.get("train_images") is None for row in rows):
        return None
    images = torch.tensor([row["train_images"] for row in rows])
    instances = torch.tensor([row.get("train_instances", row["train_images"]) for row in rows])  # one an image
    return ClassCounts(list(names), images, instances, int(images.sum()))


def _disagreements(analysis: Analysis, metrics: list[dict[str, Any]], paths: list[Path]) -> list[str]:
    """Predictions that do not give the figures beside them come from another evaluation."""
    said = []
    for run, measured, path in zip(analysis.runs, metrics, paths, strict=True):
        figure, mine = next(iter(run.figures.items()))
        theirs = measured.get(figure)
        if theirs is not None and not np.isclose(mine.value, theirs, atol=1e-6):
            said.append(
                f"{path}: predictions.json gives {figure} {100 * mine.value:.2f}, metrics.json says "
                f"{100 * theirs:.2f}; run iifdet val again"
            )
    return said


def _other_counts(metrics: list[dict[str, Any]]) -> list[str]:
    counts = [[(r.get("train_images"), r.get("train_instances")) for r in m.get("per_class") or []] for m in metrics]
    differ = any(c != counts[0] for c in counts[1:])
    return ["the runs had different training counts; tails and groups are the first run's"] if differ else []


def _capped(
    names: list[str],
    paths: list[Path],
    predictions: list[tuple[Array, list[Any] | None]],
    unlimited: Mapping[str, Unlimited],
) -> list[str]:
    """Fixed AP wants every detection; a run keeps the best of an image unless it is asked for more."""
    said = []
    for name, path, (rows, _) in zip(names, paths, predictions, strict=True):
        settings = read_settings(path)
        if name in unlimited or not len(rows) or settings.get("predictions"):  # of a file, all is kept
            continue
        limit = min(KEPT, int(settings.get("max_det") or KEPT))
        if np.unique(rows[:, 0], return_counts=True)[1].max() >= limit:
            said.append(
                f"{name}: Fixed AP sees only the {limit} detections of an image that the run kept; "
                "iifdet val fixed_ap=true keeps what it needs"
            )
    return said
