"""A small data set in memory, the oracle files, and the way from COCO annotations to detections."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from iifdet.types import Batch, Detection, ImageInfo, Target

Box = tuple[int, int, float, float, float, float]  #: image row, label, xyxy


@dataclass
class FakeIndex:
    """What the evaluator needs of a DatasetIndex; category and image ids are out of order on purpose."""

    boxes: list[Box]
    num_images: int = 3
    names: list[str] = field(default_factory=lambda: ["car", "bus", "tram"])
    crowds: tuple[int, ...] = ()

    @property
    def image_ids(self) -> np.ndarray:
        return np.array([100 - 7 * i for i in range(self.num_images)])

    @property
    def category_ids(self) -> np.ndarray:
        return np.array([(5 * c + 3) % 17 + 1 for c in range(len(self.names))])

    def to_coco(self) -> dict[str, Any]:
        annotations = [
            {
                "id": i,  # from 0: reference evaluators take id 0 for "not matched"
                "image_id": int(self.image_ids[row]),
                "category_id": int(self.category_ids[label]),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": int(i in self.crowds),
            }
            for i, (row, label, x0, y0, x1, y1) in enumerate(self.boxes)
        ]
        return {
            "images": [{"id": int(i), "width": 200, "height": 100} for i in self.image_ids],
            "categories": [{"id": int(c), "name": n} for c, n in zip(self.category_ids, self.names, strict=True)],
            "annotations": annotations,
        }

    def digest(self) -> str:
        return f"digest of {self.boxes}"

    def info(self, row: int, **geometry: Any) -> ImageInfo:
        return ImageInfo(int(self.image_ids[row]), row, f"{row}.jpg", (100, 200), **geometry)


def detection(boxes: list[Box], scores: list[float] | float = 0.9) -> Detection:
    scores = [scores] * len(boxes) if isinstance(scores, float) else scores
    return Detection(
        boxes=torch.tensor([b[2:] for b in boxes], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([b[1] for b in boxes], dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
    )


def batch_of(infos: list[ImageInfo]) -> Batch:
    target = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return Batch(torch.zeros(len(infos), 3, 1, 1), [target] * len(infos), infos)


@pytest.fixture(scope="session")
def fake_index() -> type[FakeIndex]:
    return FakeIndex


@pytest.fixture(scope="session")
def feed() -> Callable[..., None]:
    """feed(evaluator, boxes, scores, order): give the evaluator the boxes of each image of its index."""

    def _feed(evaluator: Any, boxes: list[Box], scores: Any = 0.9, order: Any = None) -> None:
        index = evaluator.index
        scores = [scores] * len(boxes) if isinstance(scores, float) else list(scores)
        for row in range(index.num_images) if order is None else order:
            mine = [i for i, box in enumerate(boxes) if box[0] == row]
            found = detection([boxes[i] for i in mine], [scores[i] for i in mine])
            evaluator.update([found], batch_of([index.info(row)]))

    return _feed


@pytest.fixture(scope="session")
def as_batch() -> Callable[[list[ImageInfo]], Batch]:
    return batch_of


@pytest.fixture(scope="session")
def as_detection() -> Callable[..., Detection]:
    return detection


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], Any]:
    """oracle(file): the parsed content of one of the oracle files."""
    folder = Path(os.environ.get("IIFDET_DATA_DIR", "unset")).parent / "oracle"
    if "IIFDET_DATA_DIR" not in os.environ or not folder.is_dir():
        pytest.skip("the oracle files lie beside IIFDET_DATA_DIR, which is unset or has no such neighbour")

    def _load(file: str) -> Any:
        text = (folder / file).read_text(encoding="utf-8")
        return json.loads(text) if file.endswith(".json") else yaml.safe_load(text)

    return _load
