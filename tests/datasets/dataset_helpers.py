"""What several tests of this folder share: a small COCO document, and what a sound index is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from iifdet.datasets import DatasetIndex

Document = dict[str, Any]
MakeCoco = Callable[[Document], Document]
MakeYolo = Callable[[dict[str, str]], Document]
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
