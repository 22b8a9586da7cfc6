"""What else adjusts a finished model: lengths of class rows, and how classes spread over images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.longtail import ClassCounts, adjust_logits, box_dimensions, fractal_shift, tau_norm_scale


def places(n):
    """n points that fill the square evenly."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.stack([i * 0.6180339887498949 % 1, i * 0.41421356237309515 % 1], dim=1)


def test_dimensions_are_those_of_the_published_program():
    """All over the image, a line, crowded into a corner, three boxes, one spot, five boxes."""
    line = torch.stack([places(300)[:, 0], torch.full((300,), 0.5, dtype=torch.float64)], dim=1)
    spot = torch.tensor([[0.37, 0.61]], dtype=torch.float64).expand(40, 2)
    parts = [places(5000), line, places(800) ** 3, places(3), spot, places(5)]
    labels = torch.arange(6).repeat_interleave(torch.tensor([len(part) for part in parts]))
    got = box_dimensions(torch.cat(parts), labels, 6)
    assert got.tolist() == pytest.approx([1.90995, 1, 1.73036, 1, 1, 1.58496], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400))
def test_dimensions_are_a_line_s_at_least_and_go_by_class_alone(seed, n):
    generator = torch.Generator().manual_seed(seed)
    centres, labels = torch.rand(n, 2, generator=generator), torch.randint(0, 3, (n,), generator=generator)
    found = box_dimensions(centres, labels, 4)
    assert ((found >= 1) & (found <= 2.5)).all() and found[3] == 1, "3 has no box"
    order = torch.randperm(n, generator=generator)
    assert torch.equal(box_dimensions(centres[order], labels[order], 4), found)
    mine = labels == 1
    torch.testing.assert_close(box_dimensions(centres[mine], labels[mine], 4)[1], found[1])


def test_the_image_s_edge_belongs_to_it_and_nothing_beyond_does():
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    assert box_dimensions(corners, torch.zeros(4, dtype=torch.long), 1).tolist() == pytest.approx([2])
    assert box_dimensions(corners[:0], torch.zeros(0, dtype=torch.long), 2).tolist() == [1, 1]
    with pytest.raises(ValueError, match="centres: expected shares"):
        box_dimensions(corners * 1.01, torch.zeros(4, dtype=torch.long), 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 4))
def test_fractal_calibration_is_the_published_softmax_divided_by_powers_of_the_dimension(seed, strength):
    """softmax(z + log10(N / n) - log10 C, background 0) / D^λ, background 1, made to sum to one."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.tensor([40, 12, 5, 1])
    counts = ClassCounts(list("abcd"), images, 3 * images, num_images=50)
    z, background = torch.randn(6, 4, generator=generator), torch.randn(6, 1, generator=generator)
    dimensions = 1 + torch.rand(4, generator=generator)
    frequency = (50 / images.float()).log10() - torch.tensor(4.0).log10()
    published = torch.cat([background, z + frequency], dim=1).softmax(1)
    published = published / torch.cat([torch.ones(1), dimensions]) ** strength
    published = published / published.sum(1, keepdim=True)
    shift = fractal_shift(counts, dimensions, strength).float()
    got = torch.cat([background, adjust_logits(z, torch.ones(4), shift)], dim=1).softmax(1)
    torch.testing.assert_close(got, published, rtol=1e-4, atol=1e-6)


def test_boxes_may_be_counted_in_place_of_images():
    counts = ClassCounts(["a", "b"], torch.tensor([5, 5]), torch.tensor([90, 10]), num_images=10)
    by_box = fractal_shift(counts, torch.ones(2), by="instance")
    assert by_box.diff().item() == pytest.approx(0.9542, abs=1e-4) and fractal_shift(counts, torch.ones(2)).diff() == 0
    with pytest.raises(ValueError, match="class 1 'b' has 0 training images"):
        fractal_shift(ClassCounts(["a", "b"], torch.tensor([5, 0]), torch.tensor([9, 0]), 10), torch.ones(2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 2))
def test_tau_normalisation_ranks_as_rows_divided_by_powers_of_their_length_do(seed, tau):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 8, generator=generator, dtype=torch.float64) * torch.arange(1, 6)[:, None]
    features = torch.randn(20, 8, generator=generator, dtype=torch.float64)
    theirs = features @ (rows / rows.norm(dim=1, keepdim=True) ** tau).T
    scale = tau_norm_scale(rows.norm(dim=1), tau)
    ours = adjust_logits(features @ rows.T, scale, torch.zeros(5))
    torch.testing.assert_close(ours / ours.abs().sum(), theirs / theirs.abs().sum())
    assert scale.mean().item() == pytest.approx(1)


def test_at_one_all_rows_are_as_long_and_at_zero_nothing_changes():
    norms = torch.tensor([4.0, 2, 0.5])
    assert (norms * tau_norm_scale(norms)).diff().abs().max() < 1e-9
    assert tau_norm_scale(norms, 0).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="tau: expected one that lengths can be raised to, got 1000"):
        tau_norm_scale(norms, 1000)
    with pytest.raises(ValueError, match="taunorm: expected class rows longer than 0, got 0"):
        tau_norm_scale(torch.tensor([1.0, 0]))
