"""Cost as work grows: index, loader, loss and evaluation over images, classes and boxes an image.

    python tools/bench/scaling.py                 JSON, and docs/pictures/scaling.png

Made-up COCO files around one small JPEG; one thread. Each point is the median of ``repeats`` runs, each curve's
``exponent`` the slope of a straight line through it on logarithmic axes: 1 is linear, 0 is no growth. The first row of
``evaluation`` is the promise: 5,000 images with 100 detections each, from the last batch to all figures.
"""

from __future__ import annotations

import itertools
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

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write

from iifdet.datasets import DetectionDataset, TrainTransform, collate, load_index
from iifdet.detectors import DETECTORS
from iifdet.evaluation import DetectionEvaluator
from iifdet.evaluation.detection import Part
from iifdet.types import Target

SIDE, BOXES, CLASSES = 96, 7, 80
_LINKS = 50_000  # of one file, before the file system says no


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
    _draw(curves, Path(__file__).parents[2] / "docs" / "pictures" / "scaling.png")
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


def _boxes(rng: np.random.Generator, number: int) -> np.ndarray[Any, Any]:
    """(number, 4) x, y, w, h inside the image."""
    corner, size = rng.uniform(0, 0.6, (number, 2)), rng.uniform(0.05, 0.35, (number, 2))
    return np.round(np.concatenate([corner, size], axis=1) * SIDE, 2)


def _write(folder: Path, images: int, classes: int, boxes: int) -> dict[str, Any]:
    """A data description of made-up photos and boxes."""
    if not (folder / "images").is_dir():
        (folder / "images").mkdir(parents=True)
        rng = np.random.default_rng(0)
        pixels = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (SIDE, SIDE))
        for n in range(images):
            path, first = folder / "images" / f"{n}.jpg", folder / "images" / f"{n // _LINKS * _LINKS}.jpg"
            cv2.imwrite(str(path), pixels) if path == first else os.link(first, path)
        rows = _boxes(rng, images * boxes).tolist()
        labels = rng.integers(1, classes + 1, images * boxes).tolist()
        told = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": SIDE, "height": SIDE} for n in range(images)],
            "annotations": [
                {"id": k + 1, "image_id": k // boxes, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
                for k, (b, c) in enumerate(zip(rows, labels, strict=True))
            ],
            "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(classes)],
        }
        (folder / "train.json").write_text(json.dumps(told))
    part = {"images": "images", "annotations": "train.json"}
    return {"path": str(folder), "format": "coco", "train": part, "val": part}


def _index(folder: Path, images: int, repeats: int) -> float:
    data = _write(folder, images, CLASSES, BOXES)

    def cold() -> None:
        os.environ["IIFDET_CACHE_DIR"] = str(folder / f"cache{time.perf_counter_ns()}")
        load_index(data, "train")

    return _median(cold, repeats)


def _loader(folder: Path, repeats: int) -> float:
    """512 samples from all over the split, in batches of 16."""
    index = load_index(_write(folder, 0, CLASSES, BOXES), "train")
    dataset = DetectionDataset(index, TrainTransform(SIDE, flip=0.5))
    rows = np.random.default_rng(0).integers(0, len(dataset), 512).tolist()
    batches = [rows[k : k + 16] for k in range(0, 512, 16)]
    return _median(lambda: [collate([dataset[0, row] for row in batch]) for batch in batches], repeats)


def _evaluation(folder: Path, images: int, classes: int, found: int, repeats: int) -> float:
    """From the last batch to all figures; as many true boxes as detections, up to 7 an image."""
    true = min(found, BOXES)
    index = load_index(_write(folder, images, classes, true), "val")
    rng = np.random.default_rng(1)
    evaluator = DetectionEvaluator(index)
    rows = np.empty((images, found, 7))
    rows[..., 0] = np.asarray(index.image_ids)[:, None]
    rows[..., 1:5] = _boxes(rng, images * found).reshape(images, found, 4)
    rows[..., 5], rows[..., 6] = rng.uniform(size=(images, found)), rng.integers(1, classes + 1, (images, found))
    truth = np.concatenate([index.boxes[:, :2], index.boxes[:, 2:] - index.boxes[:, :2]], axis=1)
    rows[:, :true, 1:5] = truth.reshape(images, true, 4) + rng.normal(0, 1, (images, true, 4))  # some are right
    rows[:, :true, 6] = np.asarray(index.category_ids)[index.labels].reshape(images, true)
    rows[..., 3:5] = np.maximum(rows[..., 3:5], 0.5)
    evaluator.parts = [
        Part(seen=rows[k : k + 16, 0, 0].astype(int).tolist(), rows=list(rows[k : k + 16]))
        for k in range(0, images, 16)
    ]
    counts = index.counts()
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
