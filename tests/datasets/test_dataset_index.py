"""DatasetIndex: lookup, selection, counting at LVIS size."""

from __future__ import annotations

import time

import numpy as np
import pytest
from dataset_helpers import MakeCoco, document

from iifdet.datasets import DatasetIndex, load_index


@pytest.fixture
def index(make_coco: MakeCoco) -> DatasetIndex:
    content = document()
    content["annotations"][1]["segmentation"] = [[10, 10, 40, 10, 40, 30], [10, 10, 12, 10, 12, 20]]
    content["annotations"][2]["segmentation"] = {"size": [60, 80], "counts": [0, 8, 4792]}
    return load_index(make_coco(content))


def test_masks_that_are_missing_are_counted_however_they_are_kept(index: DatasetIndex) -> None:
    assert index.segments is not None and [index.segments.has(m) for m in range(3)] == [True, True, False]
    assert index.segments.missing() == 1
    index.segments.order = np.array([2, 0, 2])  # slots of big files
    assert index.segments.missing() == 2


def test_boxes_of_gives_each_images_boxes(index: DatasetIndex) -> None:
    assert [index.boxes_of(i) for i in range(3)] == [slice(0, 2), slice(2, 3), slice(3, 3)]


def test_select_reorders_images_with_their_boxes_and_masks(index: DatasetIndex) -> None:
    chosen = index.select([2, 0])
    assert chosen.image_ids.tolist() == [46, 40]
    assert chosen.box_image.tolist() == [1, 1]
    assert chosen.ann_ids.tolist() == [5, 9]
    assert chosen.segments is not None and index.segments is not None
    assert [chosen.segments.coco(m) for m in (0, 1)] == [index.segments.coco(m) for m in (0, 1)]
    assert len(index.select([])) == 0
    assert index.select(np.array([False, True, False])).labels.tolist() == [2]


@pytest.mark.parametrize("rows", [[3], [-1], [0, 0], np.array([True])])
def test_select_refuses_rows_that_are_not_there_or_repeat(index: DatasetIndex, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rows: expected"):
        index.select(rows)


def test_digest_depends_on_content_only(index: DatasetIndex) -> None:
    assert index.select([0, 1, 2]).digest() == index.digest()
    assert index.select([0, 1]).digest() != index.digest()
    other = index.select([0, 1, 2])
    other.labels[0] = 1
    assert other.digest() != index.digest()


def test_crowds_count(index: DatasetIndex) -> None:
    counts = index.counts()
    assert (counts.images.tolist(), counts.instances.tolist()) == ([1, 0, 2], [1, 0, 2])
    assert counts.num_images == 3


def test_lvis_size_is_counted_in_a_second_and_right() -> None:
    images, boxes, classes = 100_000, 1_270_000, 1203
    rng = np.random.default_rng(0)
    box_image = np.sort(rng.integers(0, images, boxes))
    labels = (classes * rng.random(boxes) ** 3).astype(np.int64)
    index = DatasetIndex(
        names=[str(c) for c in range(classes)],
        root="",
        files=[""] * images,
        sizes=np.full((images, 2), 9, np.int32),
        image_ids=np.arange(images),
        box_image=box_image,
        boxes=np.zeros((boxes, 4), np.float32),
        labels=labels,
        crowd=np.zeros(boxes, bool),
        areas=np.ones(boxes, np.float32),
        ann_ids=np.arange(boxes),
        category_ids=np.arange(classes),
    )
    start = time.perf_counter()
    counts = index.counts()
    assert time.perf_counter() - start < 1.0
    for c in (0, 1, 17, 600, 1202):
        assert counts.images[c] == len(np.unique(box_image[labels == c]))
        assert counts.instances[c] == (labels == c).sum()
