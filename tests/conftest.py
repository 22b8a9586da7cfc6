"""A tiny long-tailed data set on disk and the keys with which a run on it takes about a second."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import settings

# One thread for each of xdist's workers. PyTorch asks MKL how many to take, and MKL heeds its own variable above
# OpenMP's; two workers with two threads each on two cores wait for one another many times longer than they work.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# On CI the same examples each time: a run fails for what changed, not for what was drawn. Elsewhere they are random.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many broken files the fuzz tests have tried; properties of reports come through from workers as well."""
    properties = [p for report in terminalreporter.getreports("passed") for p in report.user_properties]
    fuzzed = sum(int(value) for name, value in properties if name == "fuzzed files")
    if fuzzed:
        terminalreporter.write_line(f"{fuzzed} fuzzed files")


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """The command line gives the logger a handler on this test's stderr and cuts it off from the root, where caplog
    listens; the next test begins with a logger as it was imported, whatever ran before."""
    log = logging.getLogger("iifdet")
    before, propagate, level = log.handlers[:], log.propagate, log.level
    log.handlers, log.propagate = [], True
    yield
    log.handlers, log.propagate = before, propagate
    log.setLevel(level)


NAMES = ["red", "green", "blue", "white"]
COLOURS = [(40, 40, 220), (40, 220, 40), (220, 40, 40), (230, 230, 230)]  # BGR
#: Images of each class in the train split: a long tail of 12:1.
TRAIN_COUNTS = (12, 7, 4, 1)
SIZE = 64


def _write_split(root: Path, split: str, labels: list[int], rng: np.random.Generator) -> None:
    (root / split).mkdir(parents=True)
    images, annotations = [], []
    for i, label in enumerate(labels):
        canvas = np.full((SIZE, SIZE, 3), 90, np.uint8)
        for copy in range(2 if i % 4 == 0 else 1):
            w, h = rng.integers(14, 26, 2).tolist()
            x, y = int(rng.integers(0, SIZE - w)), int(rng.integers(0, SIZE - h))
            cv2.rectangle(canvas, (x, y), (x + w - 1, y + h - 1), COLOURS[label], -1)
            number = len(annotations) + 1
            box = {"id": number, "image_id": i + 1, "category_id": 10 * label + 5, "bbox": [x, y, w, h], "iscrowd": 0}
            annotations.append({**box, "area": w * h})
            if copy:
                break
        cv2.imwrite(str(root / split / f"{i:03}.png"), canvas)
        images.append({"id": i + 1, "file_name": f"{i:03}.png", "width": SIZE, "height": SIZE})
    categories = [{"id": 10 * c + 5, "name": name} for c, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of a test lands in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IIFDET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train and 12 val images of 64 px with one or two painted boxes, COCO format, and their data YAML."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    train = [label for label, count in enumerate(TRAIN_COUNTS) for _ in range(count)]
    _write_split(root, "train", train, rng)
    _write_split(root, "val", [i % len(NAMES) for i in range(12)], rng)
    description: dict[str, Any] = {"format": "coco", "path": "."}
    description |= {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    (root / "data.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def tiny_data(tiny_root: Path) -> str:
    """The data YAML of the tiny data set."""
    return str(tiny_root / "data.yaml")


@pytest.fixture(scope="session")
def data_with_masks(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set, each box with a polygon around it."""
    root = Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("masks") / "data"))
    for split in ("train", "val"):
        document = json.loads((root / f"{split}.json").read_text())
        for annotation in document["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        (root / f"{split}.json").write_text(json.dumps(document))
    return root / "data.yaml"


@pytest.fixture
def tiny_copy(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set that a test may break."""
    return Path(shutil.copytree(tiny_root, tmp_path / "copy"))


@pytest.fixture(scope="session")
def tiny_keys(tiny_data: str) -> Callable[..., dict[str, Any]]:
    """tiny_keys(project, **changes): keys of ``iifdet.train`` for a run of about half a second an epoch."""

    def keys(project: Path, **changes: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "model": "yolov3-nano",
            "model_args": {"width": 0.0625, "depth": 0.1},
            "data": tiny_data,
            "imgsz": 64,
            "batch": 8,
            "epochs": 2,
            "lr": 0.002,
            "optimizer": "adamw",
            "workers": 0,
            "device": "cpu",
            "plots": False,
            "ema": 0.0,
            "cache": False,
            "warmup_epochs": 0.5,
            "val_every": 1,
            "temperature": 1.0,
            "clip": 0.0,
            "project": str(project),
            "name": "run",
        }
        return {**base, **changes}

    return keys
