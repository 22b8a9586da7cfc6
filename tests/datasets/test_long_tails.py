"""Long tails cut on purpose: the published counts, and the published choice of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iifdet.datasets.classification import (
    ArrayImages,
    ClassIndex,
    cut_long_tail,
    exponential_profile,
    load_class_index,
)
from iifdet.errors import InputError


def balanced(classes: int, each: int) -> ClassIndex:
    """As the CIFAR files: labels in mixed order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), each))
    images = ArrayImages(np.zeros((len(labels), 1, 1, 3), np.uint8), [str(i) for i in range(len(labels))])
    return ClassIndex.of([f"c{c}" for c in range(classes)], images, labels)


@pytest.mark.parametrize(
    ("classes", "imbalance", "total", "smallest"),
    [(10, 100, 12_406, 50), (100, 100, 10_847, 5), (10, 10, 20_431, 500), (10, 50, 13_996, 100), (100, 10, 19_573, 50)],
)
def test_cifar_lt_has_the_published_number_of_images(classes: int, imbalance: float, total: int, smallest: int) -> None:
    index = cut_long_tail(balanced(classes, 50_000 // classes), imbalance)
    assert len(index) == total
    assert int(index.counts().images[0]) == 50_000 // classes and int(index.counts().images[-1]) == smallest


def test_a_seed_chooses_the_images_that_the_published_program_chooses() -> None:
    index = balanced(10, 100)
    np.random.seed(3)
    expected = []
    for label in range(10):  # as IMBALANCECIFAR10 of LDAM-DRW does it
        rows = np.where(index.labels == label)[0]
        np.random.shuffle(rows)
        expected += rows[: int(100 * (0.01 ** (label / 9.0)))].tolist()
    assert cut_long_tail(index, 100, seed=3).ids.tolist() == sorted(expected)
    assert cut_long_tail(index, 100, seed=4).ids.tolist() != sorted(expected)


@given(st.integers(1, 5000), st.integers(1, 200), st.floats(1, 1000))
def test_a_profile_falls_from_n_max_to_its_imbalanceth_part(n_max: int, classes: int, imbalance: float) -> None:
    try:
        counts = exponential_profile(n_max, classes, imbalance)
    except InputError:
        assert n_max / imbalance < 1 + 1e-9
        return
    assert counts[0] == n_max and (np.diff(counts) <= 0).all() and counts[-1] >= 1
    if classes > 1:
        assert abs(counts[-1] - n_max / imbalance) <= 1


@pytest.mark.parametrize("imbalance", [0.5, 0, -3, float("nan"), float("inf"), "100"])
def test_an_imbalance_below_one_is_refused(imbalance: float) -> None:
    with pytest.raises(InputError, match="imbalance: expected a number of 1 or more"):
        exponential_profile(10, 3, imbalance)


def test_a_class_without_images_and_data_without_enough_are_refused() -> None:
    with pytest.raises(InputError, match="at least one image of every class, got none of class 8"):
        cut_long_tail(balanced(10, 50), 100)
    index = balanced(3, 10)
    with pytest.raises(InputError, match=r"expected 9 images of class 1 'c1', got 1; the data are not balanced"):
        cut_long_tail(index.select((index.labels != 1) | (index.ids == np.flatnonzero(index.labels == 1)[0])), 1.2)


@pytest.mark.skipif("IIFDET_DATA_DIR" not in os.environ, reason="IIFDET_DATA_DIR is not set")
def test_the_zip_of_cifar10_lt_is_read_as_it_lies() -> None:
    if not (Path(os.environ["IIFDET_DATA_DIR"]) / "cifar10_lt100_jpeg.zip").is_file():
        pytest.skip("cifar10_lt100_jpeg.zip is not in IIFDET_DATA_DIR")
    train, test = (load_class_index("cifar10_lt100_jpeg", split) for split in ("train", "test"))
    assert train.counts().images.tolist() == exponential_profile(5000, 10, 100).tolist()
    assert test.counts().images.tolist() == [1000] * 10 and test.names == train.names
    assert train.read(0).shape == test.read(9_999).shape == (32, 32, 3)
