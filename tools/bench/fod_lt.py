"""Softmax against IIF on FOD-LT: yolov3-tiny from Darknet weights, the same seed and budget for each.

CPU, short:      python tools/bench/fod_lt.py --imgsz 192 --epochs 8 --workers 0
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


def main() -> None:
    args = arguments(
        __doc__,
        weights="~/.cache/iifdet/weights/yolov3-tiny.weights",
        imgsz=192,
        epochs=8,
        batch=16,
        lr=0.001,
        seeds=1,
        workers=0,
        amp="none",
        folder="runs/fod_lt",
    )
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        softmax, softmax_run = train(args, seed, adjust="none")
        iif, _ = train(args, seed, adjust="iif")
        post = iifdet.val(
            weights=str(softmax_run / "weights" / "last.pt"),
            adjust="iif",
            workers=args.workers,
            project=args.folder,
            name=f"post-{seed}",
            exist_ok=True,
        ).metrics
        for name, metrics in (("softmax", softmax), ("iif end-to-end", iif), ("iif post-process", post)):
            figures.setdefault(name, []).append(flat(metrics))
    setting = {k: v for k, v in vars(args).items() if k not in ("out", "weights", "folder")}
    write("fod_lt", args.out, {"setting": setting, "percent": {k: spread(v) for k, v in figures.items()}})


def train(args: Any, seed: int, adjust: str) -> tuple[dict[str, Any], Path]:
    """One run, resumed if it was begun before."""
    folder = Path(args.folder) / f"{adjust}-{seed}"
    if (folder / "weights" / "last.pt").is_file():
        return iifdet.train(resume=str(folder)).metrics, folder
    result = iifdet.train(
        model="yolov3-tiny",
        weights=str(Path(args.weights).expanduser()),
        data="fod_lt",
        adjust=adjust,
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
    )
    return result.metrics, result.folder


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
