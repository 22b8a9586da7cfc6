"""What several tests of this folder share: a small COCO document, and what a sound index is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from iifdet.datasets import DatasetIndex, Piece, Transformed
from iifdet.datasets.loader import Sample
from iifdet.datasets.segments import pack_segments
from iifdet.types import Batch

Document = dict[str, Any]
MakeCoco = Callable[[Document], Document]
MakeYolo = Callable[[dict[str, str]], Document]
#: Colour of the rectangles of each label in :func:`painted`.
COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
SIZES = [(60, 80), (80, 60), (50, 50)]


def document() -> Document:
    """Three images, ids far from rows; category ids out of order and with gaps; one crowd, one image without boxes."""
    images = [{"id": 40 + 3 * n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES)]
    annotations = [
        {"id": 7, "image_id": 43, "category_id": 90, "bbox": [5, 6, 20, 30], "area": 321.5, "iscrowd": 0},
        {"id": 5, "image_id": 40, "category_id": 3, "bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0},
        {"id": 9, "image_id": 40, "category_id": 90, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 1},
    ]
    categories = [{"id": 90, "name": "bus"}, {"id": 3, "name": "car"}, {"id": 17, "name": "tram"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def epochs_of(loader: DataLoader[Sample], epochs: Sequence[int], start: int = 0) -> list[Batch]:
    """The batches of these epochs, each from its image number ``start`` on."""
    found: list[Batch] = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch, start)  # type: ignore[attr-defined]
        found += list(loader)  # type: ignore[arg-type]
    return found


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    """The same images, targets and places, and some of them."""
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert a.infos == b.infos
        for x, y in zip(a.targets, b.targets, strict=True):
            assert x.keys() == y.keys()
            assert all(torch.equal(x[key], y[key]) for key in x)


def assert_sound(index: DatasetIndex) -> None:
    """What everything downstream relies on."""
    index.counts()
    limit = index.sizes[index.box_image][:, [1, 0, 1, 0]]
    assert ((index.boxes >= 0) & (index.boxes <= limit)).all()
    assert (index.boxes[:, 2:] > index.boxes[:, :2]).all()
    assert (np.diff(index.box_image) >= 0).all()
    assert np.isfinite(index.areas).all() and (index.areas > 0).all()
    assert len(set(index.ann_ids.tolist())) == len(index.labels)
    json.dumps(index.to_coco())
    for m in range(len(index.labels) if index.segments is not None else 0):
        index.segments.mask(m, *index.sizes[index.box_image[m]].tolist())


def painted(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey ground with one rectangle a colour, side by side; image, boxes, masks."""
    rng = np.random.default_rng(seed)
    image, masks = np.full((height, width, 3), 114, np.uint8), np.zeros((3, height, width), np.uint8)
    boxes = np.zeros((3, 4), np.float32)
    for k in range(3):
        x1, x2 = k * width // 3 + rng.integers(0, 5), (k + 1) * width // 3 - rng.integers(0, 5)
        y1, y2 = rng.integers(0, height // 3), rng.integers(height // 2, height + 1)
        image[y1:y2, x1:x2], masks[k, y1:y2, x1:x2], boxes[k] = COLOURS[k], 1, (x1, y1, x2, y2)
    return image, boxes, masks


def painted_piece(seed: int, masks: bool = True) -> Piece:
    """A painted picture of any size; label k has COLOURS[k]."""
    height, width = np.random.default_rng(seed).integers(60, 200, 2).tolist()
    image, boxes, drawn = painted(height, width, seed)
    return Piece(image, boxes, np.arange(3), drawn if masks else None)


def index_of(pieces: list[Piece], segments: bool = False, names: int = 3) -> DatasetIndex:
    """An index of pictures that are in no file; with polygons around the boxes if ``segments``."""
    counts = [len(piece.boxes) for piece in pieces]
    boxes = np.concatenate([piece.boxes for piece in pieces])
    polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    return DatasetIndex(
        names=[f"c{n}" for n in range(names)],
        root="",
        files=[f"{n}.png" for n in range(len(pieces))],
        sizes=np.array([piece.image.shape[:2] for piece in pieces], np.int32),
        image_ids=np.arange(len(pieces)) + 100,
        box_image=np.repeat(np.arange(len(pieces)), counts),
        boxes=boxes,
        labels=np.concatenate([piece.labels for piece in pieces]),
        crowd=np.zeros(len(boxes), bool),
        areas=np.ones(len(boxes), np.float32),
        ann_ids=np.arange(len(boxes)) + 1,
        category_ids=np.arange(names),
        segments=pack_segments(polygons)[0] if segments else None,
    )


def extent(mask: np.ndarray) -> np.ndarray:
    """The smallest box around a mask that is not empty."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def assert_objects_follow(out: Transformed, tight: float = 3, share: float = 0.99, strength: int = 100) -> None:
    """Boxes, labels and masks of a picture made of painted ones still say what can be seen.

    ``tight``: pixels between a box and its mask; ``share`` of a mask's inner pixels that show its label's colour, which
    leads the other two by ``strength``.
    """
    height, width = out.image.shape[:2]
    assert len(out.boxes) == len(out.labels)
    assert ((out.boxes >= 0) & (out.boxes <= [width, height, width, height])).all()
    assert ((out.boxes[:, 2:] - out.boxes[:, :2]) >= 2 - 1e-3).all()
    colours = out.image.astype(int)
    lead = np.stack([2 * colours[..., k] - (colours.sum(-1) - colours[..., k]) for k in range(3)]) / 2
    for k, (box, label) in enumerate(zip(out.boxes, out.labels.tolist(), strict=True)):
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        inner = np.zeros((height, width), np.uint8)
        inner[y1 + 3 : max(y2 - 3, 0), x1 + 3 : max(x2 - 3, 0)] = 1
        if out.masks is not None:
            assert out.masks.shape == (len(out.boxes), height, width)
            assert np.abs(extent(out.masks[k]) - box).max() <= tight
            inner = cv2.erode(out.masks[k], np.ones((7, 7), np.uint8), borderValue=0)
        if inner.any():
            assert (lead[label][inner > 0] > strength).mean() >= share
