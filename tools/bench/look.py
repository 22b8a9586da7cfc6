"""Seconds of a CAM sheet and of a comparison, as a user waits for them; imports and loading are told apart.

``cam``: one sheet of one 416 px image and one YOLOv3 (Darknet53) with random weights, by each method.
``compare``: two runs with made-up detections on 5,000 images, intervals, tests, errors, calibration and the report with
its pictures.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write
from made_up import BOXES, CLASSES, evaluator_of, write_photos

import iifdet
from iifdet import build
from iifdet.checkpoint import save_checkpoint
from iifdet.datasets import DatasetIndex, load_index
from iifdet.models import create_model


def main() -> None:
    args = arguments(
        __doc__, images=5000, found=100, draws=1000, repeats=3, methods="gradcam,gradcam++,layercam,eigencam"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IIFDET_CACHE_DIR"] = str(Path(folder) / "cache")
        cam = _cam(Path(folder), args.methods.split(","), args.repeats)
        compare = _compare(Path(folder), args)
    write("look", args.out, {"cam": cam, "compare": compare})


def _seconds(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def _cam(folder: Path, methods: list[str], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = create_model("yolov3", CLASSES).eval()
    model.names = [f"class {c}" for c in range(CLASSES)]
    save_checkpoint(folder / "yolov3.pt", model, recipe={"imgsz": 416})
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "photo.jpg"), cv2.resize(pixels, (640, 480)))
    keys: dict[str, Any] = {"weights": str(folder / "yolov3.pt"), "source": str(folder / "photo.jpg"), "conf": 0.0}
    found: dict[str, Any] = {}
    for method in methods:
        times = []
        for n in range(repeats + 1):  # the first imports what it needs
            started = time.perf_counter()
            _, job = build.build_cam({**keys, "method": method})
            loaded = time.perf_counter() - started
            target = folder / f"{method}{n}"
            target.mkdir()
            times.append((loaded, _seconds(lambda job=job, target=target: job.run(lambda: target))))  # type: ignore[misc]
        load, sheet = (statistics.median(t[k] for t in times[1:]) for k in (0, 1))
        found[method] = {"load_s": round(load, 2), "sheet_s": round(sheet, 2), "first_sheet_s": round(times[0][1], 2)}
        print(method, found[method], file=sys.stderr, flush=True)
    return found


def _compare(folder: Path, args: Any) -> dict[str, Any]:
    data = write_photos(folder / "data", args.images, CLASSES, min(args.found, BOXES))
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    index = load_index(data, "val")
    runs = [_run(folder, index, args.found, seed) for seed in (1, 2)]
    for run in runs:
        (run / "args.yaml").write_text(yaml.safe_dump({"data": str(folder / "data.yaml"), "split": "val"}))
    times = [
        _seconds(lambda n=n: iifdet.compare(runs, draws=args.draws, project=str(folder / "compare"), name=str(n)))  # type: ignore[misc]
        for n in range(args.repeats + 1)  # the first imports what it needs
    ]
    return {
        "images": args.images,
        "detections_an_image": args.found,
        "draws": args.draws,
        "first_s": round(times[0], 1),
        "median_s": round(statistics.median(times[1:]), 1),
    }


def _run(folder: Path, index: DatasetIndex, found: int, seed: int) -> Path:
    """A run folder with predictions.json and metrics.json."""
    evaluator, path = evaluator_of(index, found, seed), folder / f"run{seed}"
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps(evaluator.compute().metrics(index.counts())))
    (path / "predictions.json").write_text(json.dumps(evaluator.predictions()))
    return path


if __name__ == "__main__":
    main()
