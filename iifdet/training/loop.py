"""The loop: batches in, checkpoints out. It knows losses, metrics and a fitness, and no task or detector by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from torch import nn

from iifdet.optim import Schedule
from iifdet.rundir import RunDir
from iifdet.training.callbacks import Callback
from iifdet.training.options import FitOptions
from iifdet.training.pieces import Undo
from iifdet.training.prefetch import ahead
from iifdet.training.recovery import NotFinite, refuse_idle_end, refuse_ruins, refuse_streak, roll_back
from iifdet.training.saving import Saver
from iifdet.training.state import TrainState, averaged
from iifdet.training.step import train_step
from iifdet.training.stopping import GracefulStop, Stopped
from iifdet.types import Batch

log = logging.getLogger("iifdet")


class EpochLoader(Protocol):
    """A loader that can start in the middle of any epoch, at its end too."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


#: Validates the model it is given: (figures for results.csv, fitness). Calls the second argument between batches.
Validate = Callable[[nn.Module, Callable[[], None]], tuple[dict[str, Any], float]]

#: Makes one optimizer step as :func:`iifdet.training.train_step` does.
Step = Callable[[TrainState, Sequence[Batch], int, FitOptions, Undo], bool]


def fit(
    state: TrainState,
    loader: EpochLoader,
    schedule: Schedule,
    options: FitOptions,
    run: RunDir,
    validate: Validate,
    recipe: dict[str, Any],
    callbacks: Sequence[Callback] = (),
    step: Step = train_step,
) -> None:
    """Train to the last epoch: each epoch train, validate, write results.csv and checkpoints.

    Args:
        step: makes each optimizer step.

    Raises:
        FloatingPointError: losses or weights stayed not finite after ``max_rollbacks`` rollbacks.
        KeyboardInterrupt, SystemExit: after saving at the end of the step, on SIGINT and SIGTERM.
    """
    save = Saver(state, run, recipe, options)
    with GracefulStop(options.world) as stop:
        for callback in callbacks:
            callback.on_start(state)
        save.start()
        if state.rows:  # a process that died right after a checkpoint has not written them
            run.write_rows("results.csv", state.rows)
        while state.epoch < options.epochs and not state.finished:
            started = time.perf_counter()
            try:
                train_one_epoch(state, loader, schedule, options, callbacks, save, stop, step)
                refuse_ruins(state)
                refuse_idle_end(state, options)
            except NotFinite as error:
                roll_back(state, run, options, error)
                continue
            row = _epoch_row(state, schedule, options.accumulate, time.perf_counter() - started)
            fitness = None
            if state.epoch + 1 >= options.epochs or (state.epoch + 1) % options.val_every == 0:
                for callback in callbacks:
                    callback.on_validate(state)
                try:
                    with averaged(state) as model:
                        figures, fitness = validate(model, stop.stop_if_asked)
                except Stopped:  # the epoch is trained: who resumes goes on with its validation
                    save.in_epoch()
                    stop.leave_if_asked()
                    raise
                row.update(figures)
            save.write(row, best=_finish_epoch(state, row, fitness, options))
            run.write_rows("results.csv", state.rows)
            for callback in callbacks:
                callback.on_epoch_end(state, row)
            if not state.finished:  # a run at its end may as well end
                stop.agree()
                stop.leave_if_asked()
        for callback in callbacks:
            callback.on_end(state)


def train_one_epoch(
    state: TrainState,
    loader: EpochLoader,
    schedule: Schedule,
    options: FitOptions,
    callbacks: Sequence[Callback],
    save: Saver,
    stop: GracefulStop,
    step: Step = train_step,
) -> None:
    """Train from ``state.batch`` to the end of the epoch; an interrupted epoch goes on where it was saved.

    Raises:
        NotFinite: ``max_bad_steps`` steps in a row were bad.
    """
    batches, undo = len(loader), Undo(state.model, options.device)
    set_train_mode(state.model, options.frozen_bn)
    source, started = ahead(loader.epoch(state.epoch, start=state.batch), options.device), time.perf_counter()
    while group := list(islice(source, options.accumulate)):
        for callback in callbacks:
            callback.on_batches(state, group)
        lr = schedule.at(state.epoch + state.batch / batches) * state.lr_factor
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = lr
        step(state, group, batches, options, undo)
        now = time.perf_counter()
        state.seconds, started = state.seconds + now - started, now
        for callback in callbacks:
            callback.on_step(state, {k: v / max(1, state.trained) for k, v in state.sums.items()}, lr, batches)
        refuse_streak(state, options)
        # signals reach some processes, and each has a clock of its own: all do the same
        due = stop.agree(options.world.is_main and save.due())
        if stop.asked or due:
            save.in_epoch()
            stop.leave_if_asked()


def set_train_mode(model: nn.Module, frozen_bn: str = "eval") -> None:
    """Train mode, except for batch norms whose parameters are frozen: their running statistics must not move.

    With ``frozen_bn="train"`` they do, as in the published second stage of classifiers.
    """
    model.train()
    if frozen_bn == "train":
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                module.eval()


def _epoch_row(state: TrainState, schedule: Schedule, accumulate: int, seconds: float) -> dict[str, Any]:
    batches = max(1, state.batch)
    last = (batches - 1) // accumulate * accumulate  # first batch of the last step
    lr = schedule.at(state.epoch + last / batches) * state.lr_factor
    row: dict[str, Any] = {"epoch": state.epoch + 1, "seconds": round(seconds, 2), "lr": lr}
    row["images_per_s"] = round(state.images / max(state.seconds, 1e-9), 2)
    trained = max(1, state.trained)
    row.update({f"loss_{name}": value / trained for name, value in state.sums.items()})
    row["loss"] = sum(state.sums.values()) / trained
    return row


def _finish_epoch(state: TrainState, row: dict[str, Any], fitness: float | None, options: FitOptions) -> bool:
    """Move on to the next epoch; whether this one is the best so far."""
    best = fitness is not None and (fitness > state.best or state.best_epoch < 0)
    if fitness is not None and best:
        state.best, state.best_epoch = fitness, row["epoch"]
    state.rows.append(row)
    state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
    state.images, state.seconds, state.trained = 0, 0.0, 0
    since = state.epoch - state.best_epoch
    stale = fitness is not None and options.patience > 0 and since >= options.patience
    if stale:
        log.info(
            "stopped early: no better result for %d epochs (best was epoch %d)", options.patience, state.best_epoch
        )
    state.finished = stale or state.epoch >= options.epochs
    return best
