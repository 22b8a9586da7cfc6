"""What is not finite: how it is told, and how a run goes back to before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from iifdet.checkpoint import read_checkpoint
from iifdet.rundir import RunDir
from iifdet.training.options import FitOptions
from iifdet.training.state import TrainState

log = logging.getLogger("iifdet")

#: What a rollback does to the learning rate.
LR_CUT = 0.5


class NotFinite(FloatingPointError):
    """Losses, weights or averages are not finite: the run cannot go on from where it is."""


def refuse_streak(state: TrainState, options: FitOptions) -> None:
    """Raise NotFinite after ``max_bad_steps`` bad steps in a row."""
    if state.bad_steps >= options.max_bad_steps:
        raise NotFinite(f"the loss or its gradient was not finite {state.bad_steps} steps in a row")


def refuse_ruins(state: TrainState) -> None:
    """Raise NotFinite before ruined weights replace those of the last checkpoint."""
    average = None if state.average is None else state.average.weights
    for kind, tensors in (("weights", state.model.state_dict()), ("averages", average)):
        ruined = _not_finite(tensors) if tensors else None
        if ruined is not None:
            raise NotFinite(f"{kind} such as {ruined} are not finite in epoch {state.epoch + 1}")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    floats = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    largest = torch.stack([value.detach().abs().amax().float() for value in floats.values()])
    finite = largest.isfinite().tolist()  # one wait for the device, not one a tensor
    return next((name for name, fine in zip(floats, finite, strict=True) if not fine), None)


def refuse_idle_end(state: TrainState, options: FitOptions) -> None:
    """Raise NotFinite where the last epoch made no step at all: its figures would be of nothing."""
    if not state.trained and state.epoch + 1 >= options.epochs:
        raise NotFinite(f"the loss of every batch was not finite in epoch {state.epoch + 1}")


def roll_back(state: TrainState, run: RunDir, options: FitOptions, error: NotFinite) -> None:
    """Go back to the last good checkpoint with half the learning rate; the best result so far stays the best.

    Nothing is written: a run cut off now and resumed comes to the same place by the same steps.

    Raises:
        FloatingPointError: ``max_rollbacks`` are used up.
    """
    content = _last_good(run)
    if state.rollbacks >= options.max_rollbacks or content is None:
        raise FloatingPointError(
            f"{error}; lower lr, or set clip=10; {run.last} is from before ({state.rollbacks} rollbacks)"
        ) from error
    kept = {"best": state.best, "best_epoch": state.best_epoch, "rollbacks": state.rollbacks + 1}
    factor = state.lr_factor * LR_CUT
    state.load_state_dict(content, options.world.rank)
    state.lr_factor = factor
    for name, value in kept.items():
        setattr(state, name, value)
    log.warning(
        "%s: back to epoch %d batch %d with %g of the learning rate (rollback %d of %d)",
        *(error, state.epoch, state.batch, factor, state.rollbacks, options.max_rollbacks),
    )


def _last_good(run: RunDir) -> dict[str, Any] | None:
    """The newest checkpoint that was written after a good step."""
    for path in (run.last, run.previous):
        content = read_checkpoint(path) if path.is_file() else None
        if content is not None and content["training"] and content["training"]["bad_steps"] == 0:
            return content
    return None
