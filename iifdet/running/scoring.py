"""``val predictions=…``: what another program detected, scored as a model's own detections are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from iifdet import build
from iifdet.config import ValConfig
from iifdet.distributed import ALONE
from iifdet.errors import InputError
from iifdet.evaluation.fixed import save_fixed
from iifdet.running.folder import open_run, validation_folder
from iifdet.running.results import FOUND_PICTURE, LABELS_PICTURE, RunResult, write_results

log = logging.getLogger("iifdet")


def run_scoring(cfg: ValConfig) -> RunResult:
    """Score a results file against one split, and leave the folder that ``val`` leaves of a model."""
    scoring = build.build_scoring(cfg)
    evaluator = scoring.evaluator
    counts = build.training_counts(cfg, "detect")
    result = evaluator.compute()
    metrics = result.metrics(counts, groups=cfg.group_limits) | {"split": build.split_name(cfg, cfg.split)}
    run, lock = open_run(ALONE, lambda: validation_folder(cfg))
    with lock:
        if (run.path / "predictions.json").resolve() == Path(str(cfg.predictions)).expanduser().resolve():
            raise InputError(f"predictions: expected a file outside {run.path}, where val writes its own; give name=")
        kept = set(build.ABOUT_SCORING) - {"imgsz", "resize"}  # how pictures are drawn is not how anybody looked
        run.write_yaml("args.yaml", cfg.model_dump(mode="json", include=kept))
        run.write_environment()
        write_results(run, metrics, evaluator)
        save_fixed(run.path, evaluator.unlimited() if cfg.fixed_ap else None)
        if cfg.plots:
            from iifdet.pictures import draw_result, quietly

            quietly(draw_result, run.path, result, evaluator, counts, metrics)
            quietly(_draw_batch, cfg, run.path, scoring)
    log.info("results on %s in %s", metrics["split"], run.path)
    return RunResult(run.path, metrics, evaluator.summary(metrics))


def _draw_batch(cfg: ValConfig, folder: Path, scoring: Any) -> None:
    from iifdet.pictures import draw_batch

    shown = build.shown_detections(cfg, scoring)
    for picture in (LABELS_PICTURE, FOUND_PICTURE):
        (folder / picture).unlink(missing_ok=True)  # an earlier run's, of other images
    if shown is None:
        log.info("no picture of images: none of their files is there")
        return
    batch, detections = shown
    draw_batch(batch, scoring.index.names, folder / LABELS_PICTURE)
    draw_batch(batch, scoring.index.names, folder / FOUND_PICTURE, detections)
