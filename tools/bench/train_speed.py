"""Training throughput on CUDA beside Ultralytics' yolov3 and torchvision's SSD300 and Faster R-CNN, in turns.

    IIFDET_DATA_DIR=… python tools/bench/train_speed.py                                    all, about 8 minutes
    IIFDET_DATA_DIR=… python tools/bench/train_speed.py --cases yolov3:640:32 --out $OUT/train_speed.json

A case is model:size:batch. Ultralytics' yolov3 has another head and 1.7 times the parameters, so that images/s say
little: achieved TFLOP/s (those that ``FlopCounterMode`` counts in a step of the model uncompiled) stand beside them,
and the card's own measured rate of bf16 matrix products. ``loader`` is iifdet's loop with its real loader: images/s and
the share of the time that a step waited for its batch. What fails in one arm is noted and the others go on; the JSON is
written after every case. Ultralytics is only a bench-time tool: without it its arm is left out.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write
from train_arms import CLASSES, arms, ours

from iifdet.types import Batch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = "yolov3:640:32,yolov3:416:32,ssd300:300:32,fasterrcnn:640:8"


def main() -> None:
    args = arguments(
        __doc__, cases=CASES, amp="bf16", repeats=7, steps=6, compiled=1, loader=1, workers=14, loader_seconds=8.0
    )
    torch.backends.cudnn.benchmark = True
    setting = {k: v for k, v in vars(args).items() if k != "out"}
    content: dict[str, Any] = {"setting": setting, "bf16_matmul_tflops": _matmul_peak(), "cases": {}}
    for case in args.cases.split(","):
        name, size, batch = case.split(":")
        try:
            content["cases"][case] = _case(args, name, int(size), int(batch), content["bf16_matmul_tflops"])
        except torch.OutOfMemoryError as error:
            content["cases"][case] = {"failed": str(error)[:200]}
        _clear()
        write("train_speed", args.out, content)


def _matmul_peak(side: int = 8192) -> float | None:
    """Median rate of bf16 matrix products of random numbers, TFLOP/s."""
    if DEVICE.type != "cuda":
        return None
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(30):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(4):
            a @ b
        end.record()
        end.synchronize()
        rates.append(4 * 2 * side**3 / start.elapsed_time(end) / 1e9)
    return round(statistics.median(rates[5:]), 1)


def _case(args: Any, name: str, size: int, batch: int, peak: float | None) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    steps: dict[str, Callable[[], object]] = {}
    for arm, build in arms(name, size, batch, DEVICE, args.amp).items():
        if arm == "iifdet compiled" and not args.compiled:
            continue
        try:
            rows[arm], steps[arm] = _prepared(arm, build)
        except Exception as error:  # an arm that fails here must not cost the others their turn on the device
            rows[arm] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        print(name, size, arm, rows[arm], file=sys.stderr, flush=True)
        _clear()
    if "iifdet compiled" in steps:  # the same arithmetic, but not to be counted inside a compiled program
        rows["iifdet compiled"]["tflop_per_step"] = rows["iifdet"].get("tflop_per_step")
    rates = _in_turns(steps, batch, args.repeats, args.steps)
    for arm, values in rates.items():
        row = rows[arm]
        row["images_per_s"] = round(statistics.median(values), 1)
        row["images_per_s_quartiles"] = [round(v, 1) for v in statistics.quantiles(values, n=4)[::2]]
        flops = row.get("tflop_per_step")
        row["tflops"] = round(statistics.median(values) / batch * flops, 1) if flops else None
        row["share_of_peak"] = round(row["tflops"] / peak, 3) if peak and flops else None
    steps.clear()
    _clear()
    if args.loader and DEVICE.type == "cuda" and name != "fasterrcnn":
        rows["iifdet with its loader"] = _with_loader(args, name, size, batch, compiled="iifdet compiled" in rates)
    return {"arms": rows, "ratios": _ratios(rates, rows)}


def _prepared(arm: str, build: Callable[[], Any]) -> tuple[dict[str, Any], Callable[[], object]]:
    """An arm that has warmed up, and what one step of it costs beside time."""
    step, model = build()
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    started = time.perf_counter()
    for _ in range(4 if DEVICE.type == "cuda" else 1):
        step()
    _synchronise()
    row["first_steps_s"] = round(time.perf_counter() - started, 1)
    if arm != "iifdet compiled":
        with FlopCounterMode(display=False) as counter:
            step()
        row["tflop_per_step"] = counter.get_total_flops() / 1e12
    if DEVICE.type == "cuda":
        _synchronise()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        row["host_waits_per_step"] = _waits(step)
        row["peak_gb_of_a_step"] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)
    return row, step


def _waits(step: Callable[[], object]) -> int:
    """How often a step makes the host wait for the device, by CUDA's own debug mode."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(w.message) for w in caught)


def _in_turns(steps: dict[str, Callable[[], object]], batch: int, repeats: int, number: int) -> dict[str, list[float]]:
    """Images a second of each arm in every turn; every other turn runs backwards."""
    rates: dict[str, list[float]] = {arm: [] for arm in steps}
    for turn in range(-1, repeats):
        order = list(steps.items())
        for arm, step in order if turn % 2 else reversed(order):
            step()
            _synchronise()
            started = time.perf_counter()
            for _ in range(number):
                step()
            _synchronise()
            if turn >= 0:
                rates[arm].append(batch * number / (time.perf_counter() - started))
    return rates


def _ratios(rates: dict[str, list[float]], rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Ours to the others, medians over the turns: images/s, and counted operations a second."""
    found: dict[str, dict[str, float]] = {}
    for own in (arm for arm in rates if arm.startswith("iifdet")):
        for other in (arm for arm in rates if not arm.startswith("iifdet")):
            ratio = statistics.median(a / b for a, b in zip(rates[own], rates[other], strict=True))
            work = rows[own]["tflop_per_step"] / rows[other]["tflop_per_step"]
            found[f"{own} / {other}"] = {"images_per_s": round(ratio, 3), "tflops": round(ratio * work, 3)}
    return found


def _with_loader(args: Any, name: str, size: int, batch: int, compiled: bool) -> dict[str, Any]:
    """iifdet's loop with its loader: decode, letterbox, flip, HSV, affine moves, in ``workers`` processes."""
    try:
        import cv2

        from iifdet.datasets import DetectionDataset, TrainTransform, load_index, make_loader
    except ImportError as error:
        return {"failed": str(error)}
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IIFDET_CACHE_DIR"] = str(Path(folder) / "cache")
        data = {"path": _photos(Path(folder)), "train": "images/train", "names": [str(n) for n in range(CLASSES)]}
        affine = {"translate": 0.1, "scale": 0.5}
        transform = TrainTransform(size, flip=0.5, hsv=(0.015, 0.7, 0.4), affine=affine)
        dataset = DetectionDataset(load_index(data, "train"), transform)
        loader = make_loader(dataset, batch, args.workers, shuffle=True, drop_last=True, pin_memory=True)
        waited = [0.0]
        source = _timed(loader, waited)
        rival = "ultralytics" if name == "yolov3" else "torchvision"
        step, _ = ours(name, source, DEVICE, args.amp, size, rival, compiled)
        for _ in range(12):
            step()
        _synchronise()
        waited[0], steps, started = 0.0, 0, time.perf_counter()
        while time.perf_counter() - started < args.loader_seconds:
            step()
            steps += 1
        _synchronise()
        seconds = time.perf_counter() - started
        rate, share = round(batch * steps / seconds, 1), round(waited[0] / seconds, 4)
    return {"images_per_s": rate, "share_of_time_waiting_for_data": share, "workers": args.workers, "steps": steps}


def _timed(loader: Any, waited: list[float]) -> Iterator[Batch]:
    """Epoch after epoch; the seconds spent waiting for batches add up in ``waited``."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        batches = iter(loader)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            waited[0] += time.perf_counter() - started
            if batch is None:
                break
            yield batch
        epoch += 1


def _photos(folder: Path, copies: int = 64) -> str:
    """coco128 many times over, as links: an epoch must last longer than the workers' head start."""
    source = Path(os.environ.get("IIFDET_DATA_DIR", "unset")) / "coco128"
    if not source.is_dir():
        raise SystemExit(
            f"IIFDET_DATA_DIR: expected a folder that holds coco128, got {source.parent}; or use --loader 0"
        )
    for kind in ("images/train", "labels/train"):
        (folder / "data" / kind).mkdir(parents=True)
        for file in sorted((source / kind).iterdir()):
            for copy in range(copies):
                (folder / "data" / kind / f"{file.stem}_{copy}{file.suffix}").symlink_to(file.resolve())
    return str(folder / "data")


def _synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _clear() -> None:
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
