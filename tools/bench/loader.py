"""Training samples a second and core: our data set against Ultralytics' for the same work, on real photos.

The work: decode, letterbox or mosaic, flip, HSV, affine moves (Ultralytics' default ranges), batches of 16, in one
process with one thread, which does what one worker of eight does: it makes every eighth batch of a split of 1,024
photos, and keeps no more of what it has read than such a worker keeps. ``decode`` reads images from their files,
``ram`` and ``disk`` keep them all decoded. Both take the other three pictures of a mosaic from those that the worker
has read lately (64 or more here, 128 there). Ultralytics' albumentations steps (blurs of probability 0.01) are left
out. It needs an OpenCV of its own, hence an environment of its own:

    python -m venv .venv-bench && .venv-bench/bin/pip install -c constraints.txt . ultralytics
    IIFDET_DATA_DIR=… .venv-bench/bin/python tools/bench/loader.py

IIFDET_DATA_DIR holds ``coco128`` (images/train, labels/train); it is copied eight times, to make a split that no worker
keeps as a whole, and because Ultralytics writes beside it.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, paired_times, summary, write

from iifdet.datasets import (
    DetectionDataset,
    EpochSampler,
    Mixing,
    SampleKey,
    TrainTransform,
    collate,
    load_index,
    partners,
)

#: Photos of the split, and workers that share them.
IMAGES, WORKERS = 1024, 8
#: What one worker makes of an epoch, made and thrown away.
Pass = Callable[[], object]


def main() -> None:
    args = arguments(__doc__, sizes="416,640", repeats=15, batch=16)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    source = Path(os.environ.get("IIFDET_DATA_DIR", "")) / "coco128"
    if not source.is_dir():
        sys.exit(f"IIFDET_DATA_DIR: expected a folder that holds coco128, got {source.parent}")
    rows = []
    # This process stands for one worker of several: only that many images are kept.
    partners.get_worker_info = lambda: SimpleNamespace(num_workers=WORKERS)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IIFDET_CACHE_DIR"] = str(Path(folder) / "cache")
        data = _copies(source, Path(folder) / "photos")
        for size in (int(text) for text in args.sizes.split(",")):
            for mosaic in (0.0, 1.0):
                for cache in (False, "ram", "disk"):
                    rows.append(_measure(data, size, mosaic, cache, args.batch, args.repeats))
    write("loader", args.out, {"images": IMAGES, "workers": WORKERS, "batch": args.batch, "loaders": rows})


def _copies(source: Path, folder: Path) -> Path:
    """Eight copies of each photo and its labels under names of their own."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
        for file in (source / kind / "train").iterdir():
            for n in range(IMAGES // 128):
                shutil.copyfile(file, folder / kind / "train" / f"{n}_{file.name}")
    return folder


def _measure(data: Path, size: int, mosaic: float, cache: str | bool, batch: int, repeats: int) -> dict[str, Any]:
    passes = {"iifdet": _ours(data, size, mosaic, cache, batch), **_theirs(data, size, mosaic, cache, batch)}
    times = paired_times(passes, repeats, warmup=1)
    images = IMAGES // WORKERS
    row: dict[str, Any] = {"size": size, "mosaic": mosaic, "images": cache or "decode"}
    for name, figures in summary(times, "iifdet").items():
        row[name] = {"images_per_s": round(images / statistics.median(times[name]), 1), **figures}
    if len(passes) > 1:
        row["speed of iifdet / ultralytics"] = row["ultralytics"]["ratio"]  # of their times to ours, turn by turn
    print(row, file=sys.stderr)
    gc.collect()
    return row


def _ours(data: Path, size: int, mosaic: float, cache: str | bool, batch: int) -> Pass:
    index = load_index({"path": str(data), "train": "images/train", "names": [str(n) for n in range(80)]}, "train")
    affine = {"translate": 0.1, "scale": 0.5}
    transform = TrainTransform(size, flip=0.5, hsv=(0.015, 0.7, 0.4), affine=affine)
    dataset = DetectionDataset(index, transform, mixing=Mixing(mosaic=mosaic), cache=cache)
    sampler = EpochSampler(len(index), batch=batch, pools=dataset.mixing.tiles)
    if cache == "disk":
        for row in range(len(index)):
            dataset.piece(row)  # all are on the disk before anything is measured, as Ultralytics' are
    return _passes(dataset.__getitem__, _lane(sampler, batch), batch, collate)


def _lane(sampler: EpochSampler, batch: int) -> Iterator[list[SampleKey]]:
    """What one worker gets of each epoch."""
    for epoch in count():
        sampler.set_epoch(epoch)
        keys = list(sampler)
        yield [key for first in range(0, len(keys), batch * WORKERS) for key in keys[first : first + batch]]


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
    steps = dataset.transforms.transforms
    steps[:] = [step for step in steps if type(step).__name__ != "Albumentations"]
    rng = np.random.default_rng(0)
    order = (rng.permutation(IMAGES)[: IMAGES // WORKERS].tolist() for _ in count())
    return {"ultralytics": _passes(dataset.__getitem__, order, batch, YOLODataset.collate_fn)}


def _passes(sample: Callable[[Any], Any], order: Iterator[list[Any]], batch: int, together: Callable[..., Any]) -> Pass:
    def run() -> None:
        keys = next(order)
        for start in range(0, len(keys), batch):
            together([sample(key) for key in keys[start : start + batch]])

    return run


if __name__ == "__main__":
    main()
