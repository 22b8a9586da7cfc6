"""Targets that no loss can use."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from iifdet.detectors.targets import check_targets
from iifdet.errors import InputError

SIZES = [(20, 30), (40, 10)]


def batch(**second: Any) -> list[Any]:
    """Two good targets; the keywords replace parts of the second."""
    good = [
        {
            "boxes": torch.tensor([[1.0, 2, 9, 8], [0, 0, 0.5, 0.5]]),
            "labels": torch.tensor([0, 4]),
            "masks": torch.zeros(2, *size, dtype=torch.uint8),
        }
        for size in SIZES
    ]
    return [good[0], {**good[1], **second}]


def test_good_targets_pass_and_masks_are_looked_at_where_they_are_wanted() -> None:
    check_targets(batch(), SIZES, 5, masks=True)
    check_targets(batch(masks=torch.zeros(1)), SIZES, 5)
    empty: Any = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    check_targets([empty, empty], SIZES, 5)


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ([5.0, 5, 9, 5], 0),  # no height
        ([5.0, 5, 5, 9], 0),  # no width
        ([9.0, 5, 5, 9], 0),
        ([5.0, 5, math.nan, 9], 0),
        ([5.0, 5, math.inf, 9], 0),
        ([5.0, 5, 9, 9], 5),
        ([5.0, 5, 9, 9], -1),
    ],
)
def test_a_bad_box_or_label_is_named_with_its_image(box: list[float], label: int) -> None:
    boxes, labels = torch.tensor([[1.0, 2, 9, 8], box]), torch.tensor([1, label])
    with pytest.raises(InputError, match=rf"labels 0…4, got .* with label {label} in image 1; run check"):
        check_targets(batch(boxes=boxes, labels=labels), SIZES, 5)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("boxes", torch.zeros(2, 5), r"boxes \(2, 4\) beside the labels of image 1, got \(2, 5\)"),
        ("boxes", torch.zeros(3, 4), r"boxes \(2, 4\) beside the labels of image 1, got \(3, 4\)"),
        ("masks", torch.zeros(2, 40, 11), r"masks \(2, 40, 10\) beside the labels of image 1, got \(2, 40, 11\)"),
        ("masks", torch.zeros(1, 40, 10), r"masks \(2, 40, 10\) beside the labels of image 1, got \(1, 40, 10\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(part: str, value: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_targets(batch(**{part: value}), SIZES, 5, masks=True)


def test_missing_masks_and_a_missing_target_are_named() -> None:
    targets = batch()
    del targets[1]["masks"]
    with pytest.raises(InputError, match=r"expected masks .* image 1, got none"):
        check_targets(targets, SIZES, 5, masks=True)
    with pytest.raises(InputError, match="expected 2, one an image, got 1"):
        check_targets(targets[:1], SIZES, 5)
