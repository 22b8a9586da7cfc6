"""What a run says while it runs: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from iifdet.training import Callback, TrainState

log = logging.getLogger("iifdet")

#: Seconds between two lines of one epoch where there is no terminal.
QUIET_SECONDS = 60.0
#: Figures that the line of an epoch holds, of detectors and of classifiers.
TOLD = ("AP", "mask_AP", "AP50", "tail10", "top1", "mean_class")


def memory_gb() -> float:
    """Peak memory in GB: of the CUDA device where one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class ProgressReport(Callback):
    """Loss parts, rate, images/s and memory of each epoch."""

    def __init__(self, epochs: int, console: Console) -> None:
        self.epochs, self.console = epochs, console
        self.bar: Progress | None = None
        self.task: Any = None
        self.said = time.monotonic()

    def on_start(self, state: TrainState) -> None:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None:
        text = self._text(state, losses, lr)
        if self.bar is not None:
            if self.task is None:
                self.task = self.bar.add_task(text, total=batches)
            self.bar.update(self.task, description=text, completed=state.batch, total=batches)
        elif time.monotonic() - self.said > QUIET_SECONDS:
            self.said = time.monotonic()
            log.info("%s, batch %d/%d", text, state.batch, batches)

    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
        self.said = time.monotonic()
        parts = [f"epoch {row['epoch']}/{self.epochs}", f"loss {row['loss']:.3f}", f"lr {row['lr']:.2g}"]
        parts += [f"{name} {row[name]:.3f}" for name in TOLD if row.get(name) is not None]
        log.info("%s", ", ".join([*parts, f"{row['images_per_s']:.1f} images/s", f"{row['seconds']:.0f} s"]))

    def on_end(self, state: TrainState) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen, also when a run ends by an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _text(self, state: TrainState, losses: Mapping[str, float], lr: float) -> str:
        speed = state.images / max(state.seconds, 1e-9)
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        return f"epoch {state.epoch + 1}/{self.epochs} {parts} lr {lr:.2g} {speed:.1f} images/s {memory_gb():.1f} GB"


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then elsewhere; call what it gives with the number done so far."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    said = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def seen(done: int) -> None:
            nonlocal said
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - said > QUIET_SECONDS:
                said = time.monotonic()
                log.info("%d of %d %s", done, total, what)

        yield seen


class TensorBoardLog(Callback):
    """Losses and metrics of each epoch for TensorBoard (extra ``log``)."""

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder)

    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(name, value, row["epoch"])

    def on_end(self, state: TrainState) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still in memory, also when a run ends by an error."""
        self.writer.close()
