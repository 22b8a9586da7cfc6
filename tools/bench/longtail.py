"""Ways to rebalance on real long-tailed data: the same weights, seeds and budget for each.

CPU, short:   python tools/bench/longtail.py --imgsz 160 --epochs 8
CUDA, whole:  the lines of tools/bench/cuda_jobs.txt

Needs IIFDET_DATA_DIR and, for yolov3-tiny, what tools/fetch_tiny_weights.py fetches. Runs that an earlier call finished
or began are taken up in ``--folder``; figures that a JSON file has already (``--known``) are not measured again.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, keys_of, known_results, machine, write

import iifdet
from iifdet.longtail import iif_weights
from iifdet.training import Callback, TrainState

FIGURES = ("AP", "AP50", "AP75", "tail5", "tail10", "tail20", "rare", "common", "frequent")

#: What is trained, beside the common keys. The repeat threshold is the median class's share of images in FOD-LT.
TRAINED: dict[str, dict[str, Any]] = {
    "softmax": {"adjust": "none"},
    "iif": {"adjust": "iif", "temperature": 1.0},
    "iif mean-1": {"adjust": "iif", "temperature": "mean"},
    "rfs": {"adjust": "none", "sampling": "rfs", "repeat_threshold": 0.014},
    "rfs + iif mean-1": {"adjust": "iif", "temperature": "mean", "sampling": "rfs", "repeat_threshold": 0.014},
    "la": {"adjust": "la"},
    "bsce": {"adjust": "bsce"},  # without a background logit the same loss as la: they differ by rounding
    "seesaw": {"adjust": "none", "model_args.class_loss": "seesaw"},
    "cb": {"adjust": "cb", "strategy": "cost_sensitive", "by": "instance"},
    "cb deferred": {"adjust": "cb", "strategy": "cost_sensitive", "by": "instance", "defer": 0.8},
    "eql": {"adjust": "none", "model_args.class_loss": "eql"},  # not on YOLO, whose class rows see no background
    "eqlv2": {"adjust": "none", "model_args.class_loss": "eqlv2"},
    "efl": {"adjust": "none", "model_args.class_loss": "efl"},
    "lade": {"adjust": "none", "model_args.class_loss": "lade"},  # not where there is a background logit
    "droploss": {"adjust": "none", "model_args.class_loss": "droploss"},  # as eql, and so the two below
    "acsl": {"adjust": "none", "model_args.class_loss": "acsl"},
    "ecm": {"adjust": "none", "model_args.class_loss": "ecm"},
    "cosines": {"adjust": "none", "model_args.head": "cosine"},  # this and the next ones on R-CNNs
    "fasa": {"adjust": "none", "model_args.augment_features": True},
    "cascade": {"adjust": "none", "model_args.cascade": True},
    "cascade iif": {"adjust": "iif", "temperature": 1.0, "model_args.cascade": True},
    "enhanced": {  # the paper's best for LVIS; masks are Mask R-CNN's
        **{"adjust": "iif", "variant": "base10", "by": "instance", "sampling": "rfs", "repeat_threshold": 0.014},
        **{"model_args.head": "cosine", "model_args.scale": 8.0, "model_args.normalized_mask": True},
        "model_args.augment_features": True,
    },
    "equal weights": {"adjust": "none"},  # every class has the mean of the IIF weights: their size without their ratios
}
#: What is tried on the softmax run without training.
POST: dict[str, dict[str, Any]] = {
    "iif post-process": {"adjust": "iif", "temperature": 1.0},
    "iif mean-1 post-process": {"adjust": "iif", "temperature": "mean"},
    "la post-process": {"adjust": "la"},
    "fracal post-process": {"adjust": "fracal"},
    "taunorm post-process": {"adjust": "taunorm"},
}


class EqualWeights(Callback):
    """All classes get the mean of the IIF weights."""

    def on_start(self, state: TrainState) -> None:
        model: Any = state.model
        weights = iif_weights(model.counts)
        model.set_adjustment(torch.full_like(weights, float(weights.mean())))


CALLBACKS: dict[str, Callback] = {"equal weights": EqualWeights()}

#: What figures must have in common to stand in one table.
SETTING = ("model", "data", "imgsz", "epochs", "keys")
#: method -> seed -> figures in percent
Runs = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    args = arguments(
        __doc__,
        model="yolov3-tiny",
        weights="~/.cache/iifdet/weights/yolov3-tiny.weights",
        data="fod_lt",
        imgsz=160,
        epochs=8,
        keys="batch=16 lr=0.001",
        seeds="0",
        workers=0,
        methods="softmax,iif,iif mean-1,rfs,rfs + iif mean-1,la",
        folder="runs/longtail",
        known="",
    )
    known = known_results(args.known, "setting", {key: getattr(args, key) for key in SETTING})
    runs: Runs = known.get("runs", {})
    origins = dict.fromkeys(_places(runs), known.get("machine")) | known.get("origins", {})
    for seed in args.seeds.split(","):
        for name in args.methods.split(","):
            _measure(args, seed, name, runs)
            origins = {where: machine() for where in _places(runs)} | origins
            _write(args, runs, origins)  # after each, so that an interrupted bench keeps what it has


def _places(runs: Runs) -> list[str]:
    return [f"{name}, seed {seed}" for name, by_seed in runs.items() for seed in by_seed]


def _measure(args: Any, seed: str, name: str, runs: Runs) -> None:
    if seed in runs.get(name, {}):
        return
    metrics, folder = train(args, int(seed), name)
    runs.setdefault(name, {})[seed] = flat(metrics)
    wanted = [name]
    for post in POST if name == "softmax" else ():
        try:
            runs.setdefault(post, {})[seed] = flat(post_process(args, seed, post, folder))
        except iifdet.InputError as error:  # fracal wants a softmax
            print(f"seed {seed} {post}: {error}", flush=True)
            continue
        wanted.append(post)
    for method in wanted:
        print(f"seed {seed} {method}: {runs[method][seed]}", flush=True)


def _write(args: Any, runs: Runs, origins: dict[str, Any]) -> None:
    """The table; ``origins`` says of each run which machine and commit it is of."""
    setting = {key: getattr(args, key) for key in (*SETTING, "workers")}
    keys = {name: {**TRAINED, **POST}[name] for name in runs}
    percent = {name: spread(list(by_seed.values())) for name, by_seed in runs.items()}
    content = {"setting": setting, "keys": keys, "percent": percent, "runs": runs, "origins": origins}
    write(f"{args.data}_{args.model}", args.out, content)


def train(args: Any, seed: int, name: str) -> tuple[dict[str, Any], Path]:
    """One run, resumed if it was begun before."""
    folder = Path(args.folder) / f"{args.data}-{args.model}-{name.replace(' ', '')}-{seed}"
    callbacks = [CALLBACKS[name]] if name in CALLBACKS else []
    if (folder / "weights" / "last.pt").is_file():
        return iifdet.train(callbacks, resume=str(folder)).metrics, folder
    common = {
        "model": args.model,
        "weights": os.path.expandvars(os.path.expanduser(args.weights)) or None,
        "data": args.data,
        "imgsz": args.imgsz,
        "epochs": args.epochs,
        "seed": seed,
        "workers": args.workers,
        "cache": "ram",
        "val_every": max(1, args.epochs // 4),
        "project": args.folder,
        "name": folder.name,
        "exist_ok": True,
    }
    result = iifdet.train(callbacks, **{**common, **keys_of(args.keys), **TRAINED[name]})
    return result.metrics, result.folder


def post_process(args: Any, seed: str, name: str, run: Path) -> dict[str, Any]:
    """The softmax run under another adjustment."""
    return iifdet.val(
        weights=str(run / "weights" / "last.pt"),
        workers=args.workers,
        project=args.folder,
        name=f"{run.name}-{name.replace(' ', '')}",
        exist_ok=True,
        plots=False,
        **POST[name],
    ).metrics


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Percentages; tails by image counts. Those of masks are named ``mask AP`` and so on."""
    found = {**metrics, **metrics["groups"], **{k: metrics[k]["image"] for k in ("tail5", "tail10", "tail20")}}
    figures = {name: round(100 * found[name], 2) for name in FIGURES if found[name] is not None}
    masks = flat(metrics["segm"]) if metrics.get("segm") else {}
    return figures | {f"mask {name}": value for name, value in masks.items()}


def spread(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean over seeds, and the standard deviation where there is more than one."""
    rows: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        rows[name] = {"mean": round(statistics.mean(values), 2)}
        if len(values) > 1:
            rows[name]["std"] = round(statistics.stdev(values), 2)
    return rows


if __name__ == "__main__":
    main()
