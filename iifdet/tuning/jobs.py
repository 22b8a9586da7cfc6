"""What a trial does in its process: train with its keys and say after each epoch how it goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iifdet.errors import InputError
from iifdet.training import Callback, TrainState
from iifdet.tuning.objective import Objective, flatten
from iifdet.tuning.process import Report


class EpochReports(Callback):
    """Reports the objective after each validation, and leaves the run where the study says so.

    After the last epoch nothing is reported: it could only lose what is finished.
    """

    def __init__(self, objective: Objective, report: Report) -> None:
        self.objective, self.report = objective, report

    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
        value = self.objective.value(row)
        if value is not None and not state.finished:
            self.report(state.epoch, value)


@dataclass(frozen=True)
class TrainJob:
    """A full trial.

    Attributes:
        train: ``iifdet.train``.
        objectives: what the study maximises.
        reports: whether the study wants values during the training.
        keep_weights: leave the checkpoints of the trial where they are.
    """

    train: Callable[..., Any]
    objectives: tuple[Objective, ...]
    reports: bool
    keep_weights: bool

    def __call__(self, keys: dict[str, Any], report: Report) -> tuple[list[float], dict[str, Any]]:
        callbacks = [EpochReports(self.objectives[0], report)] if self.reports else []
        try:
            run = self.train(callbacks=callbacks, **keys)
        finally:
            if not self.keep_weights:
                shutil.rmtree(Path(keys["project"]) / keys["name"] / "weights", ignore_errors=True)
        return values_of(self.objectives, run.metrics), run.summary


def values_of(objectives: tuple[Objective, ...], metrics: Mapping[str, Any]) -> list[float]:
    """The objectives of a finished trial.

    Raises:
        InputError: one of them is null.
    """
    figures, values = flatten(metrics), []
    for objective in objectives:
        value = objective.value(figures)
        if value is None:
            raise InputError(f"objective: expected a number, got null for {objective.text}")
        values.append(value)
    return values
