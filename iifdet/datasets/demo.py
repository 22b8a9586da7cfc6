"""The embedded demo data: outlines on noisy ground, made on the spot from a seed and written as COCO JSON.

Steps: 1) draw by lot which shape is how common 2) deal the classes out to images 3) paint each image 4) write.

Class c of C appears in ``most * imbalance ** (-c / (C - 1))`` training images; validation is balanced. Every class of
the rarer half has a look-alike in the commoner half, so that what decides is how the classifier leans.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.demo_shapes import PAIRS, Outline
from iifdet.errors import InputError, suggest

#: Changes whenever the same arguments give other data.
VERSION = 1
MARKER = "demo.json"
SIDES = (128, 144, 160)
#: Shares of images with one, two, three classes in them.
CLASSES_AN_IMAGE = (0.7, 0.25, 0.05)
#: How often an image repeats one of its classes, so that image and instance counts differ.
REPEAT = 0.15
MAX_OBJECTS = 3
_SHIFT = 4  # cv2 draws with 1/16 pixel


@dataclass(frozen=True)
class Shape:
    """A demo class: its name and its outline."""

    name: str
    outline: Outline


def make_demo(
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    most: int = 300,
    imbalance: float = 100.0,
    val_per_class: int = 16,
) -> Path:
    """Make the demo data in ``folder``, or find them there as made before with the same arguments.

    They are painted beside the folder and renamed, so that a folder of this name is always complete.

    Args:
        folder: where to; gets ``train/``, ``val/``, ``train.json``, ``val.json``.
        seed: everything random hangs on it.
        most: training images of the most common class.
        imbalance: most common over rarest class, in training images.
        val_per_class: validation images of every class.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    arguments = {"seed": seed, "most": most, "imbalance": imbalance, "val_per_class": val_per_class}
    marker = {"version": VERSION, **arguments}
    if _is_complete(folder, marker):
        return folder
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "demo"
            _write(made, seed, train_counts(most, imbalance), [val_per_class] * (2 * len(PAIRS)))
            (made / MARKER).write_text(json.dumps(marker))
            _move(made, folder, marker)
    except OSError as error:
        raise InputError(f"demo data: expected to write {folder}, got {error.strerror or error}") from error
    return folder


def make_demo_from(folder: Path, arguments: dict[str, Any]) -> Path:
    """:func:`make_demo` with arguments as they stand in a description's ``generate``, checked."""
    known = [name for name in inspect.signature(make_demo).parameters if name != "folder"]
    for key, value in arguments.items():
        if key not in known:
            raise InputError(f"generate: unknown key '{key}'{suggest(str(key), known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < (0 if key == "seed" else 1):
            raise InputError(f"generate: {key}: expected a number of at least {int(key != 'seed')}, got {value!r}")
        if key != "imbalance" and not isinstance(value, int):
            raise InputError(f"generate: {key}: expected a whole number, got {value!r}")
    return make_demo(folder, **arguments)


def train_counts(most: int, imbalance: float) -> list[int]:
    """Training images of each class, most common first.

    Example:
        >>> train_counts(300, 100)[:3], train_counts(300, 100)[-1]
        ([300, 235, 185], 3)
    """
    share = np.arange(2 * len(PAIRS)) / (2 * len(PAIRS) - 1)
    return [max(1, round(float(n))) for n in most * imbalance**-share]


def draw_classes(seed: int) -> list[Shape]:
    """Classes by frequency, most common first: class c and class c + C/2 look alike, by lot which is which."""
    rng = _rng(seed, 0)
    pairs = [PAIRS[p] for p in rng.permutation(len(PAIRS))]
    turned = [pair[::-1] if turn else pair for pair, turn in zip(pairs, rng.integers(0, 2, len(pairs)), strict=True)]
    return [Shape(name, outline()) for half in (0, 1) for name, outline in (pair[half] for pair in turned)]


def deal(counts: list[int], rng: np.random.Generator) -> list[list[int]]:
    """Deal classes out to images so that class c lies in exactly ``counts[c]`` of them; repeats come last in a list."""
    left = np.array(counts)
    images: list[list[int]] = []
    while left.any():
        wanted = 1 + int(rng.choice(len(CLASSES_AN_IMAGE), p=CLASSES_AN_IMAGE))
        some = min(wanted, int((left > 0).sum()))
        chosen = rng.choice(len(left), size=some, replace=False, p=left / left.sum()).tolist()
        left[chosen] -= 1
        if some < MAX_OBJECTS and rng.random() < REPEAT:
            chosen.append(chosen[0])
        images.append(chosen)
    return [images[i] for i in rng.permutation(len(images))]


def paint(shapes: list[Outline], rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Outline]]:
    """Paint one image (H, W, 3) BGR with these shapes, and return where their outlines lie in it."""
    height, width = (int(v) for v in rng.choice(SIDES, 2))
    image = _ground(height, width, rng)
    places = _places(len(shapes), height, width, rng)
    outlines = []
    for shape, place in zip(shapes, places, strict=True):
        outline = _pose(shape, place, rng)
        _fill(image, outline, rng)
        outlines.append(outline)
    image += rng.normal(0, rng.uniform(2, 7), image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), outlines


def _rng(seed: int, *words: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed & 0xFFFFFFFF, *words]))


def _ground(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noisy ground: a base colour, blotches of two sizes, and strokes that are no objects."""
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:] = rng.uniform(50, 205, 3)
    for cells, strength in ((4, 30.0), (16, 14.0)):
        blotches = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 4))):
        ends = rng.uniform(0, 1, (2, 2)) * [width, height]
        start, end = (tuple(int(v) for v in point) for point in ends)
        cv2.line(image, start, end, rng.uniform(30, 225, 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def _places(number: int, height: int, width: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre x, centre y and radius of each object: all inside, none over another."""
    largest = (0.34, 0.27, 0.22)[number - 1] * min(height, width)
    while True:
        radii = rng.uniform(0.6, 1.0, number) * largest
        xy = np.stack([rng.uniform(radii, width - radii), rng.uniform(radii, height - radii)], axis=1)
        gaps = np.linalg.norm(xy[:, None] - xy[None], axis=2) - radii[:, None] - radii[None]
        if (gaps[np.triu_indices(number, 1)] > 0).all():
            return [(float(x), float(y), float(r)) for (x, y), r in zip(xy, radii, strict=True)]


def _pose(shape: Outline, place: tuple[float, float, float], rng: np.random.Generator) -> Outline:
    """Stretch, turn and move an outline so that it stays within its circle."""
    x, y, radius = place
    turn = np.deg2rad(rng.uniform(-30, 30))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = (shape * rng.uniform(0.9, 1.0, 2)) @ rotation
    points /= np.linalg.norm(points, axis=1).max()
    return np.asarray(points * radius + [x, y], dtype=np.float64)


def _fill(image: NDArray[np.float32], outline: Outline, rng: np.random.Generator) -> None:
    """Paint one object in place: a colour that stands out, shading across it, a fine grain."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    # The outline is continuous, with pixel centres at .5; cv2 puts them at whole numbers.
    fixed = np.round((outline - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
    inside = mask > 0
    under = image[inside].mean(axis=0)
    colour = under
    while np.abs(colour - under).max() < 60:
        colour = rng.uniform(20, 235, 3)
    slope = rng.normal(0, 0.3, 2)
    ys, xs = np.nonzero(inside)
    shade = (xs - outline[:, 0].mean()) * slope[0] + (ys - outline[:, 1].mean()) * slope[1]
    paint = colour + shade[:, None] + rng.normal(0, 5, (len(xs), 1))
    alpha = mask[inside, None] / np.float32(255)
    image[inside] = (image[inside] * (1 - alpha) + paint * alpha).astype(np.float32)


def _write(folder: Path, seed: int, train: list[int], val: list[int]) -> None:
    classes = draw_classes(seed)
    for number, (split, counts) in enumerate((("train", train), ("val", val)), start=1):
        (folder / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for row, chosen in enumerate(deal(counts, _rng(seed, number)), start=1):
            picture, outlines = paint([classes[c].outline for c in chosen], _rng(seed, number, row))
            name, (height, width) = f"{row:06d}.jpg", picture.shape[:2]
            if not cv2.imwrite(str(folder / split / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92]):
                raise OSError(f"cannot write {folder / split / name}")
            images.append({"id": row, "file_name": name, "height": height, "width": width})
            for label, outline in zip(chosen, outlines, strict=True):
                annotations.append(_annotation(len(annotations) + 1, row, label + 1, outline))
        document = {
            "info": {"description": f"iifdet demo data, version {VERSION}, seed {seed}, {split}"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": c + 1, "name": shape.name} for c, shape in enumerate(classes)],
        }
        (folder / f"{split}.json").write_text(json.dumps(document))


def _annotation(number: int, image: int, category: int, outline: Outline) -> dict[str, Any]:
    points = np.round(outline, 2)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    x, y = points[:, 0], points[:, 1]
    area = abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2  # the shoelace formula
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "area": round(area, 2),
        "iscrowd": 0,
        "segmentation": [points.ravel().tolist()],
    }


def _is_complete(folder: Path, marker: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / MARKER).read_text()) == marker)
    except (OSError, ValueError):
        return False


def _refuse_foreign(folder: Path) -> None:
    """Raise when the folder holds anything but demo data."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise InputError(f"demo data: expected {folder} to be empty or of this kind, got other files; move them")


def _move(made: Path, folder: Path, marker: dict[str, Any]) -> None:
    """Rename into place; older demo data give way."""
    if _is_complete(folder, marker):
        return  # Another process was faster.
    _refuse_foreign(folder)
    if folder.exists():
        shutil.move(folder, made.parent / "old")
    try:
        os.replace(made, folder)
    except OSError:
        if not _is_complete(folder, marker):
            raise
