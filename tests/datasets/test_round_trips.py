"""One data set written in every format is read as the same index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_helpers import assert_sound
from dataset_writers import WITH_CROWDS, WITH_MASKS, WRITERS
from pycocotools import mask as coco_mask

from iifdet.datasets import DatasetIndex, load_index

#: Class names that need care in one format or another; the last one never appears.
NAMES = ["ant", "bee & wasp", "cow, brown", "<dog>", "éléphant", "fox"]
SIZES = [(60, 80), (81, 47), (50, 50), (33, 120), (64, 64), (90, 30), (40, 40)]


@pytest.fixture
def original(tmp_path: Path) -> DatasetIndex:
    """7 images (one without boxes) with 40 boxes in whole pixels, 14 of them with a polygon that spans the box."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "original").mkdir()
    for n, (height, width) in enumerate(SIZES):
        cv2.imwrite(str(tmp_path / "original" / f"im {n}.png"), np.full((height, width, 3), 9 * n, np.uint8))
        images.append({"id": 50 - n, "file_name": f"im {n}.png", "height": height, "width": width})
    for k in range(40):
        n = int(rng.integers(0, len(SIZES) - 1))
        height, width = SIZES[n]
        x1, x2 = np.sort(rng.choice(width + 1, 2, replace=False)).tolist()
        y1, y2 = np.sort(rng.choice(height + 1, 2, replace=False)).tolist()
        x, y = 0.63 * x1 + 0.37 * x2, 0.41 * y1 + 0.59 * y2  # no ties when masks are rasterised
        label = int(len(NAMES[:-1]) * rng.random() ** 2)
        annotations.append({"id": k + 1, "image_id": 50 - n, "category_id": 10 * label + 3})
        annotations[-1] |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        if k % 3 == 0:
            annotations[-1]["segmentation"] = [[x1, y, x, y1, x2, y, x, y2]]
    categories = [{"id": 10 * c + 3, "name": name} for c, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return _load(document, tmp_path / "original")


def _load(document: dict[str, Any], folder: Path) -> DatasetIndex:
    (folder / "all.json").write_text(json.dumps(document))
    return load_index({"format": "coco", "path": str(folder), "train": {"images": ".", "annotations": "all.json"}})


def content(index: DatasetIndex) -> dict[str, Any]:
    """What an index says, whatever order its images are in: file name -> size and sorted (class, crowd, box)."""
    names = [Path(file).name for file in index.files]
    assert len(set(names)) == len(names)
    found = {}
    for row, name in enumerate(names):
        where = index.boxes_of(row)
        columns = [index.labels[where, None], index.crowd[where, None], index.boxes[where].round(2)]
        rows = np.unique(np.concatenate(columns, axis=1), axis=0)
        found[name] = (index.sizes[row].tolist(), rows.tolist())
    return found


@pytest.mark.parametrize("format_", WRITERS)
def test_every_format_gives_the_same_index(original: DatasetIndex, tmp_path: Path, format_: str) -> None:
    again = load_index(WRITERS[format_](original, tmp_path / format_), max_bad=0)
    assert_sound(again)
    assert again.problems == []
    assert again.names == NAMES
    assert content(again) == content(original)
    assert np.abs(np.sort(again.boxes, axis=None) - np.sort(original.boxes, axis=None)).max() < 1e-4
    expected, counts = original.counts(), again.counts()
    assert counts.names == expected.names and counts.num_images == expected.num_images
    assert counts.images.tolist() == expected.images.tolist()
    assert counts.instances.tolist() == expected.instances.tolist()


@pytest.mark.parametrize("format_", WITH_MASKS)
def test_masks_survive_where_the_format_has_them(original: DatasetIndex, tmp_path: Path, format_: str) -> None:
    again = load_index(WRITERS[format_](original, tmp_path / format_))
    assert again.segments is not None and original.segments is not None
    row_of = {Path(file).name: row for row, file in enumerate(again.files)}
    compared = 0
    for row, file in enumerate(original.files):
        expected, found = original.boxes_of(row), again.boxes_of(row_of[Path(file).name])
        for m, k in zip(range(expected.start, expected.stop), range(found.start, found.stop), strict=True):
            polygons = original.segments.coco(m)
            assert original.segments.has(m) == again.segments.has(k) == (polygons is not None)
            if polygons is not None:
                height, width = original.sizes[row].tolist()
                oracle = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
                assert again.segments.coco(k) == [pytest.approx(polygons[0], abs=1e-6)]
                assert np.array_equal(again.segments.mask(k, height, width), oracle)
                compared += 1
    assert compared == 14


@pytest.mark.parametrize("format_", WITH_CROWDS)
def test_crowds_survive_where_the_format_has_them(original: DatasetIndex, tmp_path: Path, format_: str) -> None:
    original.crowd[::4] = True
    again = load_index(WRITERS[format_](original, tmp_path / format_))
    assert again.crowd.sum() == 10
    assert content(again) == content(original)
    assert sum(a["iscrowd"] for a in again.to_coco()["annotations"]) == 10


@pytest.mark.parametrize("format_", WRITERS)
def test_real_data_survive(data_dir: Path, tmp_path: Path, format_: str) -> None:
    original = load_index("car_damage", "val", segments=False)
    again = load_index(WRITERS[format_](original, tmp_path / format_), segments=False, max_bad=0.01)
    # The set has a few identical annotations, which the text reader drops; content() looks at each once.
    expected, found = content(original), content(again)
    assert again.names == original.names and expected.keys() == found.keys()
    for name, (size, rows) in expected.items():
        assert found[name][0] == size
        assert np.abs(np.array(rows) - np.array(found[name][1])).max(initial=0) < 0.02
