"""Made-up photos with boxes, and detections of them, some of which are right."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets import DatasetIndex
from iifdet.evaluation import DetectionEvaluator
from iifdet.evaluation.detection import Part

SIDE, BOXES, CLASSES = 96, 7, 80
_LINKS = 50_000  # of one file, before the file system says no


def _boxes(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    """(number, 4) x, y, w, h inside the image."""
    corner, size = rng.uniform(0, 0.6, (number, 2)), rng.uniform(0.05, 0.35, (number, 2))
    return np.round(np.concatenate([corner, size], axis=1) * SIDE, 2)


def write_photos(folder: Path, images: int, classes: int, boxes: int) -> dict[str, Any]:
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


def evaluator_of(index: DatasetIndex, found: int, seed: int = 1) -> DetectionEvaluator:
    """An evaluator that has seen all images, in batches of 16; as many detections are right as there are boxes."""
    evaluator, rows = DetectionEvaluator(index), _detections(index, found, min(found, BOXES), seed)
    evaluator.parts = [
        Part(seen=rows[k : k + 16, 0, 0].astype(int).tolist(), rows=list(rows[k : k + 16]))
        for k in range(0, len(rows), 16)
    ]
    return evaluator


def _detections(index: DatasetIndex, found: int, true: int, seed: int) -> NDArray[np.float64]:
    """(images, found, 7) ``[image_id, x, y, w, h, score, category_id]``, the first ``true`` of each near its boxes."""
    rng, images, classes = np.random.default_rng(seed), len(index.image_ids), len(index.names)
    rows = np.empty((images, found, 7))
    rows[..., 0] = np.asarray(index.image_ids)[:, None]
    rows[..., 1:5] = _boxes(rng, images * found).reshape(images, found, 4)
    rows[..., 5], rows[..., 6] = rng.uniform(size=(images, found)), rng.integers(1, classes + 1, (images, found))
    truth = np.concatenate([index.boxes[:, :2], index.boxes[:, 2:] - index.boxes[:, :2]], axis=1)
    rows[:, :true, 1:5] = truth.reshape(images, true, 4) + rng.normal(0, 1, (images, true, 4))
    rows[:, :true, 6] = np.asarray(index.category_ids)[index.labels].reshape(images, true)
    rows[..., 3:5] = np.maximum(rows[..., 3:5], 0.5)
    return rows
