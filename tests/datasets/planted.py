"""A sound data set of two splits on disk that a test may spoil, and its findings in short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iifdet.datasets.findings import Finding
from iifdet.inspection import find_faults, read_splits

HEIGHT, WIDTH = 60, 80
Row = tuple[str, str, str, str, int | None]
#: A planted fault: what to do to the data set, and the findings it must give.
Edit = Callable[["Planted"], Any]


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def square(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


class Planted:
    """A sound data set of two splits on disk, four images each, that a test may spoil.

    Image n of a split shows two boxes with masks, one of class ``car`` and one of ``bus``. Ids: train's images from
    100, val's from 200; annotation ids 10 * image + 0 or 1.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents = {split: self._split(split, start) for split, start in (("train", 100), ("val", 200))}
        self.extra: dict[str, Any] = {}

    def _split(self, split: str, start: int) -> dict[str, Any]:
        (self.root / split).mkdir()
        images, annotations = [], []
        for number in range(start, start + 4):
            cv2.imwrite(str(self.root / split / f"{number}.png"), noise(number))
            images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
            for c, (x, y, w, h) in enumerate([(5, 6, 20, 30), (40, 10, 30, 24)]):
                box = {"id": 10 * number + c, "image_id": number, "category_id": 7 - 4 * c, "bbox": [x, y, w, h]}
                annotations.append({**box, "area": w * h, "iscrowd": 0, "segmentation": square(x, y, w, h)})
        categories = [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]
        return {"images": images, "annotations": annotations, "categories": categories}

    @property
    def boxes(self) -> list[dict[str, Any]]:
        return self.documents["train"]["annotations"]

    @property
    def images(self) -> list[dict[str, Any]]:
        return self.documents["train"]["images"]

    def file(self, number: int) -> Path:
        return self.root / ("train" if number < 200 else "val") / f"{number}.png"

    def description(self) -> dict[str, Any]:
        splits = {}
        for split, document in self.documents.items():
            (self.root / f"{split}.json").write_text(json.dumps(document))
            splits[split] = {"images": split, "annotations": f"{split}.json"}
        return {"format": "coco", "path": str(self.root), **splits, **self.extra}

    def found(self, **keys: Any) -> list[Row]:
        """Severity, split, file name, reason and box of each finding."""
        return [short(f) for f in find_faults(read_splits(self.description()), max_bad=1.0, **keys)]


def short(finding: Finding) -> Row:
    return finding.severity, finding.split, Path(finding.file).name, finding.reason, finding.box


def box(number: int, reason: str, severity: str = "warning", file: str = "101.png") -> list[Row]:
    return [(severity, "train", file, reason, number)]
