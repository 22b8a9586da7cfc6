"""``val``: one model over one split."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from iifdet import build
from iifdet.config import ValConfig, WeightKeys
from iifdet.distributed import World
from iifdet.errors import InputError, some
from iifdet.evaluation.fixed import save_fixed
from iifdet.running.folder import open_run, validation_folder
from iifdet.running.results import RunResult
from iifdet.running.watching import Validation

if TYPE_CHECKING:
    import torch

log = logging.getLogger("iifdet")


def run_val(cfg: ValConfig, task: str, device: torch.device, world: World, model: Any = None) -> RunResult:
    """Evaluate a model, or that of ``weights``, on one split."""
    with world.one_a_machine_first():
        index = build.build_index(cfg, cfg.split, task)
    model = model or build.load_finished(cfg.weights, cfg, cfg.trusted, index.names)
    _check_names(model, index)
    build.settle_options(model, cfg)
    build.check_exported(model, cfg)
    if model.counts is None:
        model.counts = build.training_counts(cfg, task)
    if cfg.adjust is not None:
        build.set_adjustment(model, cfg, cfg.adjust, strategy="post_process")
    batches = build.build_val_batches(cfg, cfg, index, task, world=world)
    evaluator = build.build_evaluator(cfg, index, task, model.wants_masks, model.class_activation)
    run, lock = open_run(world, lambda: validation_folder(cfg))
    with lock, build.ending_workers(batches):
        watcher = Validation(cfg, run, model.to(device).eval(), task, batches, evaluator, device, world)
        watcher(model)
        run.write_yaml("args.yaml", cfg.model_dump(mode="json"))  # not before: a failure leaves no folder behind
        run.write_environment()
        split = build.split_name(cfg, cfg.split, task)
        metrics = watcher.leave(split)
        if world.is_main:
            save_fixed(run.path, evaluator.unlimited() if cfg.fixed_ap else None)
    log.info("results on %s in %s", split, run.path)
    return RunResult(run.path, metrics, watcher.summary)


def _check_names(model: Any, index: Any) -> None:
    if list(model.names) != list(index.names):
        raise InputError(
            f"data: expected the checkpoint's {len(model.names)} classes ({some(model.names)}), "
            f"got {len(index.names)} ({some(index.names)}); evaluate on the data it was trained for"
        )


def keys_of_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a file's recipe says about how to look at images and how to choose detections."""
    look = ("imgsz", "resize", "rect", "data", *WeightKeys.model_fields)
    select = ("classes", "single_cls")  # not 'fraction': it is about training, and val split=train looks at all of it
    choose = ("conf", "iou", "max_det", "nms", "multi_label", "mask_threshold", "group_limits")
    keep = (*look, *select, *choose)
    batch = {"batch": recipe["val_batch"]} if recipe.get("val_batch") else {}
    return {k: v for k, v in recipe.items() if k in keep} | batch
