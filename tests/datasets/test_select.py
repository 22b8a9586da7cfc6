"""fraction, holdout, classes and single_cls: what is kept, its names, and that the evaluator still understands it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_helpers import MakeCoco, assert_sound, document
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.datasets import DatasetIndex, load_index
from iifdet.datasets.select import choose_classes, hold_out, merge_classes, take_fraction
from iifdet.errors import InputError
from iifdet.evaluation import EVALUATORS


def make_index(images_of_class: list[list[int]], images: int) -> DatasetIndex:
    """An index with one box for each (class, image)."""
    pairs = sorted((image, label) for label, rows in enumerate(images_of_class) for image in rows)
    box_image = np.array([image for image, _ in pairs], dtype=np.int64)
    return DatasetIndex(
        names=[f"c{label}" for label in range(len(images_of_class))],
        root="r",
        files=[f"r/{n}.jpg" for n in range(images)],
        sizes=np.full((images, 2), 100, np.int32),
        image_ids=np.arange(images) + 7,
        box_image=box_image,
        boxes=np.tile(np.array([1, 2, 30, 40], np.float32), (len(pairs), 1)),
        labels=np.array([label for _, label in pairs], dtype=np.int64),
        crowd=np.zeros(len(pairs), bool),
        areas=np.full(len(pairs), 29 * 38, np.float32),
        ann_ids=np.arange(len(pairs)) + 1,
        category_ids=10 * np.arange(len(images_of_class)) + 3,
    )


@pytest.fixture
def long_tail() -> DatasetIndex:
    """1000 images, a tenth of them without boxes, and 12 classes in 900, 500, 250, … 1 images."""
    rng = np.random.default_rng(0)
    sizes = [900, 500, 250, 120, 60, 30, 15, 8, 4, 2, 1, 0]
    return make_index([rng.choice(900, size, replace=False).tolist() for size in sizes], images=1000)


# -- fraction ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fraction_keeps_every_class_and_their_proportions(
    long_tail: DatasetIndex, fraction: float, seed: int
) -> None:
    before, index = long_tail.counts().images, take_fraction(long_tail, fraction, seed)
    assert_sound(index)
    assert len(index) == 1000 * fraction
    after = index.counts().images
    assert ((after > 0) == (before > 0)).all()
    expected = before * fraction
    assert (abs(after - expected) <= 2 + 0.2 * expected + 2 * expected.sqrt()).all()
    without = 1000 * fraction - len(np.unique(index.box_image))
    assert abs(without - 100 * fraction) <= 2


def test_a_fraction_depends_on_the_seed_alone_and_smaller_ones_are_parts(long_tail: DatasetIndex) -> None:
    ids = [take_fraction(long_tail, f, seed=3).image_ids for f in (0.05, 0.3, 0.7, 1)]
    assert all(np.isin(a, b).all() for a, b in pairwise(ids))
    assert all((np.diff(a) > 0).all() for a in ids), "the images' order stays"
    assert np.array_equal(ids[1], take_fraction(long_tail, 0.3, seed=3).image_ids)
    assert not np.array_equal(ids[1], take_fraction(long_tail, 0.3, seed=4).image_ids)
    assert ids[3].tolist() == long_tail.image_ids.tolist()


def test_where_there_is_not_room_for_every_class_the_rarest_come_first(long_tail: DatasetIndex) -> None:
    index = take_fraction(long_tail, 0.001)
    assert len(index) == 1
    assert index.counts().images[10] == 1


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.sets(st.integers(0, 11), max_size=12).map(sorted), min_size=1, max_size=6),
    fraction=st.floats(0.001, 1),
    seed=st.integers(0, 99),
)
def test_no_class_vanishes_while_there_is_an_image_for_each(rows: list[list[int]], fraction: float, seed: int) -> None:
    before = make_index(rows, images=12)
    index = take_fraction(before, fraction, seed)
    assert len(index) == max(1, round(12 * fraction))
    assert set(index.image_ids.tolist()) <= set(before.image_ids.tolist())
    lost = (before.counts().images > 0) & (index.counts().images == 0)
    if len(index) >= len(rows):
        assert not lost.any()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_that_is_none_is_refused(long_tail: DatasetIndex, fraction: float) -> None:
    with pytest.raises(InputError, match="fraction: expected a share"):
        take_fraction(long_tail, fraction)


# -- classes -----------------------------------------------------------------------------------------------------------


def with_masks() -> dict[str, Any]:
    content = document()
    content["annotations"][0]["segmentation"] = [[5, 6, 25, 6, 25, 36]]
    content["annotations"][1]["segmentation"] = [[10, 10, 40, 10, 40, 30]]
    return content


@pytest.mark.parametrize("classes", [[2, 0], [0, 2], ["bus", "car"], [0, "bus"], ["car", 0, 2]])
def test_classes_are_chosen_by_number_or_name_and_keep_their_order(make_coco: MakeCoco, classes: list[Any]) -> None:
    index = load_index(make_coco(with_masks()), classes=classes)
    assert_sound(index)
    assert (index.names, index.category_ids.tolist()) == (["car", "bus"], [3, 90])
    assert index.labels.tolist() == [0, 1, 1]


def test_images_stay_and_boxes_masks_and_ids_go_with_their_class(make_coco: MakeCoco) -> None:
    full = load_index(make_coco(with_masks()))
    index = choose_classes(full, ["bus"])
    assert_sound(index)
    assert (len(index), index.ann_ids.tolist(), index.box_image.tolist()) == (3, [9, 7], [0, 1])
    assert index.segments is not None
    assert index.segments.coco(0) is None and index.segments.coco(1) == [[5, 6, 25, 6, 25, 36]]
    assert index.counts().names == ["bus"] and index.counts().num_images == 3
    assert [index.boxes_of(row) for row in range(3)] == [slice(0, 1), slice(1, 2), slice(2, 2)]
    assert full.names == ["car", "tram", "bus"] and len(full.labels) == 3, "the full index is left as it was"
    assert len(choose_classes(full, ["tram"]).labels) == 0
    assert choose_classes(full, "bus").names == choose_classes(full, 2).names == ["bus"]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (["tran"], "did you mean 'tram'"),
        ([3], "numbers from 0 to 2, or names, got 3"),
        ([-1], "numbers from 0 to 2"),
        ([], "empty list"),
    ],
)
def test_classes_that_the_data_do_not_have_are_refused(make_coco: MakeCoco, classes: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_index(make_coco(document()), classes=classes)


# -- single_cls --------------------------------------------------------------------------------------------------------


def test_one_class_of_all(make_coco: MakeCoco) -> None:
    index = load_index(make_coco(with_masks()), single_cls=True)
    assert_sound(index)
    assert (index.names, index.category_ids.tolist(), index.labels.tolist()) == (["object"], [1], [0, 0, 0])
    assert {a["category_id"] for a in index.to_coco()["annotations"]} == {1}
    both = load_index(make_coco(with_masks()), single_cls=True, classes=["bus"])
    assert (both.names, both.ann_ids.tolist()) == (["object"], [9, 7])


# -- together ----------------------------------------------------------------------------------------------------------


def test_fraction_is_for_training_and_its_images_do_not_depend_on_the_classes(tiny_data: str) -> None:
    some = load_index(tiny_data, fraction=0.5, seed=1)
    assert len(some) == 12 and (some.counts().images > 0).all()
    fewer = load_index(tiny_data, fraction=0.5, seed=1, classes=["green"], single_cls=True)
    assert fewer.files == some.files
    assert len(load_index(tiny_data, "val", fraction=0.5)) == 12


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize(
    "change", [lambda index: choose_classes(index, [2, 5, 1]), merge_classes, lambda index: take_fraction(index, 0.3)]
)
def test_perfect_detections_of_a_selection_score_one(long_tail: DatasetIndex, change: Any, engine: str) -> None:
    from iifdet.types import Batch, ImageInfo

    index = change(long_tail.select(range(0, 1000, 5)))
    evaluator = EVALUATORS["detect"](index, engine=engine)
    detections, infos = [], []
    for row, (file, (height, width)) in enumerate(zip(index.files, index.sizes.tolist(), strict=True)):
        where = index.boxes_of(row)
        boxes, labels = torch.from_numpy(index.boxes[where]), torch.from_numpy(index.labels[where])
        detections.append({"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels))})
        image_id = int(index.image_ids[row])
        infos.append(ImageInfo(image_id, row, file, (height, width), (1.0, 1.0), (0.0, 0.0)))
    evaluator.update(detections, Batch(torch.zeros(0), [], infos))
    result = evaluator.compute()
    assert result.names == index.names
    present = index.counts().images.numpy() > 0
    assert np.allclose(result.ap[present], 1) and np.isnan(result.ap[~present]).all()
    assert {p["category_id"] for p in evaluator.predictions()} == set(index.category_ids[present].tolist())
    assert Path(index.files[0]).name.endswith(".jpg")


# -- holdout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_holdout_has_every_class_on_both_sides_where_it_has_two_images(
    long_tail: DatasetIndex, share: float, seed: int
) -> None:
    rest, held = hold_out(long_tail, share, seed)
    assert_sound(rest), assert_sound(held)
    before, trained, tested = (i.counts().images.numpy() for i in (long_tail, rest, held))
    assert (trained + tested == before).all()
    assert sorted([*rest.files, *held.files]) == sorted(long_tail.files) and not set(rest.files) & set(held.files)
    assert (trained[before > 0] > 0).all() and (tested[before > 1] > 0).all()
    assert tested[before == 1].sum() == 0
    large = before >= 100
    assert tested[large] / before[large] == pytest.approx(share, abs=0.05)
    empty = len(held) - len(np.unique(held.box_image))
    assert empty == round(share * 100)


def test_a_holdout_is_the_same_for_the_same_seed_and_another_for_another(long_tail: DatasetIndex) -> None:
    first, again, other = (hold_out(long_tail, 0.1, seed)[1].files for seed in (3, 3, 4))
    assert first == again != other


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.sets(st.integers(0, 29), max_size=12).map(sorted), min_size=1, max_size=6),
    share=st.floats(0.02, 0.98),
)
def test_no_class_ever_loses_its_last_training_image_to_the_holdout(classes: list[list[int]], share: float) -> None:
    index = make_index(classes, images=30)
    try:
        rest, held = hold_out(index, share)
    except InputError:
        return
    assert ((rest.counts().images > 0) == (index.counts().images > 0)).all()
    assert len(rest) + len(held) == 30


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_holdout_of_nothing_or_all_is_refused(long_tail: DatasetIndex, share: float) -> None:
    with pytest.raises(InputError, match=r"^holdout: expected a share above 0 and below 1"):
        hold_out(long_tail, share)


def test_a_holdout_that_stays_empty_is_refused() -> None:
    with pytest.raises(InputError, match="expected enough images"):
        hold_out(make_index([[0], [1]], images=2), 0.1)
