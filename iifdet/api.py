"""The verbs as functions; the command line calls these. Each takes the keys of the command line as keywords."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from iifdet import build, distributed
from iifdet.comparison import Comparison, Options, compare_runs, examine, write_report
from iifdet.config import (
    CheckConfig,
    StatsConfig,
    TrainConfig,
    ValConfig,
    resolve,
)
from iifdet.config.comparison import CompareConfig
from iifdet.errors import InputError, brief
from iifdet.explaining import CamResult
from iifdet.exporting import ExportResult
from iifdet.inspection import CheckReport, find_faults, read_splits
from iifdet.longtail import VARIANTS, AdjustedModel, ClassCounts, effective_imbalance
from iifdet.prediction import PredictionSummary, Result
from iifdet.rundir import RunDir
from iifdet.running import RunResult, keys_of_recipe, resume_run, run_scoring, run_training, run_val
from iifdet.training import Callback

if TYPE_CHECKING:
    from iifdet.classifiers import Classifier
    from iifdet.detectors import Detector
    from iifdet.tuning import StudyResult

log = logging.getLogger("iifdet")


def load(path: str | Path, trusted: bool = False) -> Detector:
    """Load a checkpoint or an exported file: a model in eval mode with ``.names`` and ``.counts``, on the CPU.

    PyTorch's random numbers go on as if nothing had been built.

    Args:
        trusted: read a .pt2, from which PyTorch can run code; all other files hold values alone.
    """
    with torch.random.fork_rng(devices=[]):
        return build.load_model(path, trusted)


# -- train -------------------------------------------------------------------------------------------------------------


def train(callbacks: Sequence[Callback] = (), **keys: Any) -> RunResult:
    """Train a model, validate it each epoch, and leave a run folder behind.

    PyTorch's random numbers are seeded with the key ``seed`` and go on from there when it is done.

    Args:
        callbacks: :class:`iifdet.training.Callback` objects, whose methods are called on the way.
        **keys: those of ``iifdet train``.

    Raises:
        InputError: bad keys or bad data, before anything is written.
    """
    if isinstance(callbacks, str | Path) or not all(isinstance(hook, Callback) for hook in callbacks):
        raise InputError(
            f"callbacks: expected a list of iifdet.training.Callback objects, got {brief(callbacks)}; "
            "a model is named by model=, a data set by data="
        )
    if keys.get("resume"):
        return resume_run(str(keys["resume"]), {k: v for k, v in keys.items() if k != "resume"}, callbacks)
    cfg = resolve(TrainConfig, keys)
    device = build.pick_device(cfg.device, distributed.launched())
    with distributed.joined(device) as world:
        return run_training(cfg, device, world, None, None, callbacks)


# -- val ---------------------------------------------------------------------------------------------------------------


def val(*, model: Any = None, **keys: Any) -> RunResult:
    """Evaluate a checkpoint, or a whole file of Darknet's or torchvision's; ``adjust=iif`` adds post-process IIF.

    With ``predictions``, a file of COCO's results format, what another program detected is scored instead.

    Args:
        model: a loaded model, which stays as it is, instead of ``weights``; or the architecture beside foreign ones.
        **keys: those of ``iifdet val``.

    Raises:
        InputError: bad keys, weights or data.
    """
    if keys.get("predictions") is not None:
        return _score({**keys, **({} if model is None else {"model": model})})
    build.refuse_imported_keys(keys)
    if isinstance(model, AdjustedModel):
        return _val(model.recipe, build.task_of_loaded(model), keys, deepcopy(model))
    keys = keys if model is None else {**keys, "model": model}
    if not keys.get("weights") and str(keys.get("model", "")).endswith(".pt"):
        keys = {**keys, "weights": keys["model"], "model": None}
    if not keys.get("weights"):
        raise InputError(
            "weights: expected a checkpoint, got none; give weights=runs/train/<name>/weights/last.pt, "
            "or predictions=<file> of another program"
        )
    return _val(*build.read_about(keys["weights"]), keys)


def _score(keys: dict[str, Any]) -> RunResult:
    cfg = resolve(ValConfig, keys)
    build.refuse_model_keys({key: value for key, value in keys.items() if value is not None})
    if distributed.launched() is not None:
        raise InputError("predictions: expected one process, got several; scoring a file needs no torchrun")
    if build.task_of(cfg.data) != "detect":
        raise InputError(f"predictions: expected data with boxes, got {cfg.data}; a classifier wants weights=")
    return run_scoring(cfg)


def _val(recipe: dict[str, Any], task: str | None, keys: dict[str, Any], model: Any = None) -> RunResult:
    cfg = resolve(ValConfig, {**keys_of_recipe(recipe), **keys})
    task = task or build.task_of_model(cfg.model)
    build.refuse_keys_in_val(keys, task)
    build.refuse_idle_weight_keys(keys)
    device = build.pick_device(cfg.device, distributed.launched())
    with distributed.joined(device) as world:
        return run_val(cfg, task, device, world, model)


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
    return build.build_prediction(_named(keys, model), source)


def _named(keys: dict[str, Any], model: str | Path) -> dict[str, Any]:
    """``model`` as a key: a checkpoint, or the architecture beside ``weights``."""
    is_weights = str(model).endswith(".pt") and not keys.get("weights")
    return {**keys, "weights" if is_weights else "model": str(model)}


# -- cam ---------------------------------------------------------------------------------------------------------------


def cam(**keys: Any) -> CamResult:
    """What one score of each image rests on: a sheet (PNG) and the maps (npz) an image, a column or row a model.

    Raises:
        InputError: bad keys, weights, data or source, before anything is written; or no image can be read.
    """
    cfg, job = build.build_cam(keys)
    with ExitStack() as held:

        def make_folder() -> Path:
            run = RunDir.create("cam", cfg.project, cfg.name, cfg.exist_ok)
            held.enter_context(run.lock())
            run.write_yaml("args.yaml", cfg.model_dump(mode="json"))
            return run.path

        return job.run(make_folder)


# -- export ------------------------------------------------------------------------------------------------------------


def export(model: Detector | Classifier | str | None = None, **keys: Any) -> ExportResult:
    """A graph that runs without this package: ONNX, or a program of torch.export; :func:`predict` runs it as well.

    Args:
        model: a loaded model, which stays as it is, instead of ``weights``; or the architecture beside foreign ones.
        **keys: those of ``iifdet export``.

    Raises:
        InputError: bad keys or weights, a model that cannot be exported, a package that is missing.
    """
    if model is None or not isinstance(model, str | Path):
        return build.build_export(keys, model).run()
    return build.build_export(_named(keys, model)).run()


# -- tune --------------------------------------------------------------------------------------------------------------


def tune(**keys: Any) -> StudyResult:
    """Search keys of ``train`` by trials, or the adjustment of a finished model (``post_process=true``).

    In a script this needs ``if __name__ == "__main__":`` around it, since trials are processes of their own.

    Raises:
        InputError: bad keys, space, objective, data or storage, before anything is trained.
        KeyboardInterrupt: on Ctrl-C, with the running trials back in the queue.
    """
    from iifdet.build.adjustment_study import build_adjustment_study  # here alone: the other verbs need no optuna
    from iifdet.build.tuning import build_study
    from iifdet.tuning import run_study

    plan = build_adjustment_study(keys) if keys.get("post_process") else build_study(keys, train)
    return run_study(plan)


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
                **({} if counts.alike else {"instances": int(counts.instances[c])}),
                **{variant: round(float(w[c]), 4) for variant, w in self.weights.items()},
            }
            for c in order
        ]


def stats(**keys: Any) -> Stats:
    """Counts, imbalance and the weight curves of all variants (the paper's Figure 2)."""
    from iifdet import plots

    cfg = resolve(StatsConfig, keys)
    if not cfg.need_images:
        build.check_bare_annotations(cfg.data)
    counts = build.build_index(cfg, cfg.split, build.task_of(cfg.data)).counts()
    weights, undefined = {}, {}
    for variant in VARIANTS:
        try:
            weights[variant] = build.class_weights(cfg.model_copy(update={"variant": variant}), counts)
        except InputError as error:
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


def compare(runs: str | Path | Sequence[str | Path | RunResult] = (), **keys: Any) -> Comparison:
    """Runs beside each other, each with its difference to the first.

    AP, tails and groups come from their metrics.json. Where their predictions and the data are at hand there are
    bootstrap intervals, McNemar's test, TIDE errors, Fixed AP and calibration too; ``project``, ``name`` or ``save``
    write all of it down, with pictures and an HTML page.

    Args:
        runs: run folders, or what ``train`` and ``val`` gave.
        **keys: those of ``iifdet compare``.

    Raises:
        InputError: bad keys, a folder without metrics.json, or runs on different data.
    """
    listed = [runs] if isinstance(runs, str | Path) else runs
    folders = [str(run.folder if isinstance(run, RunResult) else run) for run in listed]
    cfg = resolve(CompareConfig, {"runs": folders, **keys})
    found = compare_runs(cfg.runs, by=cfg.by)
    options = Options(cfg.draws, cfg.level, cfg.seed, cfg.conf, cfg.iou, cfg.by)
    index_of = partial(build.evaluated_index, data=cfg.data, allow_outside=cfg.allow_outside)
    found = examine(found, cfg.runs, index_of, options)
    if not (cfg.save or cfg.project or cfg.name):
        return found
    run = RunDir.create("compare", cfg.project, cfg.name, cfg.exist_ok)
    norms = build.classifier_norms([Path(folder) for folder in cfg.runs]) if cfg.plots else []
    return write_report(found, run, norms, plots=cfg.plots)


VERBS: dict[str, Callable[..., Any]] = {
    "train": train,
    "val": val,
    "predict": predict_to_folder,
    "tune": tune,
    "cam": cam,
    "export": export,
    "stats": stats,
    "check": check,
    "compare": compare,
}
