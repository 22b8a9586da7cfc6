"""Training samples a second and core: our data set against Ultralytics' for the same work, on real photos.

The work: decode, letterbox or mosaic, flip, HSV, affine moves (Ultralytics' default ranges), batches of 16, in one
process with one thread. ``decode`` reads every image from its file, ``ram`` and ``disk`` keep them decoded. Ultralytics
takes a mosaic's three other pictures from those that it read lately, where we draw from the whole split and read four:
with mosaic only ``ram`` is the same work. Its store of recent pictures is held to 16, as if the
split were large, and its albumentations steps (blurs of probability 0.01) are left out. It needs an OpenCV of its own,
hence an environment of its own:

    python -m venv .venv-bench && .venv-bench/bin/pip install -c constraints.txt . ultralytics
    IIFDET_DATA_DIR=… .venv-bench/bin/python tools/bench/loader.py

IIFDET_DATA_DIR holds ``coco128`` (images/train, labels/train); it is copied, because Ultralytics writes beside it.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, paired_times, summary, write

from iifdet.datasets import DetectionDataset, Mixing, TrainTransform, collate, load_index

#: One epoch's batches, made and thrown away.
Pass = Callable[[], object]


def main() -> None:
    args = arguments(__doc__, sizes="416,640", repeats=15, batch=16)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    source = Path(os.environ.get("IIFDET_DATA_DIR", "")) / "coco128"
    if not source.is_dir():
        sys.exit(f"IIFDET_DATA_DIR: expected a folder that holds coco128, got {source.parent}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IIFDET_CACHE_DIR"] = str(Path(folder) / "cache")
        data = shutil.copytree(source, Path(folder) / "coco128", copy_function=shutil.copyfile)
        for size in (int(text) for text in args.sizes.split(",")):
            for mosaic in (0.0, 1.0):
                for cache in (False, "ram", "disk"):
                    rows.append(_measure(data, size, mosaic, cache, args.batch, args.repeats))
    write("loader", args.out, {"images": 128, "batch": args.batch, "loaders": rows})


def _measure(data: Path, size: int, mosaic: float, cache: str | bool, batch: int, repeats: int) -> dict[str, Any]:
    images, ours = _ours(data, size, mosaic, cache, batch)
    passes = {"iifdet": ours, **_theirs(data, size, mosaic, cache, batch)}
    times = paired_times(passes, repeats, warmup=1)
    row: dict[str, Any] = {"size": size, "mosaic": mosaic, "images": cache or "decode"}
    for name, figures in summary(times, "iifdet").items():
        row[name] = {"images_per_s": round(images / statistics.median(times[name]), 1), **figures}
    if len(passes) > 1:
        row["speed of iifdet / ultralytics"] = row["ultralytics"]["ratio"]  # of their times to ours, turn by turn
    print(row, file=sys.stderr)
    gc.collect()
    return row


def _ours(data: Path, size: int, mosaic: float, cache: str | bool, batch: int) -> tuple[int, Pass]:
    index = load_index({"path": str(data), "train": "images/train", "names": [str(n) for n in range(80)]}, "train")
    affine = {"translate": 0.1, "scale": 0.5}
    transform = TrainTransform(size, flip=0.5, hsv=(0.015, 0.7, 0.4), affine=affine)
    dataset = DetectionDataset(index, transform, mixing=Mixing(mosaic=mosaic), cache=cache)
    epoch = iter(range(10**9))
    return len(dataset), lambda: _batches(lambda n, e: dataset[e, n], len(dataset), next(epoch), batch, collate)


def _theirs(data: Path, size: int, mosaic: float, cache: str | bool, batch: int) -> dict[str, Pass]:
    try:
        from ultralytics.cfg import get_cfg
        from ultralytics.data.dataset import YOLODataset
    except ImportError:
        print("ultralytics is not installed: measuring iifdet alone", file=sys.stderr)
        return {}
    hyp = get_cfg(overrides={"mosaic": mosaic})
    names = {n: str(n) for n in range(80)}
    options: dict[str, Any] = {"cache": cache, "augment": True, "hyp": hyp, "batch_size": batch}
    dataset = YOLODataset(img_path=str(data / "images" / "train"), imgsz=size, data={"names": names}, **options)
    dataset.max_buffer_length = batch
    steps = dataset.transforms.transforms
    steps[:] = [step for step in steps if type(step).__name__ != "Albumentations"]
    collate_fn = YOLODataset.collate_fn
    return {"ultralytics": lambda: _batches(lambda n, _: dataset[n], len(dataset), 0, batch, collate_fn)}


def _batches(
    sample: Callable[[int, int], Any], length: int, epoch: int, batch: int, collate_fn: Callable[..., Any]
) -> None:
    for start in range(0, length, batch):
        collate_fn([sample(n, epoch) for n in range(start, min(start + batch, length))])


if __name__ == "__main__":
    main()
