"""When a run writes its checkpoint, and how the one before stays."""

from __future__ import annotations

import time
from typing import Any

from iifdet.checkpoint import save_checkpoint
from iifdet.rundir import RunDir
from iifdet.training.options import FitOptions
from iifdet.training.recovery import refuse_ruins
from iifdet.training.state import TrainState, generators_now


class Saver:
    """Writes last.pt, keeps the one before as last.prev.pt, and writes best.pt when it is the best.

    One of the two was always written after a good step: that is where a rollback goes. So in the middle of an epoch
    nothing is written after a bad step, and at an epoch's end a good checkpoint that became the previous one stays.

    Of several processes the main one writes, and the others wait until it has: all call the same methods.
    """

    def __init__(self, state: TrainState, run: RunDir, recipe: dict[str, Any], options: FitOptions) -> None:
        self.state, self.run, self.recipe, self.options = state, run, recipe, options
        self.good = state.bad_steps == 0  # of last.pt
        self.saved, self.batch = time.monotonic(), state.batch

    def start(self) -> None:
        """The start is a checkpoint too: a run may be cut off, or go back, before the first one is due."""
        if self.options.world.broadcast(not self.run.last.is_file()):
            self.write()

    def due(self) -> bool:
        """Whether ``save_steps`` batches or ``save_minutes`` have passed."""
        steps, minutes = self.options.save_steps, self.options.save_minutes
        if steps and self.state.batch // steps > min(self.batch, self.state.batch) // steps:
            return True
        return bool(minutes) and time.monotonic() - self.saved >= 60 * minutes

    def in_epoch(self) -> None:
        """Write last.pt in the middle of an epoch, unless the last step was bad."""
        if self.state.bad_steps == 0:
            self.write()

    def write(self, metrics: dict[str, Any] | None = None, best: bool = False) -> None:
        """Write last.pt, and best.pt before it.

        Raises:
            NotFinite: a weight or average is not finite; nothing is written.
        """
        world = self.options.world
        refuse_ruins(self.state)
        generators = world.gather(generators_now(self.state.device))
        if world.is_main:
            self._write(generators, metrics, best)
        world.barrier()
        self.good = self.state.bad_steps == 0
        self.saved, self.batch = time.monotonic(), self.state.batch

    def _write(self, generators: list[dict[str, Any]], metrics: dict[str, Any] | None, best: bool) -> None:
        state = self.state
        average = None if state.average is None else state.average.weights
        if best:  # without optimizer state: a result, not a place to go on from
            save_checkpoint(self.run.best, state.model, recipe=self.recipe, ema=average, metrics=metrics)
        save_checkpoint(
            self.run.last,
            state.model,
            recipe=self.recipe,
            ema=average,
            training=state.state_dict(generators),
            metrics=metrics or (state.rows[-1] if state.rows else {}),
            previous=self.run.previous if self.good else None,
        )
