"""What stands behind the figures of classifiers' runs: intervals of differences and McNemar's test, image by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.comparison.analysis import Options
from iifdet.comparison.runs import Comparison
from iifdet.errors import InputError
from iifdet.evaluation.resampling import image_weights, interval
from iifdet.evaluation.significance import mcnemar

Right = NDArray[np.bool_]


def examine_classifiers(found: Comparison, folders: Sequence[str | Path], options: Options) -> Comparison:
    """Add a notice for each run: its difference to the first, how sure it is; a notice says where that is unknown."""
    try:
        runs = [_read(Path(folder)) for folder in folders]
        for folder, run in zip(folders, runs, strict=True):
            if run.keys() != runs[0].keys():
                raise InputError(f"expected predictions of the same images, got others in {folder}")
    except InputError as error:
        return replace(found, notices=[*found.notices, f"no intervals and tests: {error}"])
    images = sorted(runs[0])
    labels = np.array([runs[0][i][0] for i in images], dtype=np.int64)
    right = [np.array([run[i][1] for i in images]) for run in runs]
    said = [
        _difference(found.rows[0].name, row.name, labels, right[0], mine, options)
        for row, mine in zip(found.rows[1:], right[1:], strict=True)
    ]
    return replace(found, notices=[*found.notices, *said])


def _read(folder: Path) -> dict[int, tuple[int, bool]]:
    """Image id -> its label, and whether the best class is it.

    Raises:
        InputError: there are none, or not a classifier's.
    """
    path = folder / "predictions.json"
    try:
        rows: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        return {int(r["image_id"]): (int(r["label"]), r["classes"][0] == r["label"]) for r in rows}
    except OSError:
        raise InputError(f"expected {path}, which is not there; run iifdet val again") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: expected a classifier's predictions, got {type(error).__name__}") from None


def _difference(first: str, name: str, labels: NDArray[np.int64], base: Right, mine: Right, options: Options) -> str:
    test = mcnemar(base, mine)
    text = f"{name} against {first}: {test.second} images right that were wrong, {test.first} the other way round"
    text += f", McNemar p = {test.p:.2g}"
    if not options.draws:
        return text
    gain = mine.astype(np.float64) - base
    drawn = np.concatenate([w @ gain / len(gain) for w in image_weights(len(gain), options.draws, options.seed)])
    top1 = interval(float(gain.mean()), drawn, options.level)
    per_class = np.stack([gain[labels == c].mean() for c in np.unique(labels)])
    return (
        f"{text}; top-1 {100 * top1.value:+.2f}, {100 * options.level:g} % interval {100 * top1.low:+.2f} to "
        f"{100 * top1.high:+.2f}; {int((per_class > 0).sum())} of {len(per_class)} classes better"
    )
