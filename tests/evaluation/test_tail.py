"""tail-k and frequency groups, against published lists and a second implementation."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.errors import InputError
from iifdet.evaluation import frequency_groups, group_ap, tail_classes, tail_k
from iifdet.longtail import ClassCounts


def make(images, present=None, ap=None, names=None):
    names = names or [f"c{i}" for i in range(len(images))]
    present = np.ones(len(images), int) if present is None else np.asarray(present, int)
    ap = np.linspace(0.1, 0.9, len(images)) if ap is None else np.asarray(ap, float)
    counts = ClassCounts(list(names), torch.tensor(images), torch.tensor(images), num_images=10**6)
    return SimpleNamespace(names=list(names), gt_instances=present, ap=np.where(present > 0, ap, np.nan)), counts


def published(oracle, file):
    data = oracle(file)
    names = data.get("names") or [f"class {i}" for i in range(len(data["image_count"]))]
    images, instances = torch.tensor(data["image_count"]), torch.tensor(data["instance_count"])
    return ClassCounts(names, images, instances, data["num_images"])


@pytest.mark.parametrize("by", ["image", "instance"])
def test_tail_of_coco_is_the_published_one(oracle, by):
    counts = published(oracle, "coco_train2017_counts.json")
    result = SimpleNamespace(names=counts.names, gt_instances=np.ones(80, int), ap=np.ones(80))
    expected = oracle("paper_numbers.yaml")["golden_weights"]["coco_tail_classes"]
    chosen, skipped = tail_classes(result, counts, 20, by)
    assert [counts.names[c] for c in chosen] == expected[f"{by}_freq_ascending"]
    assert skipped == []


def test_groups_of_lvis_are_the_published_ones(oracle):
    groups = frequency_groups(published(oracle, "lvis_v1_train_counts.json"))
    expected = oracle("paper_numbers.yaml")["golden_weights"]["lvis_v1"]["groups"]
    assert {name: len(labels) for name, labels in groups.items()} == expected


def test_ties_go_by_class_order():
    result, counts = make([7, 3, 3, 1, 3])
    assert tail_classes(result, counts, 4) == ([3, 1, 2, 4], [])


def test_classes_without_ground_truth_are_passed_over_and_named():
    result, counts = make([5, 1, 2, 3, 4], present=[1, 0, 2, 0, 9], ap=[0.5, 0, 0.2, 0, 0.4])
    assert tail_classes(result, counts, 1) == ([2], [1])
    assert tail_classes(result, counts, 2) == ([2, 4], [1, 3])
    assert tail_k(result, counts, 2) == pytest.approx(0.3)
    assert tail_classes(result, counts, 99) == ([2, 4, 0], [1, 3])


def test_nothing_to_measure_is_nan():
    result, counts = make([1, 2], present=[0, 0])
    assert math.isnan(tail_k(result, counts, 5))
    assert all(math.isnan(ap) for ap in group_ap(result, counts).values())


def test_both_orders_differ():
    counts = ClassCounts(["a", "b"], torch.tensor([1, 2]), torch.tensor([50, 3]), num_images=5)
    result = SimpleNamespace(names=["a", "b"], gt_instances=np.ones(2, int), ap=np.array([0.25, 0.75]))
    assert (tail_k(result, counts, 1, by="image"), tail_k(result, counts, 1, by="instance")) == (0.25, 0.75)


def test_counts_are_aligned_by_name_or_refused():
    result, _ = make([1, 2], names=["a", "b"], ap=[0.25, 0.75])
    swapped = ClassCounts(["b", "a"], torch.tensor([9, 1]), torch.tensor([9, 1]), num_images=10)
    assert tail_k(result, swapped, 1) == 0.25
    expected = {"rare": 0.25, "common": math.nan, "frequent": 0.75}
    assert group_ap(result, swapped, thresholds=(1, 5)) == pytest.approx(expected, nan_ok=True)
    for names in (["a", "x"], ["a", "b", "c"]):
        other = ClassCounts(names, torch.ones(len(names)), torch.ones(len(names)), num_images=1)
        with pytest.raises(InputError, match="training counts: expected those of the 2 evaluated classes"):
            tail_k(result, other, 1)


def test_wrong_choices_are_refused():
    result, counts = make([1, 2])
    for call, words in [
        (lambda: tail_k(result, counts, 0), "k: expected"),
        (lambda: tail_k(result, counts, 1, by="box"), "expected 'image' or 'instance'"),
        (lambda: frequency_groups(counts, (10,)), "two ascending thresholds"),
        (lambda: frequency_groups(counts, (100, 10)), "two ascending thresholds"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


classes = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(classes, st.integers(1, 30))
def test_tail_k_equals_a_second_implementation(rows, k):
    images, present, ap = zip(*rows, strict=True)
    result, counts = make(list(images), present, ap)
    ranked = sorted((n, c) for c, n in enumerate(images) if present[c])[:k]
    values = [ap[c] for _, c in ranked]
    chosen, skipped = tail_classes(result, counts, k)
    assert chosen == [c for _, c in ranked]
    assert all(present[c] == 0 for c in skipped)
    # Give any class that was passed over a box, and it would have been chosen.
    for c in skipped:
        revived, _ = make(list(images), [p + (i == c) for i, p in enumerate(present)], ap)
        assert c in tail_classes(revived, counts, k)[0]
    assert tail_k(result, counts, k) == pytest.approx(sum(values) / len(values) if values else math.nan, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(classes)
def test_groups_part_the_classes(rows):
    images, present, ap = zip(*rows, strict=True)
    result, counts = make(list(images), present, ap)
    groups = frequency_groups(counts, (2, 6))
    assert sorted(c for labels in groups.values() for c in labels) == list(range(len(images)))
    for name, low, high in (("rare", 0, 2), ("common", 3, 6), ("frequent", 7, 99)):
        assert all(low <= images[c] <= high for c in groups[name])
        values = [ap[c] for c in groups[name] if present[c]]
        expected = sum(values) / len(values) if values else math.nan
        assert group_ap(result, counts, (2, 6))[name] == pytest.approx(expected, nan_ok=True)
