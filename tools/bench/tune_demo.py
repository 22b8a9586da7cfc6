"""A study of YOLOv3's coefficients on the demo data, and what the best of them is worth on val beside the paper's.

CPU, short:   python tools/bench/tune_demo.py --imgsz 64 --epochs 3 --trials 6
CUDA, whole:  the line in tools/bench/cuda_jobs.txt

The study judges trials on a tenth of the training images, held out. Then both settings are trained on all training
images, with every seed, in processes of their own, and validated on val.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from common import arguments, write

import iifdet
from iifdet.config import read_yaml
from iifdet.tuning import parse_space

FIGURES = ("AP", "AP50", "tail5", "tail10", "tail20", "rare", "common", "frequent")
SPACE = Path(__file__).parents[2] / "cfg" / "tune" / "yolov3.yaml"


def main() -> None:
    args = arguments(
        __doc__,
        imgsz=128,
        epochs=10,
        trials=30,
        workers=1,
        seeds="0,1,2",
        objective="mean(AP, tail10)",
        folder="runs/tune_demo",
    )
    base: dict[str, Any] = {"model": "yolov3-nano", "data": "demo", "imgsz": args.imgsz, "epochs": args.epochs}
    base |= {"val_every": 1, "plots": False}
    began = time.perf_counter()
    found = iifdet.tune(
        **base,
        space=str(SPACE),
        trials=args.trials,
        objective=args.objective,
        workers=args.workers,
        project=args.folder,
        study="demo",
    )
    searched = time.perf_counter() - began
    summary = json.loads((found.folder / "summary.json").read_text())
    settings = {"paper": parse_space(read_yaml(SPACE)).start(), "best": found.best[0].params}
    seeds = [int(seed) for seed in args.seeds.split(",")]
    content = {
        "command": " ".join(sys.argv),
        "study": summary,
        "seconds": {"study": round(searched, 1)},
        "coefficients": settings,
        "val": validate({**base, "verbose": False, "project": args.folder}, settings, seeds, args.workers),
    }
    content["seconds"]["all"] = round(time.perf_counter() - began, 1)
    write("tune_demo", args.out, content)


def validate(
    base: dict[str, Any], settings: dict[str, dict[str, Any]], seeds: list[int], workers: int
) -> dict[str, dict[str, Any]]:
    """Percent on val after training on all training images: each seed's figures, and their mean and deviation."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["iifdet.api"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {
            (name, seed): pool.submit(train, {**base, **keys, "seed": seed, "name": f"{name}-{seed}"}, workers)
            for name, keys in settings.items()
            for seed in seeds
        }
        runs = {key: job.result() for key, job in jobs.items()}
    return {name: collect([runs[name, seed] for seed in seeds]) for name in settings}


def train(keys: dict[str, Any], workers: int) -> dict[str, float | None]:
    """The figures of one run, percent. As one of ``workers`` it takes its share of the cores and no more."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    found = iifdet.train(exist_ok=True, **keys).summary
    return {name: None if found[name] is None else round(100 * found[name], 2) for name in FIGURES}


def collect(runs: list[dict[str, float | None]]) -> dict[str, Any]:
    """Runs beside their mean and standard deviation."""
    rows: dict[str, Any] = {"seeds": runs}
    for name in FIGURES:
        values = [run[name] for run in runs if run[name] is not None]
        rows[name] = {"mean": round(statistics.mean(values), 2)} if values else {}
        if len(values) > 1:
            rows[name]["std"] = round(statistics.stdev(values), 2)
    return rows


if __name__ == "__main__":
    main()
