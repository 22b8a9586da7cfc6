"""What a training run says and draws before its first step, and who watches it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from iifdet import build
from iifdet.config import TrainConfig
from iifdet.curriculum import CumulativeShare, DeferredWeights, Generating
from iifdet.distributed import World
from iifdet.errors import counted, some
from iifdet.longtail import CLASS_STATISTICS, ClassCounts, spell_choice
from iifdet.longtail.activations import GUMBEL_RANGE
from iifdet.longtail.rivals import FEDERATED_CLASSES
from iifdet.online import OnlineIIF
from iifdet.rundir import RunDir
from iifdet.training import Callback

log = logging.getLogger("iifdet")

#: Share of the epochs before a generator makes anything, where ``defer`` says nothing.
GENERATING = 0.8


def announce(cfg: TrainConfig, run: RunDir, index: Any, model: Any, task: str) -> None:
    size = sum(p.numel() for p in model.parameters()) / 1e6
    counts = model.counts
    log.info("%s: %s with %.2f M parameters, %s", run.path, cfg.model, size, _how(cfg, model))
    _warn_of_rivals(cfg, model)
    imbalance = f"imbalance {counts.imbalance('image'):.0f} by image"
    if task == "detect":  # an image of a classifier shows one object
        imbalance += f", {counts.imbalance('instance'):.0f} by instance"
    classes = counted(len(index.names), "class", "classes")
    log.info("%s, %s, %s", build.describe_index(index, task), classes, imbalance)
    absent = [name for name, images in zip(counts.names, counts.images.tolist(), strict=True) if not images]
    if absent:
        have = f"{counted(len(absent), 'class', 'classes')} {'has' if len(absent) == 1 else 'have'}"
        log.warning("%s no training image and cannot be learnt: %s", have, some(absent, 5))


def _how(cfg: TrainConfig, model: Any) -> str:
    """What treats classes differently."""
    how = "no adjustment" if model.adjust.is_identity else str(model.adjust)
    learned = build.LEARNED.get(cfg.adjust)
    if learned:
        how = learned.says
    costs = build.loss_weights(cfg, model.counts)  # the model's own may not act yet
    if costs is not None:
        how = f"{how}, " if learned else ""
        how += f"loss weighed by {float(costs.min()):.3g}…{float(costs.max()):.3g}"
        how += f" after {100 * cfg.defer:.0f} % of the epochs" if cfg.defer else ""
    said = model.class_loss_options or model.class_loss in CLASS_STATISTICS
    return f"{how}, class_loss={spell_choice(model.class_loss_choice)}" if said else how


def _warn_of_rivals(cfg: TrainConfig, model: Any) -> None:
    """Pairs that train, but are not what one may take them for."""
    if model.class_loss in CLASS_STATISTICS and not model.adjust.is_identity:
        log.warning(
            "class_loss: %s acts on logits that adjust=%s has changed; as a rival of IIF it wants adjust=none",
            model.class_loss,
            cfg.adjust,
        )
    if model.class_loss == "gumbel" and not model.adjust.is_identity and model.adjust.acts_in("train"):
        log.warning(
            "class_loss: gumbel has no gradient where an adjusted logit is below %g, and adjust=%s takes those of rare "
            "classes there; train with adjust=none, and adjust afterwards",
            GUMBEL_RANGE[0],
            cfg.adjust,
        )
    if getattr(model, "follows_nothing", False):
        log.warning(
            "model_args.head: causal follows features while they are trained, and these are finished: inference will "
            "take nothing away; train the network with it"
        )
    if cfg.model_args.get("augment_features") and not cfg.holdout:
        log.info(
            "model_args.augment_features: chances of being drawn stay as they begin; with holdout=0.02 they follow the "
            "losses of images that are held out"
        )
    wanted = model.class_loss_options.get("classes", FEDERATED_CLASSES)
    if model.class_loss == "federated" and model.num_classes <= wanted:
        log.warning(
            "class_loss: federated counts %d classes at least, so all %d do, as under bce",
            wanted,
            model.num_classes,
        )


def draw_training_data(cfg: TrainConfig, run: RunDir, index: Any, counts: ClassCounts, batches: Any, task: str) -> None:
    from iifdet import pictures, plots

    weights = build.class_weights(cfg, counts) if cfg.adjust == "iif" else build.loss_weights(cfg, counts)
    called = {"cb": "class-balanced", "disalign": "generalised"}.get(cfg.adjust, cfg.variant)
    pictures.quietly(plots.plot_labels, counts, weights, run.path / "labels.png", called)
    first = next(batches.epoch(0))
    pictures.quietly(pictures.PICTURES[task].batch, first, index.names, run.path / "train_batch0.jpg")


def _late(cfg: TrainConfig, share: float) -> int:
    """The epoch that so much of the run lies before; the last one at the latest."""
    return min(round(share * cfg.epochs), cfg.epochs - 1)


def watchers(
    cfg: TrainConfig, run: RunDir, counts: ClassCounts, callbacks: Sequence[Callback], world: World
) -> list[Callback]:
    from rich.console import Console

    from iifdet.progress import ProgressReport, TensorBoardLog

    hooks = list(callbacks)
    if cfg.source == "batch":
        hooks.append(OnlineIIF(cfg.temperature))
    costs = build.loss_weights(cfg, counts)
    if cfg.defer and costs is not None:
        hooks.append(DeferredWeights(costs, first=_late(cfg, cfg.defer)))
    if cfg.model_args.get("generator"):
        hooks.append(Generating(_late(cfg, cfg.defer or GENERATING)))
    if cfg.model_args.get("augment_features"):
        hooks.append(Generating(min(1, cfg.epochs - 1)))
    if build.images_together(cfg) > 1:
        hooks.append(CumulativeShare(cfg.epochs))
    if cfg.verbose and world.is_main:
        hooks.append(ProgressReport(cfg.epochs, Console(stderr=True)))
    if cfg.tensorboard and world.is_main:
        hooks.append(TensorBoardLog(str(run.path)))
    return hooks
