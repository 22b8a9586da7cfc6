"""What a training run says and draws before its first step, and who watches it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from iifdet import build
from iifdet.config import TrainConfig
from iifdet.distributed import World
from iifdet.errors import counted, some
from iifdet.longtail import ClassCounts
from iifdet.online import OnlineIIF
from iifdet.rundir import RunDir
from iifdet.training import Callback

log = logging.getLogger("iifdet")


def announce(cfg: TrainConfig, run: RunDir, index: Any, model: Any, task: str) -> None:
    size = sum(p.numel() for p in model.parameters()) / 1e6
    counts = model.counts
    how = "no adjustment" if cfg.adjust == "none" else model.adjust
    log.info("%s: %s with %.2f M parameters, %s", run.path, cfg.model, size, how)
    imbalance = f"imbalance {counts.imbalance('image'):.0f} by image"
    if task == "detect":  # an image of a classifier shows one object
        imbalance += f", {counts.imbalance('instance'):.0f} by instance"
    classes = counted(len(index.names), "class", "classes")
    log.info("%s, %s, %s", build.describe_index(index, task), classes, imbalance)
    absent = [name for name, images in zip(counts.names, counts.images.tolist(), strict=True) if not images]
    if absent:
        have = f"{counted(len(absent), 'class', 'classes')} {'has' if len(absent) == 1 else 'have'}"
        log.warning("%s no training image and cannot be learnt: %s", have, some(absent, 5))


def draw_training_data(cfg: TrainConfig, run: RunDir, index: Any, counts: ClassCounts, batches: Any, task: str) -> None:
    from iifdet import pictures, plots

    weights = build.class_weights(cfg, counts) if cfg.adjust == "iif" else None
    pictures.quietly(plots.plot_labels, counts, weights, run.path / "labels.png", cfg.variant)
    first = next(batches.epoch(0))
    pictures.quietly(pictures.PICTURES[task].batch, first, index.names, run.path / "train_batch0.jpg")


def watchers(cfg: TrainConfig, run: RunDir, callbacks: Sequence[Callback], world: World) -> list[Callback]:
    from rich.console import Console

    from iifdet.progress import ProgressReport, TensorBoardLog

    hooks = list(callbacks)
    if cfg.source == "batch":
        hooks.append(OnlineIIF(cfg.temperature))
    if cfg.verbose and world.is_main:
        hooks.append(ProgressReport(cfg.epochs, Console(stderr=True)))
    if cfg.tensorboard and world.is_main:
        hooks.append(TensorBoardLog(str(run.path)))
    return hooks
