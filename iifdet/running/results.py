"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iifdet.rundir import RunDir

#: Pictures of the first validated images: what is there, and what was found.
LABELS_PICTURE, FOUND_PICTURE = "val_batch0_labels.jpg", "val_batch0_pred.jpg"


@dataclass(frozen=True)
class RunResult:
    """What ``train`` and ``val`` return.

    Attributes:
        folder: the run folder.
        metrics: the content of metrics.json; fractions from 0 to 1.
        summary: the figures of it that fit on a line.
    """

    folder: Path
    metrics: dict[str, Any]
    summary: dict[str, float | None] = field(default_factory=dict)


def write_results(run: RunDir, metrics: dict[str, Any], evaluator: Any) -> None:
    """metrics.json, per_class.csv and predictions.json of an evaluation."""
    run.write_json("metrics.json", metrics)
    run.write_rows("per_class.csv", metrics["per_class"])
    run.write_json("predictions.json", evaluator.predictions(), indent=None)
