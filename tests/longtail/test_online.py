"""Weights from one batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iifdet.longtail import ClassCounts, LogitAdjustment, batch_counts, iif_weights, online_weights

labels_of_images = st.lists(
    st.lists(st.integers(0, 4), max_size=6).map(lambda v: torch.tensor(v, dtype=torch.int64)), min_size=1, max_size=9
)


@given(labels_of_images)
def test_online_weights_are_the_smooth_weights_of_a_data_set_that_is_the_batch(labels: list[Tensor]) -> None:
    images = torch.tensor([sum(int(c in image.tolist()) for image in labels) for c in range(5)])
    instances = torch.tensor([sum(image.tolist().count(c) for image in labels) for c in range(5)])
    data_set = ClassCounts(list("abcde"), images, instances, num_images=len(labels))
    expected = iif_weights(data_set, "smooth", normalizer="images")
    torch.testing.assert_close(online_weights(batch_counts(labels, 5)), expected)


@given(labels_of_images, labels_of_images)
def test_counts_of_two_ranks_add_up_to_those_of_all_their_images(one: list[Tensor], two: list[Tensor]) -> None:
    assert torch.equal(batch_counts(one, 5) + batch_counts(two, 5), batch_counts([*one, *two], 5))


def test_a_class_in_every_image_weighs_one_and_an_absent_one_most() -> None:
    weights = online_weights(batch_counts([torch.tensor([0, 1]), torch.tensor([0])], 3)).tolist()
    assert weights == pytest.approx([1, math.log(3 / 2) + 1, math.log(3) + 1])


def test_the_batch_s_scale_acts_in_training_alone() -> None:
    adjust, z = LogitAdjustment(2), torch.ones(1, 2)
    adjust.set(torch.tensor([2.0, 3.0]))
    adjust.set_batch_scale(torch.tensor([5.0, 7.0], dtype=torch.float64))
    assert adjust(z, phase="train").tolist() == [[5, 7]]
    assert adjust(z, phase="infer").tolist() == [[2, 3]]
    adjust.set_batch_scale(None)
    assert adjust(z, phase="train").tolist() == [[2, 3]]


def test_no_checkpoint_and_no_fold_sees_the_batch_s_scale() -> None:
    adjust = LogitAdjustment(2)
    adjust.set(torch.tensor([2.0, 3.0]))
    clean, state = adjust.to_dict(), adjust.state_dict()
    adjust.set_batch_scale(torch.tensor([5.0, 7.0]))
    dirty = adjust.to_dict()
    assert all(torch.equal(dirty[k], v) if isinstance(v, Tensor) else dirty[k] == v for k, v in clean.items())
    assert all(torch.equal(adjust.state_dict()[k], v) for k, v in state.items())
    weight, bias = torch.ones(2, 1), torch.ones(2)
    adjust.fold_rows(weight, bias)
    assert weight.flatten().tolist() == [2, 3]


def test_a_batch_scale_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(2,\), got \(3,\)"):
        LogitAdjustment(2).set_batch_scale(torch.ones(3))


def test_the_temperature_of_the_stored_weights_is_that_of_the_batch_s() -> None:
    counts = batch_counts([torch.tensor([0, 1]), torch.tensor([0])], 3)
    plain = online_weights(counts)
    torch.testing.assert_close(online_weights(counts, 2.5), plain / 2.5)
    assert float(online_weights(counts, "mean").mean()) == pytest.approx(1)


def test_no_image_and_images_without_labels_count_as_what_they_are() -> None:
    assert batch_counts([], 2).tolist() == [0, 0, 0]
    assert batch_counts([torch.empty(0, dtype=torch.int64)] * 3, 2).tolist() == [0, 0, 3]
