"""Box arithmetic against torchvision, and where it must stay finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from iifdet.boxes import IOU_KINDS, area, clip, cxcywh_to_xyxy, iou, xyxy_to_cxcywh

ORACLES = {
    "iou": ops.box_iou,
    "giou": ops.generalized_box_iou,
    "diou": ops.distance_box_iou,
    "ciou": ops.complete_box_iou,
}


def random_boxes(n, seed=0, size=100.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator, dtype=dtype) * size
    return torch.cat((low, low + 0.5 + torch.rand(n, 2, generator=generator, dtype=dtype) * size / 2), 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(IOU_KINDS))
def test_matrix_equals_torchvisions(seed, kind):
    a, b = random_boxes(9, seed), random_boxes(7, seed + 1)
    torch.testing.assert_close(iou(a[:, None], b[None], kind), ORACLES[kind](a, b), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_float32_equals_torchvisions_float64(kind):
    a, b = random_boxes(50), random_boxes(50, 1)
    got = iou(a.float()[:, None], b.float()[None], kind)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), ORACLES[kind](a, b), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_pairs_are_the_diagonal_of_the_matrix(kind):
    a, b = random_boxes(6), random_boxes(6, 1)
    torch.testing.assert_close(iou(a, b, kind), iou(a[:, None], b[None], kind).diagonal())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(IOU_KINDS))
def test_overlap_is_symmetric_and_at_most_one(seed, kind):
    a, b = random_boxes(8, seed), random_boxes(8, seed + 1)
    value = iou(a, b, kind)
    torch.testing.assert_close(value, iou(b, a, kind), rtol=1e-9, atol=1e-12)
    assert (value <= 1).all() and (value > (-1e-12 if kind == "iou" else -2)).all()


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="iou_type: expected one of iou, giou, diou, ciou, got 'siou'"):
        iou(torch.zeros(4), torch.zeros(4), "siou")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", IOU_KINDS)
@pytest.mark.parametrize(
    "box", [(10, 20, 30, 50), (0, 0, 1, 1), (0.25, 0.5, 0.75, 0.625), (0, 0, 1000, 2), (3000, 3000, 3001, 3900)]
)
def test_perfect_overlap_is_one_with_a_finite_gradient(dtype, kind, box):
    a = torch.tensor([box], dtype=dtype, requires_grad=True)
    value = iou(a, a.detach().clone(), kind)
    assert value.item() == pytest.approx(1, abs=1e-6)
    value.sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("kind", IOU_KINDS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 5, 5, 5), (5, 5, 5, 5)),  # two points on one spot: hull, union and diagonal are all 0
        ((5, 5, 5, 5), (0, 0, 10, 10)),
        ((5, 5, 5, 9), (0, 0, 10, 10)),  # no width
        ((5, 5, 9, 5), (5, 5, 9, 5)),  # no height, both
        ((0, 0, 1, 1), (5, 5, 5, 5)),
    ],
)
def test_empty_boxes_have_finite_overlap_and_gradient(kind, a, b):
    a = torch.tensor([a], dtype=torch.float32, requires_grad=True)
    value = iou(a, torch.tensor([b], dtype=torch.float32), kind)
    value.sum().backward()
    assert value.isfinite().all() and a.grad.isfinite().all()


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_boxes_apart_and_touching_have_no_plain_overlap(kind):
    a = torch.tensor([[0.0, 0, 10, 10]])
    for b in ([[20.0, 20, 30, 30]], [[10.0, 0, 20, 10]]):
        value = float(iou(a, torch.tensor(b), kind))
        assert value == 0 if kind == "iou" else value <= 1e-6


def test_ciou_gradient_equals_finite_differences_with_a_frozen_trade_off():
    """The trade-off weight is a constant to the gradient (Zheng et al.), so only DIoU passes gradcheck as it stands."""
    a, b = random_boxes(5), random_boxes(5, 1)
    assert torch.autograd.gradcheck(lambda x: iou(x, b, "diou"), a.requires_grad_())
    x = a.detach().requires_grad_()
    ours = torch.autograd.grad(iou(x, b, "ciou").sum(), x)[0]
    theirs = torch.autograd.grad((1 - ops.complete_box_iou_loss(x, b)).sum(), x)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_conversions_undo_one_another_and_equal_torchvisions(seed):
    boxes = random_boxes(6, seed).view(2, 3, 4)
    centred = xyxy_to_cxcywh(boxes)
    torch.testing.assert_close(cxcywh_to_xyxy(centred), boxes)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    torch.testing.assert_close(centred.view(-1, 4), ops.box_convert(boxes.view(-1, 4), "xyxy", "cxcywh"))


def test_area_equals_torchvisions_and_is_zero_for_inverted_boxes():
    boxes = random_boxes(5)
    torch.testing.assert_close(area(boxes), ops.box_area(boxes))
    inverted = torch.tensor([[5.0, 0, 1, 4], [5, 5, 1, 1]])
    assert area(inverted).tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 90))
def test_clip_equals_torchvisions(seed, height, width):
    boxes = random_boxes(6, seed) - 30
    assert torch.equal(clip(boxes, (height, width)), ops.clip_boxes_to_image(boxes, (height, width)))


def test_clip_leaves_boxes_inside_alone_and_takes_any_leading_shape():
    boxes = random_boxes(6).view(3, 2, 4)
    assert torch.equal(clip(boxes, (1000, 1000)), boxes)
    assert clip(boxes[:0], (10, 10)).shape == (0, 2, 4)
