"""Training speed of SE-ResNet32 on CIFAR-size images: step by step, as a CUDA graph, compiled, in either memory order.

CUDA:  python tools/bench/classify_speed.py --data cifar10_lt100_jpeg
CPU:   python tools/bench/classify_speed.py --data cifar10_lt100_jpeg --device cpu --epochs 2 --fraction 0.1

``images_per_s`` is the loop's own figure of the last epoch: batches, steps and their guards, without validation.
``seconds_an_epoch`` is what making the batches and the loss take alone, and ``share_of_the_fastest_step`` their share.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write

import iifdet
from iifdet import build
from iifdet.config import TrainConfig, resolve
from iifdet.training import Callback, TrainState

#: name -> keys. The first is the plain loop.
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"graph": False, "channels_last": False},
    "eager channels_last": {"graph": False, "channels_last": True},
    "graph": {"channels_last": False},
    "graph channels_last": {"channels_last": True},
    "graph compile": {"channels_last": False, "compile": True},
    "graph channels_last compile": {"channels_last": True, "compile": True},
}


class Clock(Callback):
    """The speed of each epoch, and whether the last steps were recorded."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_epoch_end(self, state: TrainState, row: Any) -> None:
        self.rows.append(dict(row))


def measure(keys: dict[str, Any], folder: str) -> dict[str, Any]:
    """One short run."""
    clock = Clock()
    started = time.perf_counter()
    iifdet.train([clock], **keys, project=folder, name="run")
    last = clock.rows[-1]
    return {
        "images_per_s": last["images_per_s"],
        "each_epoch": [row["images_per_s"] for row in clock.rows],
        "loss": round(last["loss"], 4),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mb": round(torch.cuda.max_memory_allocated() / 1e6) if torch.cuda.is_available() else None,
    }


def data_and_loss_seconds(keys: dict[str, Any]) -> dict[str, float]:
    """Seconds that an epoch's batches take to be made, and its losses with their gradients at the logits."""
    config = resolve(TrainConfig, keys)
    device = build.pick_device(config.device)
    index = build.build_splits(config, "classify").train
    batches = build.build_train_batches(config, index, device, "classify")
    model = build.build_model(config, index, fill=False).to(device).train()
    logits = torch.randn(config.batch, model.num_classes, device=device, requires_grad=True)
    data = loss = 0.0
    for epoch in range(2):  # the second one counts
        started = seconds()
        given = list(batches.epoch(epoch))
        data = seconds() - started
        model.raw = lambda images: logits[: len(images)]
        started = seconds()
        for batch in given:
            model.losses(batch.images, batch.targets)["cls"].backward()
        loss = seconds() - started
    return {"data": round(data, 4), "loss": round(loss, 4), "images": len(index)}


def seconds() -> float:
    """The time, when the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def side_by_side(args: Any, how: str) -> dict[str, Any]:
    """Several seeds on one device: images per second of all together."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(str(seed) for seed in range(args.beside))
        tool = Path(__file__).parent / "paper_tables.py"
        epochs = 3 * args.epochs
        command = [sys.executable, str(tool), "--data", args.data, "--how", how, "--seeds", seeds, "--variants", ""]
        command += ["--epochs", str(epochs), "--folder", folder, "--out", f"{folder}/out.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = [json.loads(file.read_text()) for file in Path(folder).glob("seed*/rows.json")]
        speeds = [r["softmax"].get("images_per_s") for r in rows if "softmax" in r]
        if len(speeds) < args.beside or None in speeds:
            return {"failed": (done.stdout + done.stderr)[-600:]}
        return {"images_per_s": sum(speeds), "each": speeds}


def main() -> None:
    """Measure every way, or those that ``--ways`` names with commas."""
    args = arguments(
        __doc__,
        data="cifar10_lt100_jpeg",
        model="classify/cifar10-lt-softmax",
        device="cuda" if torch.cuda.is_available() else "cpu",
        amp="bf16" if torch.cuda.is_available() else "none",
        epochs=4,
        batch=64,
        fraction=1.0,
        beside=3,
        ways="eager,graph,eager channels_last,graph channels_last",
    )
    common = {
        **{"model": args.model, "data": args.data, "device": args.device, "amp": args.amp, "batch": args.batch},
        **{"epochs": args.epochs, "fraction": args.fraction, "select_on": "test", "val_every": args.epochs},
        **{"plots": False, "verbose": False, "save_minutes": 0},
    }
    names = args.ways.split(",") if args.device != "cpu" else ["eager", "eager channels_last"]
    found: dict[str, Any] = {}
    for name in names:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = measure({**common, **WAYS[name]}, folder)
            except Exception as error:  # one way that fails must not cost the others
                found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        print(name, found[name], flush=True)
    if args.beside > 1 and args.device != "cpu":
        for how in ("threads", "processes"):
            found[f"{args.beside} in {how}"] = side_by_side(args, how)
            print(how, found[f"{args.beside} in {how}"], flush=True)
    parts = data_and_loss_seconds({**common, "channels_last": True})
    speeds = [found[name]["images_per_s"] for name in names if "images_per_s" in found[name]]
    whole = parts["images"] / max(speeds, default=float("nan"))
    share = (parts["data"] + parts["loss"]) / whole
    print(f"data {parts['data']} s and loss {parts['loss']} s of {whole:.1f} s an epoch: {share:.1%}")
    rows = {"keys": common, "ways": found, "seconds_an_epoch": parts, "share_of_the_fastest_step": round(share, 4)}
    write("classify_speed", args.out, rows)


if __name__ == "__main__":
    main()
