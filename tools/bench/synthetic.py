"""Big COCO and LVIS files with the class counts of the published ones, written in seconds.

Steps: 1) lay every class out over as many images as it has 2) draw a few thousand outlines 3) write rows that take
turns with them. Images all have one size and are links to one empty file, so that only the annotations weigh.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 480, 640
OUTLINES = 4000
#: One box in so many is a crowd with a run-length mask, about as in COCO.
CROWD_EVERY = 80
_LINKS = 20_000  # file systems allow only so many links to one file


@dataclass(frozen=True)
class Layout:
    """Which class lies in which image, one entry a box: (M,) each."""

    image: NDArray[np.int64]
    label: NDArray[np.int64]


def load_counts(file: Path, share: float = 1.0) -> dict[str, Any]:
    """Published counts; with ``share`` below 1 all of them, and the images, shrink, but no class vanishes."""
    counts: dict[str, Any] = json.loads(file.read_text())
    images = max(1, round(counts["num_images"] * share))
    counts["num_images"] = images
    counts["image_count"] = [min(images, max(1, round(n * share))) for n in counts["image_count"]]
    pairs = zip(counts["instance_count"], counts["image_count"], strict=True)
    counts["instance_count"] = [max(n, round(m * share)) for m, n in pairs]
    counts.setdefault("names", [f"class {c}" for c in range(len(counts["image_count"]))])
    return counts


def lay_out(counts: dict[str, Any], rng: np.random.Generator) -> Layout:
    """Put every class into exactly its number of images, and its other instances into some of those again."""
    image, label = [], []
    for c, (images, instances) in enumerate(zip(counts["image_count"], counts["instance_count"], strict=True)):
        own = rng.choice(counts["num_images"], size=images, replace=False)
        again = rng.choice(own, size=instances - images)
        image += [own, again]
        label.append(np.full(instances, c))
    images_, labels = np.concatenate(image), np.concatenate(label)
    order = rng.permutation(len(images_))  # published files are not sorted by class
    return Layout(images_[order].astype(np.int64), labels[order].astype(np.int64))


def write_coco(folder: Path, counts: dict[str, Any], *, points: int = 24, seed: int = 0, lvis: bool = False) -> Path:
    """Write ``annotations.json`` and ``images/`` into ``folder``; returns the JSON file.

    Args:
        folder: where to; made if need be.
        counts: as :func:`load_counts` gives them.
        points: mean number of points of an outline; 24 makes COCO's bytes a box, 44 LVIS's.
        seed: everything random hangs on it.
        lvis: LVIS's keys: ``coco_url`` instead of ``file_name``, frequencies, federated lists, no crowds.
    """
    rng = np.random.default_rng(seed)
    layout, outlines = lay_out(counts, rng), _outlines(points, rng)
    crowd = f'"iscrowd": 1, "segmentation": {json.dumps(_run_lengths())}'
    file = folder / "annotations.json"
    folder.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as out:
        out.write('{"info": {"description": "synthetic"}, "licenses": [], "images": [')
        out.write(", ".join(json.dumps(image) for image in _images(counts, rng, lvis)))
        out.write('], "annotations": [')
        rows = zip(layout.image.tolist(), layout.label.tolist(), strict=True)
        for number, (image, label) in enumerate(rows, start=1):
            box, shape = outlines[number % OUTLINES]
            mask = crowd if not lvis and number % CROWD_EVERY == 0 else shape
            comma = "" if number == 1 else ", "
            out.write(f'{comma}{{"id": {number}, "image_id": {image + 1}, "category_id": {label + 1}, {box}, {mask}}}')
        out.write(f'], "categories": {json.dumps(_categories(counts, lvis))}}}')
    _link_images(folder / "images", [_name(n, lvis) for n in range(1, counts["num_images"] + 1)])
    return file


def _outlines(points: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Pairs of text: a box with its area, and a mask."""
    made = []
    for _ in range(OUTLINES):
        angles = np.sort(rng.uniform(0, 2 * np.pi, max(3, rng.poisson(points))))
        radius = rng.uniform(5, 200)
        spread = rng.uniform(0.6, 1, len(angles)) * radius
        x = np.round(np.clip(rng.uniform(0, WIDTH) + spread * np.cos(angles), 0, WIDTH - 2), 2)
        y = np.round(np.clip(rng.uniform(0, HEIGHT) + spread * np.sin(angles), 0, HEIGHT - 2), 2)
        box = [x.min(), y.min(), round(np.ptp(x) + 1, 2), round(np.ptp(y) + 1, 2)]
        area = round(float(box[2] * box[3]) * 0.7, 4)
        ring = np.stack([x, y], axis=1).ravel().tolist()
        made.append((f'"bbox": {json.dumps(box)}, "area": {area}', f'"iscrowd": 0, "segmentation": [{ring}]'))
    return made


def _run_lengths() -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": [1000, *[20, 460] * 40, HEIGHT * WIDTH - 1000 - 40 * 480]}


def _name(number: int, lvis: bool) -> str:
    return f"{'train2017' if number % 6 else 'val2017'}/{number:012}.jpg" if lvis else f"{number:012}.jpg"


def _images(counts: dict[str, Any], rng: np.random.Generator, lvis: bool) -> list[dict[str, Any]]:
    rows = []
    for number in range(1, counts["num_images"] + 1):
        row = {"id": number, "height": HEIGHT, "width": WIDTH, "license": 1, "date_captured": "2013-11-14 17:02:52"}
        if lvis:
            some = (1 + rng.integers(0, len(counts["names"]), 8)).tolist()
            row |= {"neg_category_ids": some[:5], "not_exhaustive_category_ids": some[5:]}
            row |= {"coco_url": f"http://images.cocodataset.org/{_name(number, lvis)}"}
        else:
            row |= {"file_name": _name(number, lvis), "coco_url": f"http://images.cocodataset.org/train2017/{number}"}
        rows.append(row)
    return rows


def _categories(counts: dict[str, Any], lvis: bool) -> list[dict[str, Any]]:
    rows = [{"id": c + 1, "name": name} for c, name in enumerate(counts["names"])]
    if lvis:
        columns = zip(rows, counts["image_count"], counts["instance_count"], strict=True)
        for row, images, instances in columns:
            group = "r" if images <= 10 else "c" if images <= 100 else "f"
            row |= {"frequency": group, "image_count": images, "instance_count": instances}
    return rows


def _link_images(folder: Path, names: list[str]) -> None:
    for start in range(0, len(names), _LINKS):
        first, *others = (folder / name for name in names[start : start + _LINKS])
        for parent in {path.parent for path in (first, *others)}:
            parent.mkdir(parents=True, exist_ok=True)
        first.touch()
        for path in others:
            os.link(first, path)
