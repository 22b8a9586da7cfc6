"""Counts and weights, against the published numbers, scipy and a brute-force count."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from iifdet.longtail import VARIANTS, ClassCounts, count_classes, effective_imbalance, iif_weights
from iifdet.longtail.weights import ALIASES

#: Name in the published files -> ours.
PUBLISHED = {"rel": "relative"}
FILES = {"coco": "coco_train2017_counts.json", "lvis_v1": "lvis_v1_train_counts.json"}


def oracle(name):
    root = os.environ.get("IIFDET_DATA_DIR")
    if not root:
        pytest.skip("IIFDET_DATA_DIR is not set; the published numbers lie in oracle/ beside it")
    path = Path(root).parent / "oracle" / name
    if not path.exists():
        pytest.skip(f"no published numbers at {path}")
    with path.open() as file:
        return json.load(file) if path.suffix == ".json" else yaml.safe_load(file)


def published(dataset):
    """(counts, golden weights) of a data set."""
    data = oracle(FILES[dataset])
    names = data.get("names") or [f"class {i}" for i in range(len(data["image_count"]))]
    counts = ClassCounts(
        names, torch.tensor(data["image_count"]), torch.tensor(data["instance_count"]), data["num_images"]
    )
    return counts, oracle("paper_numbers.yaml")["golden_weights"][dataset]


def make(images, instances=None, num_images=None):
    images = torch.tensor(images)
    instances = images if instances is None else torch.tensor(instances)
    total = int(images.sum()) + 1 if num_images is None else num_images
    return ClassCounts([f"c{i}" for i in range(len(images))], images, instances, total)


def choice(key, normalizer="images"):
    """Arguments of iif_weights for a key of the published table, such as ``base10_obj``."""
    name, _, obj = key.partition("_")
    by = "instance" if obj else "image"
    return {"variant": PUBLISHED.get(name, name), "by": by, "normalizer": normalizer, "on_nonpositive": "allow"}


def last_digit(row):
    """One unit of the last decimal of a published row; YAML drops trailing zeros, so of its longest number."""
    return 10.0 ** -max(len(repr(float(v)).partition(".")[2]) for k, v in row.items() if k not in ("IF", "OF"))


def check_row(counts, c, row, normalizer="images"):
    for key, expected in row.items():
        if key in ("IF", "OF"):
            assert int(counts.by("image" if key == "IF" else "instance")[c]) == expected
            continue
        weight = float(iif_weights(counts, **choice(key, normalizer))[c])
        assert weight == pytest.approx(expected, abs=last_digit(row), rel=0), key


@pytest.mark.parametrize("dataset", FILES)
def test_normalizers_of_the_published_data_are_the_published_ones(dataset):
    counts, golden = published(dataset)
    assert counts.num_images == golden["K_code"]
    assert int(counts.images.sum()) == golden["K_paper"]
    assert int(counts.instances.sum()) == golden["N_instances"]


@pytest.mark.parametrize(("name", "index"), [("person", 0), ("bicycle", 1)])
def test_weights_of_coco_are_the_published_ones(name, index):
    counts, golden = published("coco")
    assert counts.names[index] == name
    check_row(counts, index, golden[name])


def test_weights_of_coco_under_the_papers_own_normalizer_are_the_published_ones():
    counts, golden = published("coco")
    check_row(counts, 0, golden["person_paperK"], normalizer="sum")


def test_largest_weights_of_coco_are_those_of_hair_drier_as_published():
    counts, golden = published("coco")
    for key, expected in golden["max_hair_drier"].items():
        weights = iif_weights(counts, **choice(key))
        assert counts.names[int(weights.argmax())] == "hair drier"
        assert float(weights.max()) == pytest.approx(expected, abs=0.51e-4), key


def test_first_weights_of_lvis_are_the_published_ones():
    counts, golden = published("lvis_v1")
    check_row(counts, 0, golden["class1"])


def test_ranges_of_weights_of_lvis_are_the_published_ones():
    counts, golden = published("lvis_v1")
    for key, expected in golden["range"].items():
        weights = iif_weights(counts, **choice(key))
        assert [float(weights.min()), float(weights.max())] == pytest.approx(expected, abs=0.51e-4), key


def test_imbalance_of_coco_and_lvis_is_the_papers_instance_ratio():
    for dataset in FILES:
        counts, _ = published(dataset)
        beta = oracle("paper_numbers.yaml")["datasets"]["table_I"][dataset]["beta"]
        assert int(counts.imbalance("instance")) == beta
        assert counts.imbalance("image") < beta / 3


@pytest.mark.parametrize("variant", ["relative", "normit"])
def test_coco_person_over_all_images_would_turn_the_logit_round_and_raises(variant):
    counts, golden = published("coco")
    with pytest.raises(ValueError, match=r"class 0 'person': expected a weight > 0, got -0\.1.*normalizer=sum"):
        iif_weights(counts, variant, normalizer="images")
    allowed = iif_weights(counts, variant, normalizer="images", on_nonpositive="allow")
    assert float(allowed[0]) == pytest.approx(golden["person"]["rel" if variant == "relative" else variant], abs=1e-8)
    assert (iif_weights(counts, variant, normalizer="sum") > 0).all()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "smooth"])
@pytest.mark.parametrize(("by", "unit"), [("image", "images"), ("instance", "instances")])
def test_class_that_never_appears_is_refused_by_name_with_the_way_out(variant, by, unit):
    counts = ClassCounts(["car", "toaster"], torch.tensor([5, 0]), torch.tensor([9, 0]), num_images=20)
    with pytest.raises(ValueError, match=f"class 1 'toaster' has 0 training {unit}.*variant=smooth") as caught:
        iif_weights(counts, variant, by)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="toaster"):
        iif_weights(counts, variant, by, on_nonpositive="allow")


def test_refusal_counts_the_other_classes_that_never_appear():
    with pytest.raises(ValueError, match=r"class 1 'c1' \(and 2 more classes\)"):
        iif_weights(make([4, 0, 0, 0, 3]), "raw")


@pytest.mark.parametrize("by", ["image", "instance"])
@pytest.mark.parametrize("normalizer", ["sum", "images"])
def test_smooth_weighs_a_class_that_never_appears_most(by, normalizer):
    weights = iif_weights(make([5, 0, 2], [9, 0, 2], num_images=6), by=by, normalizer=normalizer)
    total = 11 if by == "instance" else 7 if normalizer == "sum" else 6
    assert float(weights[1]) == pytest.approx(math.log(total + 1) + 1)
    assert int(weights.argmax()) == 1


def test_smooth_is_finite_when_nothing_was_ever_counted():
    assert iif_weights(make([0, 0], num_images=0)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_older_names_of_variants_mean_the_same(alias, name):
    counts = make([40, 30, 20, 3])
    assert torch.equal(iif_weights(counts, alias), iif_weights(counts, name))


def test_default_is_smooth_over_the_sum_of_image_counts():
    counts = make([40, 30, 3], [400, 31, 5], num_images=90)
    expected = [math.log(74 / (n + 1)) + 1 for n in (40, 30, 3)]
    weights = iif_weights(counts)
    assert weights.dtype == torch.float64
    assert weights.tolist() == pytest.approx(expected)


def test_instance_counts_are_divided_by_their_sum_whatever_the_normalizer():
    counts = make([40, 30, 3], [400, 31, 5], num_images=90)
    for variant in VARIANTS:
        a, b = (iif_weights(counts, variant, "instance", n, "allow") for n in ("sum", "images"))
        assert torch.equal(a, b)


def test_unknown_choices_are_refused_with_the_known_ones():
    counts = make([3, 2])
    for wrong, known in (
        ({"variant": "log"}, "raw, smooth, relative, base2, base10, gombit, normit"),
        ({"by": "box"}, "'image' or 'instance'"),
        ({"normalizer": "max"}, "'sum' or 'images'"),
        ({"on_nonpositive": "warn"}, "'raise' or 'allow'"),
    ):
        with pytest.raises(ValueError, match=f"{known}, got '{next(iter(wrong.values()))}'"):
            iif_weights(counts, **wrong)


def test_only_class_of_a_data_set_has_weight_zero_and_is_refused():
    with pytest.raises(ValueError, match="expected a weight > 0"):
        iif_weights(make([7]), "raw")
    with pytest.raises(ValueError, match="expected a weight > 0"):  # log 0: not finite, which allow refuses too
        iif_weights(make([7]), "relative", on_nonpositive="allow")


many_counts = st.lists(st.integers(1, 10**6), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(many_counts)
def test_normit_equals_scipys_normal_quantile(images):
    n = np.array(images, float)
    weights = iif_weights(make(images), "normit", on_nonpositive="allow")
    assert weights.numpy() == pytest.approx(-norm.ppf(n / n.sum()), rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(many_counts)
def test_gombit_and_relative_equal_their_inverse_links(images):
    counts, p = make(images), np.array(images) / sum(images)
    gombit = iif_weights(counts, "gombit", on_nonpositive="allow").numpy()
    assert 1 - np.exp(-np.exp(-gombit)) == pytest.approx(p, rel=1e-6)
    relative = iif_weights(counts, "relative", on_nonpositive="allow").numpy()
    assert 1 / (1 + np.exp(relative)) == pytest.approx(p, rel=1e-6)


@settings(max_examples=80, deadline=None)
@given(many_counts, st.sampled_from(sorted(VARIANTS)), st.sampled_from(["sum", "images"]))
def test_rarer_class_never_weighs_less(images, variant, normalizer):
    weights = iif_weights(make(images), variant, normalizer=normalizer, on_nonpositive="allow")
    order = torch.tensor(images).argsort()
    assert (weights[order].diff() <= 1e-12).all()
    assert weights.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(many_counts)
def test_raw_base2_and_base10_are_proportional(images):
    counts = make(images)
    raw = iif_weights(counts, "raw")
    torch.testing.assert_close(iif_weights(counts, "base2") * math.log(2), raw, rtol=1e-12, atol=0)
    torch.testing.assert_close(iif_weights(counts, "base10") * math.log(10), raw, rtol=1e-12, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
def test_smooth_is_never_below_one(images):
    assert (iif_weights(make(images)) >= 1 - 1e-12).all()


def test_effective_imbalance_is_a_ratio_and_infinite_without_a_positive_floor():
    assert effective_imbalance(torch.tensor([1.0, 4.0])) == 4
    assert effective_imbalance(torch.tensor([0.0, 4.0])) == math.inf


# -- counting ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_counts_equal_sets_and_sums(pairs):
    images = torch.tensor([i for i, _ in pairs], dtype=torch.long)
    labels = torch.tensor([c for _, c in pairs], dtype=torch.long)
    counts = count_classes(images, labels, list("abcd"), num_images=5)
    assert counts.images.tolist() == [len({i for i, k in pairs if k == c}) for c in range(4)]
    assert counts.instances.tolist() == [sum(k == c for _, k in pairs) for c in range(4)]
    assert counts.num_images == 5
    assert counts.images.dtype == counts.instances.dtype == torch.int64


def test_counts_of_lvis_size_equal_a_brute_force_count():
    classes, images, boxes = 1203, 100_170, 1_270_141
    rng = np.random.default_rng(0)
    labels = np.minimum(rng.zipf(1.3, boxes) - 1, classes - 1)
    image_of_box = rng.integers(0, images, boxes)
    counts = count_classes(
        torch.from_numpy(image_of_box), torch.from_numpy(labels), [str(c) for c in range(classes)], images
    )
    seen = np.zeros((images, classes), bool)
    seen[image_of_box, labels] = True
    instances = np.zeros(classes, np.int64)
    np.add.at(instances, labels, 1)
    assert np.array_equal(counts.images.numpy(), seen.sum(0))
    assert np.array_equal(counts.instances.numpy(), instances)


def test_classes_without_boxes_keep_their_column():
    counts = count_classes(torch.tensor([0]), torch.tensor([2]), list("abcd"), num_images=3)
    assert counts.images.tolist() == [0, 0, 1, 0]
    none = count_classes(torch.tensor([]), torch.tensor([]), list("ab"), num_images=0)
    assert none.images.tolist() == [0, 0]
    assert math.isnan(none.imbalance())


def test_counting_refuses_labels_and_images_out_of_range():
    one = torch.tensor([0])
    for label in (-1, 2):
        with pytest.raises(ValueError, match="labels: expected 0…1"):
            count_classes(one, torch.tensor([label]), ["a", "b"], 1)
    for image in (-1, 1):
        with pytest.raises(ValueError, match="image_of_box: expected 0…0"):
            count_classes(torch.tensor([image]), one, ["a", "b"], 1)


@pytest.mark.parametrize(
    ("images", "instances", "num_images", "message"),
    [
        ([1], [1, 1], 5, r"counts\.images: expected shape \(2,\), got \(1,\)"),
        ([1, 1], [1, 1, 1], 5, r"counts\.instances: expected shape \(2,\), got \(3,\)"),
        ([1, -2], [1, 1], 5, r"counts\.images: expected counts >= 0, got -2"),
        ([1, 1], [-1, 1], 5, r"counts\.instances: expected counts >= 0, got -1"),
        ([1, 6], [1, 9], 5, r"class 1 'b': expected at most 5 images .*got 6"),
        ([1, 3], [1, 2], 5, r"class 1 'b': expected at most 2 images .*got 3"),
    ],
)
def test_impossible_counts_are_refused(images, instances, num_images, message):
    with pytest.raises(ValueError, match=message):
        ClassCounts(["a", "b"], torch.tensor(images), torch.tensor(instances), num_images)


def test_imbalance_leaves_out_classes_that_never_appear():
    assert make([8, 0, 2]).imbalance() == 4
