"""Rivals of IIF: losses that treat classes differently, what they know of them, and weights of the loss.

Numbers marked as such were computed with the authors' own programs on the same inputs.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.longtail import ClassCounts, class_balanced_weights, ldam_margins, tail_classes
from iifdet.longtail.losses import binary_cross_entropy, cross_entropy, equalized, ldam, seesaw

LOGITS = torch.tensor([[2, -1, 0.5, 0], [2, -1, 0.5, 0], [-3, 4, 1, -6], [0, 0, 0, 0], [9, -2, 0, 1]])
INSTANCES = torch.tensor([1000.0, 200, 30, 0])


def counts_of(*n):
    n = torch.tensor(n)
    return ClassCounts([f"c{i}" for i in range(len(n))], n, n, num_images=int(n.sum()))


def gradient(loss, z, *args, **kwargs):
    z = z.clone().requires_grad_()
    loss(z, *args, **kwargs).sum().backward()
    return z.grad


# -- Seesaw ------------------------------------------------------------------------------------------------------------


def test_seesaw_and_its_gradient_are_the_published_programs():
    y = torch.tensor([0, 1, 3, 2, 1])
    got = seesaw(LOGITS, y, statistic=INSTANCES)
    torch.testing.assert_close(got, torch.tensor([0.0274, 9.00259, 19.11147, 1.12031, 20.20939]), rtol=1e-4, atol=1e-5)
    expected = torch.tensor(
        [
            [-0.02702, 0.01337, 0.01313, 0.00052],
            [0.99741, -0.99988, 0.00243, 0.00004],
            [0.0, 0.99988, 0.00012, -1.0],
            [0.32618, 0.32618, -0.67382, 0.02147],
            [1.0, -1.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(gradient(seesaw, LOGITS, y, statistic=INSTANCES), expected, rtol=0, atol=1e-5)


def test_seesaw_without_its_factors_is_cross_entropy():
    y = torch.tensor([0, 1, 3, 2, 1])
    torch.testing.assert_close(seesaw(LOGITS, y, statistic=INSTANCES, p=0, q=0), cross_entropy(LOGITS, y))
    torch.testing.assert_close(seesaw(LOGITS, y, statistic=torch.ones(4), q=0), cross_entropy(LOGITS, y))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_mitigation_spares_and_compensation_brings_back_what_is_taken_for_another(seed):
    generator = torch.Generator().manual_seed(seed)
    z, y = torch.randn(9, 4, generator=generator), torch.randint(0, 4, (9,), generator=generator)
    plain, mitigated = cross_entropy(z, y), seesaw(z, y, statistic=INSTANCES, q=0)
    compensated = seesaw(z, y, statistic=INSTANCES)
    rarest, right = y == 3, z.argmax(1) == y
    assert (mitigated <= plain + 1e-6).all() and (compensated >= mitigated - 1e-6).all()
    torch.testing.assert_close(mitigated[rarest], plain[rarest])
    assert (mitigated < plain)[~rarest].all()
    torch.testing.assert_close(compensated[right], mitigated[right])
    assert (compensated > mitigated)[~right].all()


def test_seesaw_leaves_background_out_of_it():
    """Its logit comes first: it is pushed as by cross-entropy, and pushes all classes as by cross-entropy."""
    z = torch.cat([torch.full((5, 1), 0.3), LOGITS], dim=1)
    y = torch.tensor([0, 2, 0, 3, 4])  # 0 is background
    got = seesaw(z, y, statistic=INSTANCES)
    torch.testing.assert_close(got[[0, 2]], cross_entropy(z, y)[[0, 2]])
    wide = torch.cat([torch.tensor([1e9]), INSTANCES])  # a class of its own, which is never rarer
    no_compensation = seesaw(z, y, statistic=INSTANCES, q=0)[[1, 3, 4]]
    torch.testing.assert_close(no_compensation, seesaw(z[[1, 3, 4]], y[[1, 3, 4]], statistic=wide, q=0))
    sure = torch.cat([torch.full((5, 1), 50.0), LOGITS], dim=1)  # taken for background: no compensation for that
    torch.testing.assert_close(seesaw(sure, y, statistic=torch.ones(4)), cross_entropy(sure, y))


# -- Equalization loss -------------------------------------------------------------------------------------------------


def test_equalization_loss_is_the_published_programs():
    y = torch.tensor([0, 1, 3, -1, -1])
    got = equalized(LOGITS, y, statistic=torch.tensor([0.0, 0, 1, 1]))
    torch.testing.assert_close(got, torch.tensor([0.44019, 3.44019, 10.06921, 2.77259, 11.13346]), rtol=1e-4, atol=1e-5)


def test_rare_classes_are_pushed_down_by_background_alone():
    y = torch.tensor([0, 1, 3, -1, 2])
    rare = torch.tensor([0.0, 0, 1, 1])
    got, plain = gradient(equalized, LOGITS, y, statistic=rare), gradient(binary_cross_entropy, LOGITS, y)
    kept = (rare == 0)[None] | (torch.arange(4)[None] == y[:, None]) | (y[:, None] < 0)
    assert torch.equal(got, torch.where(kept, plain, 0.0)) and not kept.all()


def test_without_rare_classes_it_is_binary_cross_entropy():
    y = torch.tensor([0, 1, 3, -1, 2])
    assert torch.equal(equalized(LOGITS, y, statistic=torch.zeros(4)), binary_cross_entropy(LOGITS, y))


def test_the_tail_holds_at_most_its_share_and_no_class_that_is_left_out_would_fit():
    counts = counts_of(60, 25, 5, 5, 3, 2)
    assert tail_classes(counts, 0.05).tolist() == [0, 0, 0, 0, 1, 1]
    assert tail_classes(counts, 0.14).tolist() == [0, 0, 0, 0, 1, 1], "two of one count go together"
    assert tail_classes(counts, 0.15).tolist() == [0, 0, 1, 1, 1, 1]
    assert tail_classes(counts, 0).tolist() == [0] * 6 and tail_classes(counts, 1).tolist() == [1] * 6
    assert tail_classes(counts_of(5, 5, 0), 0.05).tolist() == [0, 0, 1], "a class that never appears is rare"
    with pytest.raises(ValueError, match="tail_ratio: expected a share"):
        tail_classes(counts, 1.5)


# -- LDAM --------------------------------------------------------------------------------------------------------------


def test_ldam_is_the_published_programs():
    cosines = torch.tensor([[0.9, -0.2, 0.1, 0], [0.3, 0.4, -0.5, 0.2], [0.1, 0.1, 0.2, 0], [-0.3, 0.6, 0.2, 0.65]])
    margins = ldam_margins(counts_of(1000, 200, 30, 5), cosine_scale=30)
    got = ldam(30 * cosines, torch.tensor([0, 1, 2, 3]), statistic=margins)
    torch.testing.assert_close(got, torch.tensor([0.0, 3.06109, 7.30256, 13.50001]), rtol=1e-4, atol=1e-5)


def test_margins_grow_as_classes_grow_rare_and_end_at_the_largest():
    margins = ldam_margins(counts_of(1600, 100, 400), cosine_scale=16, largest=0.25)
    torch.testing.assert_close(margins, torch.tensor([2.0, 4.0, 4 / 4**0.25]))
    with pytest.raises(ValueError, match="class 1 'c1' has 0 training instances, and a margin is undefined there"):
        ldam_margins(counts_of(5, 0), cosine_scale=16)


def test_without_margins_it_is_cross_entropy():
    y = torch.tensor([0, 1, 3, 2, 1])
    assert torch.equal(ldam(LOGITS, y, statistic=torch.zeros(4)), cross_entropy(LOGITS, y))


# -- Class-Balanced weights --------------------------------------------------------------------------------------------


def test_class_balanced_weights_are_the_published_programs():
    counts = counts_of(5000, 500, 50)
    got = [class_balanced_weights(counts, beta) for beta in (0.9999, 0.99)]
    assert got[0].tolist() == pytest.approx([0.034107, 0.275167, 2.690725], abs=1e-6)
    assert got[1].tolist() == pytest.approx([0.661041, 0.665413, 1.673546], abs=1e-6)


def test_their_limits_are_equal_weights_and_the_inverse_of_the_counts():
    counts = counts_of(400, 100, 25)
    assert class_balanced_weights(counts, 0).tolist() == [1, 1, 1]
    inverse = 1 / counts.images.double()
    torch.testing.assert_close(class_balanced_weights(counts, 1 - 1e-14), inverse / inverse.mean(), rtol=1e-6, atol=0)
    boxes = ClassCounts(["a", "b"], torch.tensor([9, 9]), torch.tensor([90, 9]), num_images=20)
    assert class_balanced_weights(boxes, by="image").tolist() == [1, 1]
    assert class_balanced_weights(boxes, by="instance")[1] > 1.8


@pytest.mark.parametrize(
    ("counts", "beta", "message"),
    [
        (counts_of(5, 4), 1.0, "beta: expected a number from 0 to below 1, got 1.0"),
        (counts_of(5, 4), -0.1, "beta: expected"),
        (counts_of(5, 0), 0.9, "class 1 'c1' has 0 training images"),
    ],
)
def test_what_has_no_weight_is_refused(counts, beta, message):
    with pytest.raises(ValueError, match=message):
        class_balanced_weights(counts, beta)
