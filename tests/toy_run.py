"""The whole loop on a model of a few weights: milliseconds a run, so that rare events can be tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.checkpoint import read_checkpoint
from iifdet.optim import AveragedWeights, Schedule
from iifdet.rundir import RunDir
from iifdet.training import Callback, FitOptions, TrainState, fit
from iifdet.types import Batch, ImageInfo, Target


class Toy(nn.Module):
    """Convolution, batch norm, dropout, two losses: all that a step must be able to take back.

    Memory "runs out" above ``room`` images: ``where`` is ``forward`` or ``backward``, after some gradients are there.
    """

    spec, names, counts = {"name": "toy", "args": {}}, ["a"], None

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.head = nn.Linear(4, 2)
        self.room, self.where, self.failures, self.largest = 10**9, "forward", 0, 0

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        self.largest = max(self.largest, len(images))
        x = self.drop(self.norm(self.conv(images)).relu()).mean((2, 3))
        if len(images) > self.room:
            if self.where == "forward":
                self.run_out()
            x.register_hook(lambda _: self.run_out())  # the head has its gradient by then
        out, wanted = self.head(x), torch.stack([t["labels"][0] for t in targets]).float()
        return {"first": (out[:, 0] - wanted).square().mean(), "second": out[:, 1].square().mean()}

    def run_out(self) -> None:
        self.failures += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a toy")


class Loader:
    """24 images of 8 px, the same every epoch, in batches of ``size``."""

    def __init__(self, size: int = 4) -> None:
        generator = torch.Generator().manual_seed(1)
        self.size, self.images = size, torch.rand(24, 3, 8, 8, generator=generator)

    def __len__(self) -> int:
        return 24 // self.size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for first in range(start * self.size, 24, self.size):
            rows = range(first, first + self.size)
            targets = [Target(boxes=torch.zeros(0, 4), labels=torch.tensor([row % 3])) for row in rows]
            infos = [ImageInfo(row, row, f"{row}.png", (8, 8)) for row in rows]
            yield Batch(self.images[first : first + self.size].clone(), targets, infos)


def new_state(momentum: float = 0.9) -> TrainState:
    torch.manual_seed(0)
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    return TrainState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), AveragedWeights(model, 0.9, 2))


def run_toy(
    folder: Path,
    state: TrainState | None = None,
    callbacks: Sequence[Callback] = (),
    scores: Sequence[float] = (),
    size: int = 4,
    validation: Callable[[nn.Module, Callable[[], None]], object] = lambda *_: None,
    **options: Any,
) -> TrainState:
    """Run, or go on where ``folder`` has a checkpoint. ``scores``: the fitness of each epoch; rising by default."""
    run, state = RunDir(folder), state or new_state()
    if run.last.is_file():
        state.load_state_dict(read_checkpoint(run.last))
    chosen = FitOptions(**{"epochs": 3, "device": torch.device("cpu"), **options})

    def validate(model: nn.Module, before_batch: Callable[[], None]) -> tuple[dict[str, Any], float]:
        validation(model, before_batch)
        fitness = scores[state.epoch] if scores else state.epoch / 10
        return {"AP": fitness}, fitness

    fit(state, Loader(size), Schedule(0.1, chosen.epochs, final=0.1), chosen, run, validate, {}, callbacks)
    return state


def everything(state: TrainState) -> dict[str, Any]:
    """All that must be the same after the same steps, clocks aside."""
    saved = state.state_dict()
    saved.pop("seconds")
    saved["rows"] = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in saved["rows"]]
    average = None if state.average is None else dict(state.average.weights)
    return {"weights": dict(state.model.state_dict()), "average": average, **saved}
