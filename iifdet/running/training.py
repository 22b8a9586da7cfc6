"""``train``: a run from its keys, or from where an interrupted one stopped."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iifdet import build, distributed
from iifdet.build.splits import Splits
from iifdet.checkpoint import read_checkpoint, restore_loss
from iifdet.config import TrainConfig, validate
from iifdet.curriculum import AdaptedChances, Centroids
from iifdet.distributed import World
from iifdet.errors import InputError, counted, some
from iifdet.evaluation import EVALUATORS
from iifdet.models import MODELS
from iifdet.rundir import RunDir
from iifdet.running.beginning import announce, draw_training_data, watchers
from iifdet.running.folder import open_run
from iifdet.running.results import RunResult
from iifdet.running.watching import Validation
from iifdet.training import Callback, TrainState, fit, processes_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger("iifdet")


@dataclass(frozen=True)
class _Training:
    """What a run is made of, before it has a folder.

    Attributes:
        cfg: the keys, ``batch=auto`` settled.
        recipe: the same as plain values, for args.yaml and checkpoints.
        task, splits: of the data.
        model, state: on the device.
        batches: of the training split.
        seen: batches and evaluator of each split that is validated: the one that chooses, and the one at the end.
        look: what the model wants to know of images before an epoch.
    """

    cfg: TrainConfig
    recipe: dict[str, Any]
    task: str
    splits: Splits
    model: Any
    state: TrainState
    batches: Any
    seen: list[tuple[Any, Any]]
    look: Centroids | AdaptedChances | None = None


def run_training(
    cfg: TrainConfig,
    device: torch.device,
    world: World,
    content: dict[str, Any] | None,
    run: RunDir | None,
    callbacks: Sequence[Callback],
    from_previous: bool = False,
) -> RunResult:
    """Train from the start, or go on.

    Args:
        content: of the checkpoint to go on from.
        run: the folder to go on in.
        from_previous: the content is that of last.prev.pt.

    Raises:
        InputError: bad keys or data, before a folder is made.
    """
    with build.deterministic(cfg):
        made = _prepare(cfg, device, world, content)
        run, lock = open_run(world, lambda: run or RunDir.create("train", cfg.project, cfg.name, cfg.exist_ok))
        loaders = (made.batches, made.look and made.look.batches, *(loader for loader, _ in made.seen))
        with lock, build.ending_workers(*loaders), build.fastest_algorithms(made.cfg, made.model):
            _begin(made, run, world, fresh=content is None, from_previous=from_previous)
            return _carry_out(made, run, device, world, callbacks)


def _carry_out(
    made: _Training, run: RunDir, device: torch.device, world: World, callbacks: Sequence[Callback]
) -> RunResult:
    """The epochs, then what is left behind in the folder."""
    cfg, splits = made.cfg, made.splits
    watcher, *finally_ = (Validation(cfg, run, made.model, made.task, *each, device, world) for each in made.seen)
    hooks = watchers(cfg, run, made.model.counts, callbacks, world)
    if made.look is not None:
        hooks.insert(0, made.look)
    _fit(made, run, watcher, hooks, device, world)
    # The figures left behind are those of the last epoch, which last.pt holds.
    reporter = finally_[0] if finally_ else watcher
    metrics = reporter.leave(splits.reported, made.state, splits.chosen_on)
    if cfg.plots and world.is_main:
        from iifdet import pictures, plots

        pictures.quietly(plots.plot_results, made.state.rows, run.path / "results.png", splits.watched)
    _warn_of_inverted(made)
    log.info("results on %s in %s", splits.reported, run.path)
    return RunResult(run.path, metrics, reporter.summary)


def _warn_of_inverted(made: _Training) -> None:
    """Nothing keeps learned weights above zero."""
    learned, average = build.LEARNED.get(made.cfg.adjust), made.state.average
    if learned is None:
        return
    weights = made.model.state_dict() if average is None else average.weights
    inverted = (weights[learned.weights] + learned.offset <= 0).nonzero().flatten().tolist()
    if inverted:
        log.warning(
            "adjust: %s has learned weights of zero or less, which invert logits, for %s: %s; try a smaller lr",
            made.cfg.adjust,
            counted(len(inverted), "class", "classes"),
            some([made.model.names[c] for c in inverted], 5),
        )


def _prepare(cfg: TrainConfig, device: torch.device, world: World, content: dict[str, Any] | None) -> _Training:
    """Make everything; what can be refused is refused here."""
    build.check_batch(cfg, world)
    task = build.task_of_model(cfg.model)
    with world.one_a_machine_first():
        splits = build.build_splits(cfg, task)
    _check_data(cfg, splits, content, world)
    with world.one_a_machine_first():
        model = build.build_model(cfg, splits.train, content is None, splits.counts)
    if content is not None:
        restore_loss(model, content)
    model = build.placed(cfg, model, device)
    state = build.build_state(cfg, model, device)
    cfg = build.settle_batch(cfg, state, device, world)  # before batch norms wait for those of other processes
    state.model = model = build.synchronise_batch_norms(cfg, model, device, world)
    if content is None:
        world.own_generators(cfg.seed)
    else:
        state.load_state_dict(content, world.rank)
    state.wrapped = build.compiled(cfg, world.wrap(model, cfg.accumulate))
    batches = build.build_train_batches(cfg, splits.train, device, task, model.wants_masks, world)
    build.prepare_synthesis(cfg, model, batches, device, world)
    seen = [
        (
            build.build_val_batches(cfg, cfg, part, task, cfg.cache, world, device),
            build.build_evaluator(cfg, part, task, model.wants_masks, model.class_activation),
        )
        for part in (splits.val, splits.final)
        if part is not None
    ]
    look = build.look_before_epochs(cfg, model, splits, device, world)
    return _Training(cfg, cfg.model_dump(mode="json"), task, splits, model, state, batches, seen, look)


def _check_data(cfg: TrainConfig, splits: Splits, content: dict[str, Any] | None, world: World) -> None:
    names = splits.train.names
    if any(part is not None and part.names != names for part in (splits.val, splits.final)):
        raise InputError("data: expected the same class names in train and val, got different ones")
    if content is not None and content["names"] != names:
        raise InputError(f"data: expected the run's {len(content['names'])} classes, got others in {cfg.data}")
    if cfg.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("tensorboard: expected the package, got none; pip install iifdet[log]")
    _refuse_other_data(splits.train, splits.val, world)


def _begin(made: _Training, run: RunDir, world: World, fresh: bool, from_previous: bool) -> None:
    """Tidy the folder and write what is known before the first step."""
    run.sweep()
    if fresh:
        run.clear()  # of an earlier run under exist_ok
    if from_previous:  # it is the last one now, or the next save would push it out and keep a damaged file
        run.promote_previous()
    cfg, index = made.cfg, made.splits.train
    run.write_yaml("args.yaml", made.recipe)
    run.write_environment()
    announce(cfg, run, index, made.model, made.task)
    if cfg.plots and world.is_main:
        draw_training_data(cfg, run, index, made.model.counts, made.batches, made.task)


def _fit(
    made: _Training, run: RunDir, watcher: Validation, hooks: list[Callback], device: torch.device, world: World
) -> None:
    cfg = made.cfg
    try:
        fit(
            made.state,
            made.batches,
            build.build_schedule(cfg),
            build.fit_options(cfg, device, world),
            run,
            watcher,
            made.recipe,
            hooks,
            build.build_step(cfg, device),
        )
    finally:
        for hook in hooks:
            getattr(hook, "close", lambda: None)()


def _refuse_other_data(index: Any, val_index: Any, world: World) -> None:
    """Refuse machines with different data: each would train and count something else."""
    if world.size > 1 and len(set(world.share((index.digest(), val_index.digest())))) > 1:
        raise InputError("data: expected the same annotations on all machines, got different ones; copy them anew")


def resume_run(where: str, keys: dict[str, Any], callbacks: Sequence[Callback]) -> RunResult:
    """Go on with a run from its last.pt, with the keys it was started with."""
    path = Path(where)
    last = path / "weights" / "last.pt" if path.is_dir() else path
    content = read_checkpoint(last, "resume")
    if not content["training"]:
        raise InputError(f"resume: expected a run's last.pt, got {last}, which holds no optimizer state")
    changed = {k: v for k, v in keys.items() if content["recipe"].get(k) != v and k not in ("device", "workers")}
    if changed:
        raise InputError(f"resume: expected no other keys than device and workers, got {', '.join(changed)}")
    run = RunDir(last.parent.parent)
    metrics = run.path / "metrics.json"  # written last: without it there is still something to do
    if content["training"]["finished"] and metrics.is_file():
        log.info("%s is finished (%d epochs); nothing to do", run.path, content["training"]["epoch"])
        figures = json.loads(metrics.read_text())
        return RunResult(run.path, figures, summary_of(content["model"], figures))
    cfg = validate(TrainConfig, {**content["recipe"], **keys})
    device = build.pick_device(cfg.device, distributed.launched())
    with distributed.joined(device) as world:
        _check_processes(content, world)
        return run_training(cfg, device, world, content, run, callbacks, from_previous=last == run.previous)


def _check_processes(content: dict[str, Any], world: World) -> None:
    """Refuse to go on with another number of processes: their batches and generators would be others."""
    before = processes_of(content["training"])
    if before != world.size:
        how = f"torchrun --nproc-per-node={before} -m iifdet train resume=…" if before > 1 else "iifdet train resume=…"
        raise InputError(
            f"resume: expected {before} processes, as the run had when it was saved, got {world.size}; go on with {how}"
        )


def summary_of(spec: dict[str, Any], metrics: dict[str, Any]) -> dict[str, float | None]:
    return EVALUATORS[MODELS[spec["name"]].task].summary(metrics)
