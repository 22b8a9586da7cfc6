"""Ways to rebalance on FOD-LT: yolov3-tiny from Darknet weights, the same seed and budget for each.

CPU, short:      python tools/bench/fod_lt.py --imgsz 160 --epochs 8 --workers 0
CUDA, full:      python tools/bench/fod_lt.py --imgsz 320 --epochs 60 --seeds 3 --workers 8 --amp bf16
Needs IIFDET_DATA_DIR and what tools/fetch_tiny_weights.py fetches. An interrupted bench goes on where it was.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write

import iifdet

FIGURES = ("AP", "AP50", "tail5", "tail10", "tail20", "rare", "common", "frequent")

#: What is trained, beside the common keys. The repeat threshold is the median class's share of images.
TRAINED: dict[str, dict[str, Any]] = {
    "softmax": {"adjust": "none"},
    "iif": {"adjust": "iif", "temperature": 1.0},
    "iif mean-1": {"adjust": "iif", "temperature": "mean"},
    "rfs": {"adjust": "none", "sampling": "rfs", "repeat_threshold": 0.014},
    "rfs + iif mean-1": {"adjust": "iif", "temperature": "mean", "sampling": "rfs", "repeat_threshold": 0.014},
    "la": {"adjust": "la"},
    "bsce": {"adjust": "bsce"},  # without a background logit the same loss as la: they differ by rounding
}
#: What is tried on the softmax run without training.
POST: dict[str, dict[str, Any]] = {
    "iif post-process": {"adjust": "iif", "temperature": 1.0},
    "iif mean-1 post-process": {"adjust": "iif", "temperature": "mean"},
    "la post-process": {"adjust": "la"},
}


def main() -> None:
    args = arguments(
        __doc__,
        weights="~/.cache/iifdet/weights/yolov3-tiny.weights",
        imgsz=160,
        epochs=8,
        batch=16,
        lr=0.001,
        seeds=1,
        workers=0,
        amp="none",
        methods=",".join(TRAINED),
        folder="runs/fod_lt",
    )
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name in args.methods.split(","):
            metrics, run = train(args, seed, name)
            figures.setdefault(name, []).append(flat(metrics))
            for post in POST if name == "softmax" else ():
                figures.setdefault(post, []).append(flat(post_process(args, seed, post, run)))
            print(f"seed {seed} {name}: {figures[name][-1]}", flush=True)
    setting = {k: v for k, v in vars(args).items() if k not in ("out", "weights", "folder", "methods")}
    keys = {name: {**TRAINED, **POST}[name] for name in figures}
    write("fod_lt", args.out, {"setting": setting, "keys": keys, "percent": {k: spread(v) for k, v in figures.items()}})


def train(args: Any, seed: int, name: str) -> tuple[dict[str, Any], Path]:
    """One run, resumed if it was begun before."""
    folder = Path(args.folder) / f"{name.replace(' ', '')}-{seed}"
    if (folder / "weights" / "last.pt").is_file():
        return iifdet.train(resume=str(folder)).metrics, folder
    result = iifdet.train(
        model="yolov3-tiny",
        weights=str(Path(args.weights).expanduser()),
        data="fod_lt",
        imgsz=args.imgsz,
        epochs=args.epochs,
        batch=args.batch,
        lr=args.lr,
        seed=seed,
        workers=args.workers,
        amp=args.amp,
        cache="ram",
        val_every=max(1, args.epochs // 4),
        project=args.folder,
        name=folder.name,
        exist_ok=True,
        **TRAINED[name],
    )
    return result.metrics, result.folder


def post_process(args: Any, seed: int, name: str, run: Path) -> dict[str, Any]:
    """The softmax run under another adjustment."""
    return iifdet.val(
        weights=str(run / "weights" / "last.pt"),
        workers=args.workers,
        project=args.folder,
        name=f"{name.replace(' ', '')}-{seed}",
        exist_ok=True,
        plots=False,
        **POST[name],
    ).metrics


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Percentages; tails by image counts."""
    values = {**metrics, **metrics["groups"], **{k: metrics[k]["image"] for k in ("tail5", "tail10", "tail20")}}
    return {name: 100 * values[name] for name in FIGURES if values[name] is not None}


def spread(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean over seeds, and the standard deviation where there is more than one."""
    rows: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        rows[name] = {"mean": round(statistics.mean(values), 2), "runs": [round(v, 2) for v in values]}
        if len(values) > 1:
            rows[name]["std"] = round(statistics.stdev(values), 2)
    return rows


if __name__ == "__main__":
    main()
