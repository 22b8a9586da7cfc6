"""Fitted anchors: known clusters, an exhaustive oracle, and the figures reported about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

import iifdet
from iifdet.detectors.anchors import best_possible_recall, fit_anchors, mean_best_iou, size_iou
from iifdet.errors import InputError

side = st.floats(2, 500)
some_sizes = st.lists(st.tuples(side, side), min_size=1, max_size=60).map(torch.tensor)


def test_clusters_apart_are_found() -> None:
    centres = torch.tensor([[12.0, 30.0], [60.0, 40.0], [200.0, 220.0]])
    noise = torch.Generator().manual_seed(0)
    sizes = (centres.repeat(50, 1) * (1 + 0.05 * torch.randn(150, 2, generator=noise))).clamp(min=1)
    torch.testing.assert_close(fit_anchors(sizes, 3), centres, rtol=0.03, atol=0)


def test_no_split_of_few_boxes_into_two_is_better() -> None:
    """Against every assignment of eight boxes to two clusters, by the mean IoU with the better centre."""
    sizes = torch.tensor([[10, 12], [11, 14], [14, 10], [40, 80], [44, 70], [90, 30], [50, 60], [12, 12]]).double()
    best = 0.0
    for picks in itertools.product((False, True), repeat=len(sizes)):
        mask = torch.tensor(picks)
        if mask.any() and not mask.all():
            best = max(best, mean_best_iou(sizes, torch.stack([sizes[mask].mean(0), sizes[~mask].mean(0)])))
    found = max(mean_best_iou(sizes, fit_anchors(sizes, 2, seed)) for seed in range(5))
    assert found >= best - 0.01


@given(some_sizes, st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=60)
def test_anchors_are_sorted_lie_within_the_boxes_and_repeat_for_a_seed(sizes: Any, number: int, seed: int) -> None:
    anchors = fit_anchors(sizes, number, seed)
    assert anchors.shape == (number, 2) and anchors.dtype == torch.float32
    assert (anchors.prod(1).diff() >= -1e-3 * anchors.prod(1).max()).all()
    low, high = sizes.amin(0).float(), sizes.amax(0).float()
    assert ((anchors >= low * 0.999) & (anchors <= high * 1.001)).all()
    assert torch.equal(anchors, fit_anchors(sizes, number, seed))


@given(some_sizes, some_sizes)
def test_size_iou_is_box_iou_of_boxes_on_one_corner(sizes: Any, anchors: Any) -> None:
    def boxes(wh: Any) -> Any:
        return torch.cat([torch.zeros_like(wh), wh], dim=1).double()

    torch.testing.assert_close(size_iou(sizes.double(), anchors.double()), box_iou(boxes(sizes), boxes(anchors)))


def test_a_size_is_reached_up_to_four_times_either_way() -> None:
    anchor = torch.tensor([[40.0, 40.0]])
    for size, reached in (([160, 40], 1.0), ([161, 40], 0.0), ([10, 10], 1.0), ([40, 9.9], 0.0)):
        assert best_possible_recall(torch.tensor([size], dtype=torch.float32), anchor) == reached


@pytest.mark.parametrize("sizes", [torch.zeros(0, 2), torch.tensor([[0.0, 3.0]])])
def test_boxes_without_size_are_refused(sizes: Any) -> None:
    with pytest.raises(ValueError, match="expected boxes with a width and a height"):
        fit_anchors(sizes, 3)


# -- anchors=auto ------------------------------------------------------------------------------------------------------


def test_auto_fits_the_training_boxes_and_says_what_it_gained(
    tiny_keys: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "iifdet"):
        run = iifdet.train(**tiny_keys(tmp_path, epochs=1, anchors="auto", imgsz=128))
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("anchors ")]
    assert len(said) == 2 and said[0].startswith("anchors before: best possible recall")
    ious = [float(line.rsplit(" ", 1)[1]) for line in said]
    assert ious[1] > ious[0] and "100.0 %" in said[1]
    model: Any = iifdet.load(run.folder / "weights" / "last.pt")
    assert model.anchors.shape == (3, 3, 2)
    assert ((model.anchors >= 28) & (model.anchors <= 52)).all(), "boxes of 14 to 25 px, seen at twice their size"
    areas = model.anchors.prod(2).flatten()
    assert (areas.diff() <= 0).all(), "coarse scale, large anchors first"


def test_auto_resumes_with_the_same_anchors(tiny_keys: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, anchors="auto"))
    model: Any = iifdet.load(run.folder / "weights" / "last.pt")
    (run.folder / "metrics.json").unlink()
    again = iifdet.train(resume=run.folder)
    assert again.metrics["AP"] == run.metrics["AP"]
    resumed: Any = iifdet.load(again.folder / "weights" / "last.pt")
    assert torch.equal(resumed.anchors, model.anchors)


def test_auto_beside_given_anchors_is_refused(tiny_keys: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    anchors = [[[40, 20]] * 3] * 3
    with pytest.raises(InputError, match="got both; drop one"):
        iifdet.train(**tiny_keys(tmp_path, anchors="auto", model_args={"anchors": anchors}))
