"""What tests of whole runs share: comparing what two leave behind, cutting one off, watching one."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from iifdet.checkpoint import read_checkpoint
from iifdet.training import Callback, TrainState

#: Columns of results.csv that measure time.
CLOCKS = ("seconds", "images_per_s")
#: Keys of a run of which everything must be kept to go on with it.
HARD = {
    "epochs": 3,
    "batch": 4,  # six batches an epoch
    "workers": 0,
    "ema": 0.9,
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 0.01,
    "multi_scale": [0.5, 1.5],
    "multi_scale_every": 2,
    "accumulate": 2,
    "clip": 1.0,
    "save_steps": 2,
}


def last_of(run: Path) -> dict[str, Any]:
    return read_checkpoint(run / "weights" / "last.pt")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def equal(a: Any, b: Any, where: str = "") -> None:
    """Assert that two nests of tensors and plain values are the same to the bit, clocks aside."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - set(CLOCKS):
            equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def same_run(a: Path, b: Path, checkpoints: tuple[str, ...] = ("last",)) -> None:
    """Weights, averages, optimizer, generators, counters and results.csv are bit-equal; clocks aside."""
    for name in checkpoints:
        one, other = (read_checkpoint(run / "weights" / f"{name}.pt") for run in (a, b))
        for part in ("weights", "ema", "training", "names", "counts", "adjustment", "metrics"):
            equal(one[part], other[part], f"{name}.{part}")
    assert rows_of(a) == rows_of(b)


class Interrupt(Callback):
    """Raise after batch ``batch`` of epoch ``epoch``, as a crash would: nothing is saved on the way out."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None:
        if (state.epoch, state.batch) == self.at:
            raise RuntimeError("power cut")


class Record(Callback):
    """Note every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, state: TrainState) -> None:
        self.calls.append("start")

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None:
        self.calls.append(f"step {state.epoch} {state.batch}/{batches}")

    def on_validate(self, state: TrainState) -> None:
        self.calls.append(f"validate {state.epoch}")

    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
        self.calls.append(f"epoch_end {row['epoch']}")

    def on_end(self, state: TrainState) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("close")
