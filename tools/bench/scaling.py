"""Cost as work grows: index, loader, loss and evaluation over images, classes and boxes an image.

    python tools/bench/scaling.py                 JSON, and docs/pictures/scaling.png; with --out a picture beside it

Made-up COCO files around one small JPEG; one thread. Each point is the median of ``repeats`` runs, each curve's
``exponent`` the slope of a straight line through it on logarithmic axes: 1 is linear, 0 is no growth. The first row of
``evaluation`` is the promise: 5,000 images with 100 detections each, from the last batch to all figures.
"""

from __future__ import annotations

import itertools
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

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write
from made_up import BOXES, CLASSES, SIDE, evaluator_of, write_photos

from iifdet.datasets import DetectionDataset, TrainTransform, collate, load_index
from iifdet.detectors import DETECTORS
from iifdet.types import Target


def main() -> None:
    args = arguments(__doc__, images="1000,10000,100000", classes="20,80,400,1203", boxes="1,10,100,300", repeats=3)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    sizes = {key: [int(n) for n in getattr(args, key).split(",")] for key in ("images", "classes", "boxes")}
    curves: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IIFDET_CACHE_DIR"] = str(Path(folder) / "cache")
        promise = _evaluation(Path(folder) / "promise", 5000, CLASSES, 100, args.repeats)
        for n in sizes["images"]:
            _add(curves, "index, images", n, _index(Path(folder) / f"i{n}", n, args.repeats))
            _add(curves, "loader, images", n, _loader(Path(folder) / f"i{n}", args.repeats))
            _add(curves, "evaluation, images", n, _evaluation(Path(folder) / f"e{n}", n, CLASSES, 10, args.repeats))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IIFDET_CACHE_DIR"] = str(Path(folder) / "cache")
        for n in sizes["classes"]:
            _add(curves, "evaluation, classes", n, _evaluation(Path(folder) / f"c{n}", 2000, n, 20, args.repeats))
            _add(curves, "loss, classes", n, _loss(n, BOXES, args.repeats))
        for n in sizes["boxes"]:
            _add(curves, "evaluation, boxes", n, _evaluation(Path(folder) / f"b{n}", 1000, CLASSES, n, args.repeats))
            _add(curves, "loss, boxes", n, _loss(CLASSES, n, args.repeats))
    for curve in curves.values():
        curve["exponent"] = round(float(np.polyfit(np.log(curve["n"]), np.log(curve["seconds"]), 1)[0]), 2)
    pictures = Path(__file__).parents[2] / "docs" / "pictures"
    _draw(curves, args.out.with_suffix(".png") if args.out else pictures / "scaling.png")
    write("scaling", args.out, {"evaluation of 5000 images with 100 detections each, s": promise, "curves": curves})


def _add(curves: dict[str, Any], name: str, n: int, seconds: float) -> None:
    curve = curves.setdefault(name, {"n": [], "seconds": []})
    curve["n"].append(n)
    curve["seconds"].append(round(seconds, 5))
    print(name, n, round(seconds, 4), file=sys.stderr, flush=True)


def _median(task: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _index(folder: Path, images: int, repeats: int) -> float:
    data = write_photos(folder, images, CLASSES, BOXES)

    def cold() -> None:
        os.environ["IIFDET_CACHE_DIR"] = str(folder / f"cache{time.perf_counter_ns()}")
        load_index(data, "train")

    return _median(cold, repeats)


def _loader(folder: Path, repeats: int) -> float:
    """512 samples from all over the split, in batches of 16."""
    index = load_index(write_photos(folder, 0, CLASSES, BOXES), "train")
    dataset = DetectionDataset(index, TrainTransform(SIDE, flip=0.5))
    rows = np.random.default_rng(0).integers(0, len(dataset), 512).tolist()
    batches = [rows[k : k + 16] for k in range(0, 512, 16)]
    return _median(lambda: [collate([dataset[0, row] for row in batch]) for batch in batches], repeats)


def _evaluation(folder: Path, images: int, classes: int, found: int, repeats: int) -> float:
    """From the last batch to all figures; as many true boxes as detections, up to 7 an image."""
    index = load_index(write_photos(folder, images, classes, min(found, BOXES)), "val")
    evaluator, counts = evaluator_of(index, found), index.counts()
    return _median(lambda: evaluator.compute().metrics(counts), repeats)


def _loss(classes: int, boxes: int, repeats: int) -> float:
    """Loss and gradient of YOLOv3's predictions, without its network, at 416 px and 4 images."""
    generator = torch.Generator().manual_seed(0)
    model = DETECTORS["yolov3-nano"](classes).train()
    slots = 3 * sum((416 // s) ** 2 for s in (32, 16, 8))
    t = torch.randn(4, slots, 5, generator=generator).requires_grad_()
    logits = torch.randn(4, slots, classes, generator=generator).requires_grad_()
    model.__dict__["compiled"] = lambda batch: (t, logits)  # in place of the network
    images, targets = torch.zeros(4, 3, 416, 416), []
    for _ in range(4):
        corner, side = (torch.rand(boxes, 2, generator=generator) for _ in range(2))
        xyxy = torch.cat([corner * 0.6, corner * 0.6 + side * 0.35 + 0.03], dim=1) * 416
        targets.append(Target(boxes=xyxy, labels=torch.randint(classes, (boxes,), generator=generator)))

    def task() -> None:
        torch.stack(list(model(images, targets).values())).sum().backward()
        t.grad = logits.grad = None

    task()
    return _median(task, 2 * repeats + 1)


def _draw(curves: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for axis, over in zip(axes, ("images", "classes", "boxes"), strict=True):
        for (name, curve), marker in zip(curves.items(), itertools.cycle("os^D")):
            what, _, along = name.partition(", ")
            if along == over:
                label = f"{what} (exponent {curve['exponent']:.2f})"
                axis.loglog(curve["n"], curve["seconds"], marker=marker, label=label)
        axis.set(xlabel={"boxes": "boxes an image"}.get(over, over), ylabel="seconds")
        axis.grid(True, which="major", alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
