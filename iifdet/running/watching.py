"""Validation as a run needs it: whenever the loop asks, and once more for what the run leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iifdet.config import TrainConfig, ValConfig
from iifdet.distributed import World
from iifdet.rundir import RunDir
from iifdet.running.results import FOUND_PICTURE, LABELS_PICTURE, write_results
from iifdet.training import AMP_TYPES, averaged
from iifdet.types import Batch
from iifdet.validation import run_validation


class Validation:
    """Validates whenever the loop asks, and keeps the last result for what the run leaves behind.

    Of several processes the main one scores and draws; the others are told the figures.
    """

    def __init__(
        self,
        cfg: TrainConfig | ValConfig,
        run: RunDir,
        model: Any,
        task: str,
        batches: Any,
        evaluator: Any,
        device: Any,
        world: World,
    ) -> None:
        self.world = world
        self.cfg, self.run, self.model, self.task = cfg, run, model, task
        self.batches, self.evaluator, self.device = batches, evaluator, device
        self.shown: Any = None
        self.metrics: dict[str, Any] = {}
        self.summary: dict[str, float | None] = {}
        self.result: Any = None

    def __call__(self, model: Any, before_batch: Callable[[], None] = lambda: None) -> tuple[dict[str, Any], float]:
        self.shown = self._choose_shown()
        self.result = run_validation(
            model,
            self.batches,
            self.evaluator,
            self.device,
            AMP_TYPES[self.cfg.amp],
            None if self.shown is None else self.shown.add,
            self.world,
            before_batch,
        )
        scored = self.world.broadcast(self._score(model) if self.world.is_main else ({}, {}, 0.0))
        self.metrics, self.summary, fitness = scored
        return self.summary, fitness

    def _score(self, model: Any) -> tuple[dict[str, Any], dict[str, float | None], float]:
        metrics = self.result.metrics(model.counts, groups=self.cfg.group_limits, weights=model.told_weights)
        metrics["class_activation"] = model.class_activation
        return metrics, self.evaluator.summary(metrics), self.evaluator.fitness(self.result)

    def _choose_shown(self) -> Any:
        """What chooses the images to draw, where any are drawn."""
        if not (self.cfg.plots and self.world.is_main):
            return None
        from iifdet import pictures

        return pictures.PICTURES[self.task].choose(self.model)

    def leave(self, split: str, state: Any = None, chosen_on: str = "val") -> dict[str, Any]:
        """Write metrics.json, per_class.csv, predictions.json and the pictures of the last validation.

        Args:
            split: that the figures are of.
            chosen_on: split that the best epoch was chosen on.
        """
        if not self.metrics:  # a run that was resumed when nothing was left to do but this
            with averaged(state) as model:
                self(model)
        self.metrics["split"] = split
        if state is not None:
            self.metrics["epochs"] = state.epoch
            best = state.best if math.isfinite(state.best) else None  # a callback may end a run before any validation
            self.metrics["best"] = {"epoch": state.best_epoch, "fitness": best, "chosen_on": chosen_on}
        if self.world.is_main:
            self._write()
        return self.metrics

    def _write(self) -> None:
        write_results(self.run, self.metrics, self.evaluator)
        if self.cfg.plots:
            self._draw()

    def _draw(self) -> None:
        from iifdet import pictures

        folder, names = self.run.path, self.model.names
        draw = pictures.PICTURES[self.task]
        pictures.quietly(draw.result, folder, self.result, self.evaluator, self.model.counts, self.metrics)
        pictures.quietly(draw.model, folder, self.model)
        shown = None if self.shown is None else self.shown.shown()
        if shown is not None:
            batch, outputs = shown
            pictures.quietly(self._draw_labels, draw.batch, batch, folder / LABELS_PICTURE)
            pictures.quietly(draw.batch, batch, names, folder / FOUND_PICTURE, outputs)

    def _draw_labels(self, draw: Any, batch: Batch, path: Path) -> None:
        """Masks are read again for this one picture: no batch brings them for nothing."""
        if getattr(self.evaluator, "masks", False):
            batch = self.batches.dataset.with_masks(batch)
        draw(batch, self.model.names, path)
