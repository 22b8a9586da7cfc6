"""Additive rivals: log priors, Logit Adjustment, Balanced Softmax, against their papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from iifdet.longtail import (
    ClassCounts,
    adjust_logits,
    balanced_softmax_shift,
    log_prior,
    logit_adjustment_shift,
)


def counts(images: list[int], instances: list[int] | None = None) -> ClassCounts:
    names = [f"c{i}" for i in range(len(images))]
    return ClassCounts(names, torch.tensor(images), torch.tensor(instances or images), num_images=sum(images))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
def test_priors_sum_to_one(images: list[int]) -> None:
    assert float(log_prior(counts(images)).exp().sum()) == pytest.approx(1)


def test_priors_go_by_images_or_by_instances() -> None:
    known = counts([3, 1], [10, 30])
    assert log_prior(known, "image").exp().tolist() == pytest.approx([0.75, 0.25])
    assert log_prior(known, "instance").exp().tolist() == pytest.approx([0.25, 0.75])


def test_a_class_that_never_appears_is_named() -> None:
    with pytest.raises(ValueError, match=r"class 1 'c1' has 0 training images.*variant=smooth"):
        log_prior(counts([3, 0]))


def test_balanced_softmax_loss_is_its_paper_s_equation() -> None:
    """-ln(n_y e^{z_y} / Σ n_i e^{z_i}), Ren et al., Eq. 4."""
    n, z = [50, 20, 1], torch.randn(6, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    weighted = torch.tensor(n, dtype=torch.float64) * z.exp()
    expected = -(weighted[torch.arange(6), labels] / weighted.sum(1)).log()
    shifted = adjust_logits(z, torch.ones(3), balanced_softmax_shift(counts(n)))
    torch.testing.assert_close(F.cross_entropy(shifted, labels, reduction="none"), expected)


def test_logit_adjustment_s_pairwise_margin_is_the_ratio_of_priors() -> None:
    """ln(1 + Σ (π_i / π_y)^τ e^{z_i - z_y}), Menon et al., Eq. 10."""
    n, z, tau = [50, 20, 1], torch.randn(3, dtype=torch.float64), 1.7
    shifted = adjust_logits(z[None], torch.ones(3), logit_adjustment_shift(counts(n), tau))
    for y in range(3):
        margins = sum((n[i] / n[y]) ** tau * math.exp(float(z[i] - z[y])) for i in range(3) if i != y)
        assert float(F.cross_entropy(shifted, torch.tensor([y]))) == pytest.approx(math.log(1 + margins))


def test_without_background_balanced_softmax_is_logit_adjustment_at_tau_one() -> None:
    known, z = counts([50, 20, 1]), torch.randn(4, 3, dtype=torch.float64)
    one = (z + logit_adjustment_shift(known)).softmax(1)
    torch.testing.assert_close(one, (z + balanced_softmax_shift(known)).softmax(1))


def test_tau_zero_changes_nothing() -> None:
    assert not logit_adjustment_shift(counts([50, 20, 1]), 0.0).any()


def test_subtracting_after_training_undoes_the_prior_of_a_calibrated_model() -> None:
    """A model that has learnt p(y|x) ∝ π_y f_y(x) ranks by f after the shift: the balanced-error optimum."""
    known, f = counts([90, 9, 1]), torch.rand(5, 3, dtype=torch.float64)
    z = (f * log_prior(known).exp()).log()
    assert torch.equal((z - logit_adjustment_shift(known)).argmax(1), f.argmax(1))
