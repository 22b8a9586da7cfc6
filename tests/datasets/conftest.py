"""A small data set on disk in both formats, and the real data where IIFDET_DATA_DIR says where they lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_helpers import SIZES, Document, MakeCoco, MakeYolo
from planted import Planted


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that ask for it skip without one."""
    folder = os.environ.get("IIFDET_DATA_DIR")
    if not folder:
        pytest.skip("IIFDET_DATA_DIR is not set: no real data to compare with")
    return Path(folder)


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """Write a COCO document with grey images; returns the description as a dict."""

    def make(content: Document) -> Document:
        (tmp_path / "images").mkdir(exist_ok=True)
        for n, (height, width) in enumerate(SIZES):
            cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), np.full((height, width, 3), 40 * n, np.uint8))
        (tmp_path / "train.json").write_text(json.dumps(content))
        return {
            "format": "coco",
            "path": str(tmp_path),
            "train": {"images": "images", "annotations": "train.json"},
        }

    return make


@pytest.fixture
def make_yolo(tmp_path: Path) -> MakeYolo:
    """Write images and these label files (stem -> text); returns the description as a dict."""

    def make(labels: dict[str, str]) -> Document:
        for folder in ("images/train", "labels/train"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for n, (height, width) in enumerate(SIZES):
            cv2.imwrite(str(tmp_path / "images/train" / f"im{n}.png"), np.full((height, width, 3), 40, np.uint8))
        for stem, text in labels.items():
            (tmp_path / "labels/train" / f"{stem}.txt").write_text(text)
        return {"path": str(tmp_path), "train": "images/train", "names": ["car", "bus", "tram"]}

    return make


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)
