"""Repeat factors, class-aware and square-root sampling, and the keys a sampler yields."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from iifdet.datasets import SAMPLING, TOGETHER, DatasetIndex, repeat_factors
from iifdet.datasets.samplers import EpochSampler
from iifdet.datasets.sampling import class_balanced, repeat_factor, round_at_random
from iifdet.errors import InputError


def index_of(images: list[list[int]], classes: int) -> DatasetIndex:
    """An index whose images have boxes with these labels."""
    labels = np.array([label for image in images for label in image], dtype=np.int64)
    n, m = len(images), len(labels)
    return DatasetIndex(
        names=[f"c{c}" for c in range(classes)],
        root="/data",
        files=[f"/data/{i}.jpg" for i in range(n)],
        sizes=np.full((n, 2), 10, np.int32),
        image_ids=np.arange(n) * 3 + 100,
        box_image=np.repeat(np.arange(n), [len(image) for image in images]),
        boxes=np.tile(np.array([[1, 1, 5, 5]], np.float32), (m, 1)),
        labels=labels,
        crowd=np.zeros(m, bool),
        areas=np.full(m, 16, np.float32),
        ann_ids=np.arange(m) + 1,
        category_ids=np.arange(classes),
    )


#: 100 images: class 0 in 90, class 1 in 9 (twice in each), class 2 in one that shows class 0 too; one is empty.
TAIL = index_of([[0]] * 89 + [[1, 1]] * 9 + [[0, 2]] + [[]], 3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- repeat factors ----------------------------------------------------------------------------------------------------


def test_repeat_factors_are_the_square_root_rule_s() -> None:
    factors = repeat_factors(TAIL, threshold=0.25)
    assert factors[:89].tolist() == [1] * 89
    assert factors[89:98].tolist() == pytest.approx([math.sqrt(0.25 / 0.09)] * 9)
    assert factors[98] == pytest.approx(math.sqrt(0.25 / 0.01)), "the rarest class of an image decides"
    assert factors[99] == 1


def test_repeat_factors_by_instances_and_by_both() -> None:
    share = 18 / 109  # of all boxes
    assert repeat_factors(TAIL, 0.25, "instance")[90] == pytest.approx(math.sqrt(0.25 / share))
    assert repeat_factors(TAIL, 0.25, "both")[90] == pytest.approx(math.sqrt(0.25 / math.sqrt(share * 0.09)))


def test_common_classes_are_never_repeated_nor_left_out() -> None:
    drawn = Counter(repeat_factor(TAIL, 0.25)(rng()).tolist())
    assert [drawn[row] for row in range(89)] == [1] * 89
    assert drawn[98] == 5 and drawn[99] == 1
    assert sum(drawn[row] for row in range(89, 98)) in (14, 15, 16)  # 9 · 1.667 = 15


def test_epochs_have_one_length_and_the_mean_is_the_factor() -> None:
    draw, total = repeat_factor(TAIL, 0.25), np.zeros(100)
    lengths = set()
    for seed in range(400):
        rows = draw(rng(seed))
        lengths.add(len(rows))
        total += np.bincount(rows, minlength=100)
    assert len(lengths) == 1
    np.testing.assert_allclose(total / 400, repeat_factors(TAIL, 0.25), atol=0.09)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, math.nan])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="repeat_threshold: expected"):
        repeat_factors(TAIL, threshold)


def test_an_unknown_count_is_refused() -> None:
    with pytest.raises(InputError, match="sampling_by: expected one of image, instance, both"):
        repeat_factors(TAIL, by="images")


@given(st.lists(st.floats(0, 50), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_rounding_moves_each_value_by_less_than_two_and_keeps_the_sum(values: list[float], seed: int) -> None:
    given_values = np.array(values)
    rounded = round_at_random(given_values, rng(seed))
    parts = given_values - np.floor(given_values)
    assert rounded.sum() == np.floor(given_values).sum() + round(float(parts.sum()))
    assert (rounded >= np.floor(given_values)).all()
    assert (rounded[parts == 0] == given_values[parts == 0]).all()


# -- class-balanced ----------------------------------------------------------------------------------------------------


def shares(rows: NDArray[np.int64], index: DatasetIndex) -> dict[int, float]:
    """Share of draws for images that show only one class."""
    first = {row: int(index.labels[index.boxes_of(row)][0]) for row in set(rows.tolist())}
    drawn = Counter(first[row] for row in rows.tolist())
    return {c: n / len(rows) for c, n in drawn.items()}


#: One class an image: 90, 9 and 1 images.
PURE = index_of([[0]] * 90 + [[1]] * 9 + [[2]], 3)


def test_class_aware_sampling_draws_classes_alike() -> None:
    found = shares(class_balanced(PURE, 0.0)(rng()), PURE)
    assert [found[c] for c in range(3)] == pytest.approx([1 / 3] * 3, abs=0.011)


def test_square_root_sampling_draws_classes_by_the_root_of_their_images() -> None:
    roots = [math.sqrt(n) for n in (90, 9, 1)]
    found = shares(class_balanced(PURE, 0.5)(rng()), PURE)
    assert [found[c] for c in range(3)] == pytest.approx([r / sum(roots) for r in roots], abs=0.011)


def test_power_one_draws_images_as_they_are() -> None:
    assert Counter(class_balanced(PURE, 1.0)(rng()).tolist()) == Counter(range(100))


def test_images_of_a_class_take_turns() -> None:
    drawn = Counter(class_balanced(PURE, 0.0)(rng()).tolist())
    assert {drawn[row] for row in range(90, 99)} <= {3, 4} and drawn[99] in (33, 34)
    assert all(drawn[row] <= 1 for row in range(90))


def test_images_without_boxes_are_not_drawn_by_class() -> None:
    assert 99 not in class_balanced(TAIL, 0.0)(rng())


def test_crowds_are_no_reason_to_draw_an_image() -> None:
    index = replace(index_of([[0], [0], [1], [1, 0]], 2), crowd=np.array([False, False, False, True, True]))
    for seed in range(20):
        assert 3 not in class_balanced(index, 0.0)(rng(seed))
    assert repeat_factors(index, threshold=1.0)[3] == 1, "no class of its own to be repeated for"


def test_a_class_that_is_absent_takes_no_draws() -> None:
    absent = index_of([[0]] * 5 + [[2]] * 5, 4)
    assert Counter(shares(class_balanced(absent, 0.0)(rng()), absent)) == {0: 0.5, 2: 0.5}


def test_sampling_by_class_needs_boxes() -> None:
    with pytest.raises(InputError, match="use sampling=random"):
        class_balanced(index_of([[], []], 2), 0.0)


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLING)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 50), start=st.integers(0, 130), world_size=st.integers(1, 5))
def test_ranks_share_an_epoch_without_overlap_and_resume_where_they_stopped(
    name: str, seed: int, epoch: int, start: int, world_size: int
) -> None:
    draw = SAMPLING[name](TAIL, 0.25, "image")
    whole = EpochSampler(100, seed, draw=draw)
    whole.set_epoch(epoch)
    keys = list(whole)
    assert len(keys) == len(whole) and len(set(keys)) == len(keys), "a repeated image has a key of its own"
    parts = []
    for rank in range(world_size):
        sampler = EpochSampler(100, seed, draw=draw, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        sampler.set_epoch(epoch, start)
        assert list(sampler) == parts[-1][start:] and len(sampler) == len(parts[-1][start:])
    assert len({len(part) for part in parts}) == 1
    together = [key for turn in zip(*parts, strict=True) for key in turn]
    assert together[: len(keys)] == keys
    assert together[len(keys) :] == keys[: len(together) - len(keys)]


@pytest.mark.parametrize("name", SAMPLING)
def test_epochs_differ_and_repeat_themselves_for_the_same_seed(name: str) -> None:
    sampler, other = (EpochSampler(100, 3, draw=SAMPLING[name](TAIL, 0.25, "image")) for _ in range(2))
    first = list(sampler)
    sampler.set_epoch(1)
    assert [k.row for k in sampler] != [k.row for k in first]
    assert list(other) == first


def test_rows_stay_rows_of_the_index_after_images_are_dropped() -> None:
    """Repeats are computed on the index that is left; ids tell whether a row still means the same image."""
    kept = TAIL.select(np.arange(100) != 95)
    drawn = Counter(kept.image_ids[repeat_factor(kept, 0.25)(rng())].tolist())
    assert drawn[TAIL.image_ids[98]] in (4, 5) and TAIL.image_ids[95] not in drawn
    assert drawn[TAIL.image_ids[0]] == 1


def test_a_rank_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0…1, got 2"):
        EpochSampler(4, rank=2, world_size=2)


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_are_an_image_as_it_comes_and_one_by_inverse_counts() -> None:
    index = index_of([[0]] * 500 + [[1]] * 200 + [[2]] * 80 + [[3]] * 20 + [[4]] * 5, 5)
    rows = SAMPLING["bilateral"](index, 0.001, "image")(rng())
    assert len(rows) == 2 * len(index)
    assert sorted(rows[::2]) == list(range(len(index))), "every image once"
    labels = index.labels[rows[1::2]]
    share = np.bincount(labels, minlength=5) / len(index)
    assert share == pytest.approx([0.007421, 0.018553, 0.046382, 0.185529, 0.742115], abs=1 / len(index))


@pytest.mark.parametrize(("name", "together"), TOGETHER.items())
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_belongs_together_is_never_parted(name: str, together: int, ranks: int) -> None:
    """On any process, in any batch."""
    index = index_of([[0]] * 23, 1)
    draw = SAMPLING[name](index, 0.001, "image")
    whole = draw(np.random.default_rng(np.random.SeedSequence([0, 5]))).reshape(-1, together)
    known = {tuple(row) for row in whole.tolist()}
    seen = []
    for rank in range(ranks):
        sampler = EpochSampler(23, draw=draw, rank=rank, world_size=ranks, batch=2 * together, together=together)
        sampler.set_epoch(5)
        rows = sampler.keys()[:, 0].reshape(-1, together).tolist()
        assert all(tuple(row) in known for row in rows)
        seen += [row[0] for row in rows]
    assert set(seen) == set(range(23))


def test_an_image_of_two_views_is_drawn_twice_and_looked_at_twice() -> None:
    index = index_of([[0], [1], [0]], 2)
    sampler = EpochSampler(3, draw=SAMPLING["views"](index, 0.001, "image"), together=3, batch=3)
    keys = sampler.keys().reshape(-1, 3, 2)
    assert (keys[:, 0, 0] == keys[:, 1, 0]).all() and (keys[:, 0, 1] != keys[:, 1, 1]).all()
