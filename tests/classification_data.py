"""Small data sets of classification in every format, with the same images."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

NAMES = ["ant", "bee", "cow"]
TRAIN, TEST = (5, 3, 2), (2, 2, 1)


def picture(seed: int, side: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_picture(path: Path, seed: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(seed, side)[:, :, ::-1])


def write_folders(root: Path) -> dict[str, Any]:
    """train and test, a folder a class; images are PNG, so pixels stay."""
    for split, counts in (("train", TRAIN), ("test", TEST)):
        for label, (name, count) in enumerate(zip(NAMES, counts, strict=True)):
            for i in range(count):
                write_picture(root / split / name / f"{i:03}.png", 1000 * (split == "test") + 100 * label + i)
    return {"task": "classify", "format": "folder", "path": str(root), "train": "train", "test": "test"}


def write_zip(root: Path) -> dict[str, Any]:
    """The same in a zip file."""
    folder = root.with_suffix("")
    content = write_folders(folder)
    archive = root.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder).as_posix())
    return {**content, "path": str(archive)}


def write_lists(root: Path) -> dict[str, Any]:
    """The same with list files."""
    write_folders(root)
    for split in ("train", "test"):
        files = sorted((root / split).rglob("*.png"))
        lines = [f"{f.relative_to(root).as_posix()} {NAMES.index(f.parent.name)}" for f in files]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    splits = {s: {"images": ".", "list": f"{s}.txt"} for s in ("train", "test")}
    return {"task": "classify", "format": "list", "path": str(root), **splits}


def write_inaturalist(root: Path) -> dict[str, Any]:
    """The same with iNaturalist's JSON."""
    write_folders(root)
    for split in ("train", "test"):
        files = sorted((root / split).rglob("*.png"))
        content = {
            "images": [{"id": 7 + i, "file_name": f.relative_to(root).as_posix()} for i, f in enumerate(files)],
            "annotations": [
                {"id": i, "image_id": 7 + i, "category_id": 10 * NAMES.index(f.parent.name)}
                for i, f in enumerate(files)
            ],
            "categories": [{"id": 10 * label, "name": name, "x": 1} for label, name in enumerate(NAMES)],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    splits = {s: {"images": ".", "annotations": f"{s}.json"} for s in ("train", "test")}
    return {"task": "classify", "format": "inaturalist", "path": str(root), **splits}


def write_cifar(root: Path, images: int = 20, classes: int = 10) -> dict[str, Any]:
    """Files of CIFAR's form; image i of a file has label i % classes."""
    format_ = f"cifar{classes}"
    folder = root / {10: "cifar-10-batches-py", 100: "cifar-100-python"}[classes]
    folder.mkdir(parents=True)
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    key, meta, names = (
        (b"labels", "batches.meta", b"label_names") if classes == 10 else (b"fine_labels", "meta", b"fine_label_names")
    )
    for seed, name in enumerate(files):
        pixels = np.random.default_rng(seed).integers(0, 256, (images, 3072), dtype=np.uint8)
        content = {b"data": pixels, key: [i % classes for i in range(images)], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / meta).write_bytes(pickle.dumps({names: [f"class {c}".encode() for c in range(classes)]}, protocol=2))
    return {"task": "classify", "format": format_, "path": str(folder), "train": "train", "test": "test"}


def write_colours(root: Path, train: tuple[int, ...] = (24, 12, 6)) -> str:
    """Folders of three colours, 32 x 32; the data's YAML."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", train), ("test", (5, 5, 5))):
        for label, count in enumerate(counts):
            place = root / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 90, (32, 32, 3)).astype(np.uint8)
                image[:, :, label] += 120
                cv2.imwrite(str(place / f"{number}.png"), image)
    description = {"task": "classify", "format": "folder", "path": ".", "train": "train", "test": "test"}
    (root / "data.yaml").write_text(yaml.safe_dump(description))
    return str(root / "data.yaml")


def small_classifier(root: Path, **changes: Any) -> dict[str, Any]:
    """Keys of a classifier on three colours, with every augmentation: three epochs of four steps."""
    keys: dict[str, Any] = {"model": "se_resnet20", "model_args": {"width": 0.25}, "imgsz": 32}
    keys |= {"data": write_colours(root), "project": root, "workers": 0, "plots": False}
    keys |= {"batch": 8, "epochs": 3, "lr": 0.01, "ema": 0.9, "schedule": "constant"}
    keys |= {"mixup": 0.2, "cutout": 8, "auto_augment": "cifar10"}
    return keys | changes
