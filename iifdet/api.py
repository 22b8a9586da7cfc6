"""The verbs as functions; the command line calls these. Each takes the keys of the command line as keywords."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iifdet import build, config, distributed
from iifdet.checkpoint import read_checkpoint
from iifdet.comparison import Comparison, Options, compare_runs, examine, write_report
from iifdet.config import (
    CheckConfig,
    StatsConfig,
    TrainConfig,
    ValConfig,
    WeightKeys,
    resolve,
    validate,
)
from iifdet.config.comparison import CompareConfig
from iifdet.config.explaining import CamConfig
from iifdet.config.exporting import ExportConfig
from iifdet.config.prediction import PredictConfig
from iifdet.distributed import World
from iifdet.errors import InputError
from iifdet.evaluation import EVALUATORS
from iifdet.explaining import CamResult
from iifdet.exporting import ExportResult
from iifdet.inspection import CheckReport, find_faults, read_splits
from iifdet.longtail import VARIANTS, ClassCounts, effective_imbalance, iif_weights
from iifdet.models import MODELS
from iifdet.online import OnlineIIF
from iifdet.prediction import PredictionSummary, Result
from iifdet.rundir import Onlooker, RunDir
from iifdet.training import AMP_TYPES, Callback, averaged, fit, processes_of
from iifdet.types import Batch
from iifdet.validation import run_validation

if TYPE_CHECKING:
    import torch

    from iifdet.detectors import Detector

log = logging.getLogger("iifdet")


@dataclass(frozen=True)
class RunResult:
    """What ``train`` and ``val`` return.

    Attributes:
        folder: the run folder.
        metrics: the content of metrics.json; fractions from 0 to 1.
        summary: the figures of it that fit on a line.
    """

    folder: Path
    metrics: dict[str, Any]
    summary: dict[str, float | None] = field(default_factory=dict)


def load(path: str | Path, trusted: bool = False) -> Detector:
    """Load a checkpoint or an exported file: a model in eval mode with ``.names`` and ``.counts``, on the CPU.

    Args:
        trusted: read a .pt2, from which PyTorch can run code; all other files hold values alone.
    """
    return build.load_model(path, trusted)


# -- train -------------------------------------------------------------------------------------------------------------


def train(callbacks: Sequence[Callback] = (), **keys: Any) -> RunResult:
    """Train a model, validate it each epoch, and leave a run folder behind.

    Raises:
        InputError: bad keys or bad data, before anything is written.
    """
    if keys.get("resume"):
        return _resume(str(keys["resume"]), {k: v for k, v in keys.items() if k != "resume"}, callbacks)
    cfg = resolve(TrainConfig, keys)
    device = build.pick_device(cfg.device, distributed.launched())
    with distributed.joined(device) as world:
        return _train(cfg, device, world, None, None, callbacks)


def _resume(where: str, keys: dict[str, Any], callbacks: Sequence[Callback]) -> RunResult:
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
        return RunResult(run.path, figures, _summary(content["model"], figures))
    cfg = validate(TrainConfig, {**content["recipe"], **keys})
    device = build.pick_device(cfg.device, distributed.launched())
    with distributed.joined(device) as world:
        _check_processes(content, world)
        return _train(cfg, device, world, content, run, callbacks, from_previous=last == run.previous)


def _check_processes(content: dict[str, Any], world: World) -> None:
    """Refuse to go on with another number of processes: their batches and generators would be others."""
    before = processes_of(content["training"])
    if before != world.size:
        how = f"torchrun --nproc-per-node={before} -m iifdet train resume=…" if before > 1 else "iifdet train resume=…"
        raise InputError(
            f"resume: expected {before} processes, as the run had when it was saved, got {world.size}; go on with {how}"
        )


def _summary(spec: dict[str, Any], metrics: dict[str, Any]) -> dict[str, float | None]:
    return EVALUATORS[MODELS[spec["name"]].task].summary(metrics)


def _train(
    cfg: TrainConfig,
    device: torch.device,
    world: World,
    content: dict[str, Any] | None,
    run: RunDir | None,
    callbacks: Sequence[Callback],
    from_previous: bool = False,
) -> RunResult:
    # 1. Everything that can be refused is refused before a folder is made.
    build.check_batch(cfg, world)
    with world.one_a_machine_first():
        index, val_index = build.build_index(cfg, "train"), build.build_index(cfg, "val")
    if index.names != val_index.names:
        raise InputError("data: expected the same class names in train and val, got different ones")
    if content is not None and content["names"] != index.names:
        raise InputError(f"data: expected the run's {len(content['names'])} classes, got others in {cfg.data}")
    if cfg.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("tensorboard: expected the package, got none; pip install iifdet[log]")
    _refuse_other_data(index, val_index, world)
    with world.one_a_machine_first():
        model, task = build.build_model(cfg, index, fill=content is None)
    model = build.synchronise_batch_norms(cfg, model.to(device), device, world)
    state = build.build_state(cfg, model, device)
    cfg = build.settle_batch(cfg, state, device, world)
    if content is None:
        world.own_generators(cfg.seed)
    else:
        state.load_state_dict(content, world.rank)
    state.wrapped = world.wrap(model, device, cfg.accumulate)
    batches = build.build_train_batches(cfg, index, device, task, model.wants_masks, world)
    val_batches = build.build_val_batches(cfg, cfg, val_index, task, cfg.cache, world)
    evaluator = build.build_evaluator(cfg, val_index, task, model.wants_masks)
    # 2. The folder.
    run, lock = _open(world, lambda: run or RunDir.create("train", cfg.project, cfg.name, cfg.exist_ok))
    with lock, build.ending_workers(batches, val_batches), build.deterministic(cfg.deterministic):
        run.sweep()
        if content is None:
            run.clear()  # of an earlier run under exist_ok
        if from_previous:  # it is the last one now, or the next save would push it out and keep a damaged file
            run.promote_previous()
        recipe = cfg.model_dump(mode="json")
        run.write_yaml("args.yaml", recipe)
        run.write_environment()
        _announce(cfg, run, index, model)
        if cfg.plots and world.is_main:
            _draw_training_data(cfg, run, index, model.counts, batches, task)
        # 3. The loop.
        watcher = _Validation(cfg, run, model, task, val_batches, evaluator, device, world)
        hooks = _callbacks(cfg, run, callbacks, world)
        try:
            fit(
                state,
                batches,
                build.build_schedule(cfg),
                build.fit_options(cfg, device, world),
                run,
                watcher,
                recipe,
                hooks,
            )
        finally:
            for hook in hooks:
                getattr(hook, "close", lambda: None)()
        # 4. What is left behind: figures of the last epoch, which last.pt holds.
        metrics = watcher.leave(state)
        if cfg.plots and world.is_main:
            from iifdet import pictures, plots

            pictures.quietly(plots.plot_results, state.rows, run.path / "results.png")
    log.info("results in %s", run.path)
    return RunResult(run.path, metrics, watcher.summary)


def _refuse_other_data(index: Any, val_index: Any, world: World) -> None:
    """Refuse machines with different data: each would train and count something else."""
    if world.size > 1 and len(set(world.share((index.digest(), val_index.digest())))) > 1:
        raise InputError("data: expected the same annotations on all machines, got different ones; copy them anew")


def _open(world: World, make: Callable[[], RunDir]) -> tuple[RunDir, AbstractContextManager[Any]]:
    """A run folder and the lock on it: held by the main process, which alone writes there; the others may read."""
    lock = ExitStack()

    def hold() -> Path:
        run = make()
        lock.enter_context(run.lock())
        return run.path

    path = world.on_main(hold)
    if not world.is_main and not path.is_dir():
        raise InputError(
            f"project: expected a folder that all machines see, got {path.absolute()}; choose a shared one"
        )
    return (RunDir if world.is_main else Onlooker)(path), lock


def _announce(cfg: TrainConfig, run: RunDir, index: Any, model: Any) -> None:
    size = sum(p.numel() for p in model.parameters()) / 1e6
    counts = model.counts
    log.info("%s: %s with %.2f M parameters, %s", run.path, cfg.model, size, model.adjust)
    log.info(
        "%d training images, %d boxes, %d classes, imbalance %.0f by image, %.0f by instance",
        len(index),
        len(index.labels),
        len(index.names),
        counts.imbalance("image"),
        counts.imbalance("instance"),
    )


def _draw_training_data(
    cfg: TrainConfig, run: RunDir, index: Any, counts: ClassCounts, batches: Any, task: str
) -> None:
    from iifdet import pictures, plots

    weights = build.class_weights(cfg, counts) if cfg.adjust == "iif" else None
    pictures.quietly(plots.plot_labels, counts, weights, run.path / "labels.png", cfg.variant)
    first = next(batches.epoch(0))
    pictures.quietly(pictures.PICTURES[task].batch, first, index.names, run.path / "train_batch0.jpg")


def _callbacks(cfg: TrainConfig, run: RunDir, callbacks: Sequence[Callback], world: World) -> list[Callback]:
    from rich.console import Console

    from iifdet.progress import ProgressReport, TensorBoardLog

    hooks = list(callbacks)
    if cfg.source == "batch":
        hooks.append(OnlineIIF())
    if cfg.verbose and world.is_main:
        hooks.append(ProgressReport(cfg.epochs, Console(stderr=True)))
    if cfg.tensorboard and world.is_main:
        hooks.append(TensorBoardLog(str(run.path)))
    return hooks


class _Validation:
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
        self.first: tuple[Any, Any] | None = None
        self.metrics: dict[str, Any] = {}
        self.summary: dict[str, float | None] = {}
        self.result: Any = None

    def __call__(self, model: Any) -> tuple[dict[str, Any], float]:
        self.first = None
        self.result = run_validation(
            model, self.batches, self.evaluator, self.device, AMP_TYPES[self.cfg.amp], self._keep_first, self.world
        )
        scored = self.world.broadcast(self._score(model) if self.world.is_main else ({}, {}, 0.0))
        self.metrics, self.summary, fitness = scored
        return self.summary, fitness

    def _score(self, model: Any) -> tuple[dict[str, Any], dict[str, float | None], float]:
        weights = (model.adjust.scale if model.class_weight is None else model.class_weight).double().cpu()
        metrics = self.result.metrics(model.counts, groups=self.cfg.group_limits, weights=weights)
        metrics["class_activation"] = model.class_activation
        return metrics, self.evaluator.summary(metrics), self.evaluator.fitness(self.result)

    def _keep_first(self, batch: Any, outputs: Any) -> None:
        if self.first is None and self.cfg.plots and self.world.is_main:
            from iifdet import pictures

            self.first = (batch, pictures.PICTURES[self.task].keep(outputs, self.model.options))

    def leave(self, state: Any = None) -> dict[str, Any]:
        """Write metrics.json, per_class.csv, predictions.json and the pictures of the last validation."""
        if not self.metrics:  # a run that was resumed when nothing was left to do but this
            with averaged(state) as model:
                self(model)
        if state is not None:
            self.metrics["epochs"] = state.epoch
            self.metrics["best"] = {"epoch": state.best_epoch, "fitness": state.best}
        if self.world.is_main:
            self._write()
        return self.metrics

    def _write(self) -> None:
        self.run.write_json("metrics.json", self.metrics)
        self.run.write_rows("per_class.csv", self.metrics["per_class"])
        self.run.write_json("predictions.json", self.evaluator.predictions(), indent=None)
        if self.cfg.plots:
            self._draw()

    def _draw(self) -> None:
        from iifdet import pictures

        folder, names = self.run.path, self.model.names
        draw = pictures.PICTURES[self.task]
        pictures.quietly(draw.result, folder, self.result, self.evaluator, self.model.counts, self.metrics)
        pictures.quietly(draw.model, folder, self.model)
        if self.first is not None:
            batch, outputs = self.first
            pictures.quietly(self._draw_labels, draw.batch, batch, folder / "val_batch0_labels.jpg")
            pictures.quietly(draw.batch, batch, names, folder / "val_batch0_pred.jpg", outputs)

    def _draw_labels(self, draw: Any, batch: Batch, path: Path) -> None:
        """Masks are read again for this one picture: no batch brings them for nothing."""
        if getattr(self.evaluator, "masks", False):
            batch = self.batches.dataset.with_masks(batch)
        draw(batch, self.model.names, path)


# -- val ---------------------------------------------------------------------------------------------------------------


def val(**keys: Any) -> RunResult:
    """Evaluate a checkpoint, or a whole file of Darknet's or torchvision's; ``adjust=iif`` adds post-process IIF."""
    if not keys.get("weights") and str(keys.get("model", "")).endswith(".pt"):
        keys = {**keys, "weights": keys["model"], "model": None}
    if not keys.get("weights"):
        raise InputError("weights: expected a checkpoint, got none; give weights=runs/train/<name>/weights/last.pt")
    cfg = resolve(ValConfig, {**_of_recipe(build.read_recipe(keys["weights"])), **keys})
    device = build.pick_device(cfg.device, distributed.launched())
    with distributed.joined(device) as world:
        return _val(cfg, device, world)


def _val(cfg: ValConfig, device: torch.device, world: World) -> RunResult:
    with world.one_a_machine_first():
        index = build.build_index(cfg, cfg.split)
    model = _model_for_val(cfg, index)
    model.options = build.postprocess_options(cfg, model.options)
    build.check_exported(model, cfg)
    if model.counts is None:
        model.counts = build.training_counts(cfg)
    if cfg.adjust is not None:
        if cfg.adjust != "none" and model.counts is None:
            raise InputError("adjust: expected training counts in the checkpoint or in data's train split, got none")
        build.set_adjustment(model, cfg, cfg.adjust, model.counts, strategy="post_process")
    task = "detect" if not model.spec else MODELS[model.spec["name"]].task
    batches = build.build_val_batches(cfg, cfg, index, task, world=world)
    evaluator = build.build_evaluator(cfg, index, task, model.wants_masks)
    run, lock = _open(world, lambda: RunDir.create("val", cfg.project, cfg.name, cfg.exist_ok))
    with lock, build.ending_workers(batches):
        run.write_yaml("args.yaml", cfg.model_dump(mode="json"))
        run.write_environment()
        watcher = _Validation(cfg, run, model.to(device).eval(), task, batches, evaluator, device, world)
        watcher(model)
        metrics = watcher.leave()
    log.info("results in %s", run.path)
    return RunResult(run.path, metrics, watcher.summary)


def _of_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says about how to look at images and how to choose detections."""
    look = ("imgsz", "resize", "rect", "data", *WeightKeys.model_fields)
    select = ("classes", "single_cls")  # not 'fraction': it is about training, and val split=train looks at all of it
    choose = ("conf", "iou", "max_det", "nms", "multi_label", "mask_threshold", "group_limits")
    keep = (*look, *select, *choose)
    batch = {"batch": recipe["val_batch"]} if recipe.get("val_batch") else {}
    return {k: v for k, v in recipe.items() if k in keep} | batch


def _model_for_val(cfg: ValConfig, index: Any) -> Any:
    assert cfg.weights is not None
    if build.is_foreign(cfg.weights):
        if cfg.model is None:
            raise InputError(
                f"model: expected the architecture of {cfg.weights}, got none; give model=<{'|'.join(MODELS)}>"
            )
        return build.load_foreign_model(cfg.model, cfg.weights, index.names, cfg.model_args)
    model = build.load_model(cfg.weights, cfg.trusted)
    if list(model.names) != list(index.names):
        raise InputError(
            f"data: expected the checkpoint's {len(model.names)} classes ({', '.join(model.names[:3])}, …), "
            f"got {len(index.names)} ({', '.join(index.names[:3])}, …); evaluate on the data it was trained for"
        )
    return model


# -- predict -----------------------------------------------------------------------------------------------------------


def predict(
    source: Any = None, *, model: Detector | str | None = None, stream: bool = False, **keys: Any
) -> list[Result] | Iterator[Result]:
    """Detect in pictures of any origin; the keys of ``iifdet predict``, but no file is written unless asked for.

    Args:
        source: a file, folder, glob, .txt list, video, camera number or URL; a numpy array (H, W, 3) in RGB (what cv2
            reads is BGR), a tensor (3, H, W) or (B, 3, H, W), a PIL image; or a list of these.
        model: a loaded detector, which stays as it is, instead of ``weights``; or the architecture beside foreign ones.
        stream: give results one by one as they are found, with their pixels, in the memory of one batch.
        **keys: ``save``, ``save_json``, ``save_txt`` and ``save_csv`` are off here; each makes a run folder.

    Raises:
        InputError: bad keys, weights or source; nothing could be read. Single bad files are logged and left out.
    """
    job = _prediction({"save": False, "save_json": False, **keys}, source, model)
    return job.stream() if stream else job.collect()


def predict_to_folder(**keys: Any) -> PredictionSummary:
    """``iifdet predict``: results go into files, and none of them is kept."""
    return _prediction(keys, keys.pop("source", None), keys.pop("model", None)).run()


def _prediction(keys: dict[str, Any], source: Any, model: Any) -> Any:
    if model is None or not isinstance(model, str | Path):
        return build.build_prediction(keys, source, model)
    is_weights = str(model).endswith(".pt") and not keys.get("weights")
    return build.build_prediction({**keys, "weights" if is_weights else "model": str(model)}, source)


# -- cam ---------------------------------------------------------------------------------------------------------------


def cam(**keys: Any) -> CamResult:
    """What one score of each image rests on: a sheet (PNG) and the maps (npz) an image, a column or row a model.

    Raises:
        InputError: bad keys, weights, data or source, before anything is written; or no image can be read.
    """
    cfg, job = build.build_cam(keys)
    run = RunDir.create("cam", cfg.project, cfg.name, cfg.exist_ok)
    with run.lock():
        run.write_yaml("args.yaml", cfg.model_dump(mode="json"))
        return job.run(run.path)


# -- export ------------------------------------------------------------------------------------------------------------


def export(model: Detector | None = None, **keys: Any) -> ExportResult:
    """A graph that runs without this package: ONNX, or a program of torch.export; :func:`predict` runs it as well.

    Args:
        model: a loaded detector, which stays as it is, instead of ``weights``.
        **keys: those of ``iifdet export``.

    Raises:
        InputError: bad keys or weights, a model that cannot be exported, a package that is missing.
    """
    return build.build_export(keys, model).run()


# -- stats, check, compare ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stats:
    """What ``stats`` found.

    Attributes:
        counts: class counts of the split.
        weights: variant -> (C,) weights; variants that are undefined on these counts are missing.
        undefined: variant -> why.
        folder: where the pictures and tables are.
    """

    counts: ClassCounts
    weights: dict[str, Any]
    undefined: dict[str, str]
    folder: Path

    def table(self) -> list[dict[str, Any]]:
        """One row a class, most images first."""
        counts = self.counts
        order = counts.images.argsort(descending=True, stable=True).tolist()
        return [
            {
                "class": c,
                "name": counts.names[c],
                "images": int(counts.images[c]),
                "instances": int(counts.instances[c]),
                **{variant: round(float(w[c]), 4) for variant, w in self.weights.items()},
            }
            for c in order
        ]


def stats(**keys: Any) -> Stats:
    """Counts, imbalance and the weight curves of all variants (the paper's Figure 2)."""
    from iifdet import plots

    cfg = resolve(StatsConfig, keys)
    counts = build.build_index(cfg, cfg.split).counts()
    weights, undefined = {}, {}
    for variant in VARIANTS:
        try:
            weights[variant] = iif_weights(counts, variant, cfg.by, cfg.normalizer, cfg.on_nonpositive)
        except ValueError as error:
            undefined[variant] = str(error)
    run = RunDir.create("stats", cfg.project, cfg.name, cfg.exist_ok)
    found = Stats(counts, weights, undefined, run.path)
    run.write_rows("classes.csv", found.table())
    run.write_json(
        "stats.json",
        {
            "images": counts.num_images,
            "classes": len(counts),
            "instances": int(counts.instances.sum()),
            "imbalance": {by: _finite(counts.imbalance(by)) for by in ("image", "instance")},
            "weight_ratio": {variant: _finite(effective_imbalance(w)) for variant, w in weights.items()},
            "undefined": undefined,
        },
    )
    if cfg.plots:
        plots.plot_labels(counts, weights.get(cfg.variant), run.path / "labels.png", cfg.variant)
        plots.plot_weight_curves(counts, run.path / "weights.png", weights, cfg.by)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check(**keys: Any) -> CheckReport:
    """Look for everything wrong in a data set; nothing of it is changed.

    The report lists errors (they break training or falsify the evaluation), warnings and notices; it is in the run
    folder too, as problems.json and problems.csv. The command line exits with 2 when there is an error.

    Raises:
        InputError: bad keys, or data of which nothing can be read.
    """
    from iifdet.progress import counting

    cfg = resolve(CheckConfig, keys)
    splits = read_splits(cfg.data, cfg.split, allow_outside=cfg.allow_outside)
    run = RunDir.create("check", cfg.project, cfg.name, cfg.exist_ok)
    with counting("images", len({file for split in splits for file in split.index.files})) as seen:
        findings = find_faults(splits, decode=cfg.decode, max_bad=cfg.max_bad, seen=seen)
    report = CheckReport.of(splits, findings, run.path, data=cfg.data, decode=cfg.decode)
    report.write()
    return report


def compare(runs: Sequence[str | Path] = (), **keys: Any) -> Comparison:
    """Runs beside each other, each with its difference to the first.

    AP, tails and groups come from their metrics.json. Where their predictions and the data are at hand there are
    bootstrap intervals, McNemar's test, TIDE errors, Fixed AP and calibration too; ``project``, ``name`` or ``save``
    write all of it down, with pictures and an HTML page.

    Raises:
        InputError: bad keys, a folder without metrics.json, or runs on different data.
    """
    cfg = resolve(CompareConfig, {"runs": [str(r) for r in runs], **keys})
    found = compare_runs(cfg.runs, by=cfg.by)
    options = Options(cfg.draws, cfg.level, cfg.seed, cfg.conf, cfg.iou, cfg.by)
    found = examine(found, cfg.runs, lambda settings: build.evaluated_index(settings, cfg.data), options)
    if not (cfg.save or cfg.project or cfg.name):
        return found
    run = RunDir.create("compare", cfg.project, cfg.name, cfg.exist_ok)
    norms = build.classifier_norms([Path(folder) for folder in cfg.runs]) if cfg.plots else []
    return write_report(found, run, norms, plots=cfg.plots)


VERBS = {
    "train": train,
    "val": val,
    "predict": predict_to_folder,
    "cam": cam,
    "export": export,
    "stats": stats,
    "check": check,
    "compare": compare,
}
CONFIGS: dict[str, type[Any]] = {
    "train": config.TrainConfig,
    "val": config.ValConfig,
    "predict": PredictConfig,
    "cam": CamConfig,
    "export": ExportConfig,
    "stats": config.StatsConfig,
    "check": config.CheckConfig,
    "compare": CompareConfig,
}
