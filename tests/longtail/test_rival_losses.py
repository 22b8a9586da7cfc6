"""Rivals of IIF: losses that treat classes differently, what they know of them, and weights of the loss.

Numbers marked as such were computed with the authors' own programs on the same inputs.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.longtail import (
    ClassCounts,
    background_share,
    class_balanced_weights,
    generalized_weights,
    label_smoothing,
    ldam_margins,
    log_prior,
    rare_classes,
    sample_share,
    tail_classes,
)
from iifdet.longtail.losses import binary_cross_entropy, cross_entropy, focal
from iifdet.longtail.rivals import (
    adaptive_suppression,
    drop,
    effective_margins,
    equalized,
    equalized_focal,
    equalized_v2,
    federated,
    label_aware_smoothing,
    lade,
    ldam,
    seesaw,
    softmax_equalized,
)

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
    alone = torch.tensor([[1.0, 3, 0], [0, 0, 0]])
    for sure in (0.0, 4.0, 50.0):  # however sure background is, the wrong class counts (σ_j / σ_y)^2 = e^4 times
        z = torch.cat([torch.full((2, 1), sure), alone], dim=1)
        compensated = seesaw(z, torch.tensor([1, 1]), statistic=torch.ones(3))
        by_hand = cross_entropy(z + torch.tensor([[0.0, 0, 4, 0], [0, 0, 0, 0]]), torch.tensor([1, 1]))
        torch.testing.assert_close(compensated, by_hand)


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


# -- Equalization loss v2, equalized focal loss ------------------------------------------------------------------------

FIRST = torch.tensor([[2, -1, 0.5, 0], [-3, 4, 1, -6], [0, 0, 0, 0]]), torch.tensor([0, 1, -1])
SECOND = torch.tensor([[1, 0.3, -0.5, -2], [9, -2, 0, 1]]), torch.tensor([2, -1])


@pytest.mark.parametrize(
    ("loss", "losses", "gradients"),
    [
        (
            equalized_v2,
            [[2.10741, 1.38247, 2.77259], [4.87142, 0.00845]],
            [[0.119203, 0.0179862, 3.1121278, 0], [0.5490235, 0.7690036, 1.8535519, 1.0025302]],
        ),
        (
            equalized_focal,
            [[0.43047, 0.52648, 0.51986], [0.2399, 33.78006]],
            [[0.0012177, 0.0000043, 0.046934, 0], [4.6948299, 0.3249273, 1.2090279, 1.1444815]],
        ),
    ],
)
def test_two_steps_of_losses_that_balance_gradients_are_the_published_programs(loss, losses, gradients):
    """The second step, after what the first has collected; EQLv2 without its objectness column."""
    so_far = torch.zeros(2, 4)
    for (z, y), expected in zip((FIRST, SECOND), losses, strict=True):
        got = loss(z.requires_grad_(), y, statistic=so_far).detach()
        torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(so_far, torch.tensor(gradients), rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 20))
@pytest.mark.parametrize("loss", [equalized_v2, equalized_focal])
def test_what_they_collect_are_the_gradients_of_the_logits(loss, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    z, y = spread * torch.randn(7, 4, generator=generator), torch.randint(-1, 4, (7,), generator=generator)
    before = 5 * torch.rand(2, 4, generator=generator)
    after = before.clone()
    found = gradient(loss, z, y, statistic=after).abs()
    own = torch.arange(4)[None] == y[:, None]
    collected = torch.stack([(found * own).sum(0), (found * ~own).sum(0)])
    torch.testing.assert_close(after - before, collected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("loss", "plain"), [(equalized_v2, binary_cross_entropy), (equalized_focal, focal)])
def test_before_there_are_gradients_they_are_plain_and_without_training_they_collect_none(loss, plain):
    so_far = torch.zeros(2, 4)
    with torch.no_grad():
        got = loss(*FIRST, statistic=so_far)
    torch.testing.assert_close(got, plain(*FIRST))
    assert not so_far.any()
    balanced = torch.tensor([[1e3] * 4, [1.0] * 4])  # more positive than negative ones
    torch.testing.assert_close(loss(*FIRST, statistic=balanced), plain(*FIRST), rtol=1e-4, atol=1e-5)


def test_a_class_that_is_only_pushed_down_is_pushed_less_and_pulled_up_more_under_v2():
    z, y = torch.zeros(4, 4), torch.arange(4)
    so_far = torch.tensor([[100.0, 80, 1, 0], [100.0, 100, 100, 100]])
    found, plain = gradient(equalized_v2, z, y, statistic=so_far), gradient(binary_cross_entropy, z, y)
    up, down = found.diagonal() / plain.diagonal(), (found / plain).sum(0) - found.diagonal() / plain.diagonal()
    assert (up.diff() > 0).all() and up[3] == pytest.approx(5, abs=0.01)
    assert (down.diff() < 0).all() and down[3] == pytest.approx(0, abs=0.01)


# -- federated loss ----------------------------------------------------------------------------------------------------


def counted_classes(z, y, **kwargs):
    return (gradient(federated, z, y, **kwargs).abs().sum(0) > 0).nonzero().flatten().tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_as_many_classes_count_as_are_wanted_the_batch_s_own_among_them(seed):
    torch.manual_seed(seed)
    z, y = torch.randn(6, 40), torch.tensor([3, -1, 17, 3, 39, -1])
    counted = counted_classes(z, y, statistic=torch.rand(40) + 0.1, classes=10)
    assert len(counted) == 10 and {3, 17, 39} <= set(counted)
    assert counted_classes(z, y, statistic=torch.ones(40), classes=2) == [3, 17, 39], "more of its own than are wanted"


def test_other_classes_are_drawn_by_their_share():
    torch.manual_seed(0)
    z, y = torch.zeros(1, 4), torch.tensor([-1])
    share = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = torch.tensor([counted_classes(z, y, statistic=share, classes=1)[0] for _ in range(2000)]).bincount()
    torch.testing.assert_close(drawn / 2000, share, rtol=0, atol=0.035)
    never = [counted_classes(z, y, statistic=torch.tensor([1.0, 1, 0, 1]), classes=3) for _ in range(20)]
    assert never == [[0, 1, 3]] * 20, "a class without images is no negative"
    few = counted_classes(torch.zeros(1, 5), torch.tensor([4]), statistic=torch.tensor([1.0, 0, 0, 1, 0]), classes=4)
    assert few == [0, 3, 4], "not even where there are too few others; its own sample counts"


def test_with_all_classes_it_is_binary_cross_entropy():
    torch.testing.assert_close(federated(*FIRST, statistic=torch.ones(4)), binary_cross_entropy(*FIRST))


# -- DropLoss ----------------------------------------------------------------------------------------------------------

RARE = torch.tensor([0.0, 0, 1, 1])


def test_drop_loss_without_background_is_equalization_loss():
    y = torch.tensor([0, 1, 3, 2, 2])
    assert torch.equal(drop(LOGITS, y, statistic=RARE), equalized(LOGITS, y, statistic=RARE))


def test_background_spares_rare_classes_unless_the_foreground_shows_them():
    z = torch.zeros(2000, 4)
    for shown, chance in (([0, 0, 1, 0], 0.0), ([0, 0, 3, 1], 0.25), ([2, 3], 1.0), ([], 1.0)):
        torch.manual_seed(0)
        y = torch.full((2000,), -1)
        y[: len(shown)] = torch.tensor(shown, dtype=torch.long)
        pushed = gradient(drop, z, y, statistic=RARE)[len(shown) :] > 0
        assert pushed[:, :2].all()
        assert pushed[:, 2:].float().mean(0).tolist() == pytest.approx([chance] * 2, abs=0.04)


# -- Adaptive class suppression ----------------------------------------------------------------------------------------


def test_adaptive_suppression_is_the_published_program():
    """Where every lot is drawn, and where none is for the two rarer classes; without a background column."""
    y = torch.tensor([0, 1, 3, -1, -1])
    for share, last in ((torch.ones(4), [2.77259, 11.13346]), (torch.tensor([1.0, 1, 0, 0]), [1.38629, 9.12705])):
        got = adaptive_suppression(LOGITS, y, statistic=share)
        expected = torch.tensor([0.12693, 3.44019, 11.33392, *last])
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_rare_is_at_most_common():
    with pytest.raises(ValueError, match="rare, common: expected rare to be at most common, got 100 and 3"):
        background_share(counts_of(5, 4), rare=100, common=3)


def test_background_pushes_rarer_classes_seldom():
    torch.manual_seed(0)
    counts = counts_of(101, 100, 11, 10, 0)
    assert background_share(counts).tolist() == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    y = torch.full((20000,), -1)
    pushed = gradient(adaptive_suppression, torch.zeros(20000, 5), y, statistic=background_share(counts)) > 0
    torch.testing.assert_close(pushed.float().mean(0), background_share(counts), rtol=0.2, atol=0)


# -- Effective class margins -------------------------------------------------------------------------------------------


def test_effective_margins_are_the_published_program_s():
    counts = counts_of(1000, 200, 30, 5)
    got = effective_margins(LOGITS, torch.tensor([0, 1, 3, -1, 2]), statistic=sample_share(counts))
    expected = torch.tensor([0.7234, 6.9170, 21.8662, 1.1207, 18.8789])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_rarer_classes_want_to_be_further_ahead():
    share = sample_share(counts_of(1000, 200, 30, 5), background=0.0)
    assert share.sum() == pytest.approx(1)
    met = -(share / (1 - share)).log() / 8  # the logit at which a class is as likely as not
    assert (met.diff() > 0).all()
    up = torch.stack(
        [gradient(effective_margins, met[None], torch.tensor([c]), statistic=share)[0, c] for c in range(4)]
    )
    down = gradient(effective_margins, met[None], torch.tensor([-1]), statistic=share)[0]
    torch.testing.assert_close(up, -down)
    with pytest.raises(ValueError, match="background: expected more than 0 for a single class"):
        sample_share(counts_of(5), background=0.0)
    for counts, message in ((counts_of(5, 0), "class 1 'c1' has 0 training images"), (counts_of(5, 4), "background: ")):
        with pytest.raises(ValueError, match=message):
            sample_share(counts, background=-1.0 if "background" in message else 1.0)


# -- LADE --------------------------------------------------------------------------------------------------------------


def test_lade_and_its_gradient_are_the_published_program_s():
    """Prior cross-entropy and 0.1 times the bound; of the batch's mean, whose slopes are a fifth of each sample's."""
    prior, y = log_prior(counts_of(1000, 200, 30, 5)).exp(), torch.tensor([0, 1, 3, 2, 1])
    assert lade(LOGITS, y, statistic=prior).mean().item() == pytest.approx(7.686237, abs=1e-5)
    expected = torch.tensor(
        [
            [-0.42106, 0.010617, 0.010479, 0.0013203],
            [0.98379, -1.0299, 0.010479, 0.0013203],
            [0.0045108, 1.1112, 0.013807, -1.002],
            [0.80983, 0.1642, -0.98549, 0.0047038],
            [1.9065, -1.0402, 0.0023685, 0.0017826],
        ]
    )
    torch.testing.assert_close(gradient(lade, LOGITS, y, statistic=prior), expected, rtol=1e-3, atol=1e-5)


def test_lade_without_its_bound_is_balanced_softmax_s_loss():
    n, y = torch.tensor([1000.0, 200, 30, 5]), torch.tensor([0, 1, 3, 2, 1])
    got = lade(LOGITS, y, statistic=n / n.sum(), strength=0)
    torch.testing.assert_close(got, cross_entropy(LOGITS + n.log(), y))


# -- label-aware smoothing ---------------------------------------------------------------------------------------------


def test_label_aware_smoothing_is_the_published_program():
    shares = label_smoothing(counts_of(1000, 200, 30, 5))
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.09090155, 0.0118371, 0]), rtol=1e-5, atol=1e-7)
    got = label_aware_smoothing(LOGITS, torch.tensor([0, 1, 3, 2, 1]), statistic=shares)
    torch.testing.assert_close(got, torch.tensor([0.8298, 3.2174, 10.0495, 1.3863, 10.6369]), rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 10**6))
def test_one_share_for_all_classes_is_torch_s_label_smoothing(share, seed):
    generator = torch.Generator().manual_seed(seed)
    z, y = torch.randn(9, 4, generator=generator), torch.randint(0, 4, (9,), generator=generator)
    expected = torch.nn.functional.cross_entropy(z, y, label_smoothing=share, reduction="none")
    torch.testing.assert_close(label_aware_smoothing(z, y, statistic=torch.full((4,), share)), expected)


def test_what_is_spread_is_a_share_and_the_same_for_classes_of_one_count():
    assert label_smoothing(counts_of(7, 7), head=0.4, tail=0.1).tolist() == pytest.approx([0.1, 0.1])
    assert label_smoothing(counts_of(9, 0), head=0.4, tail=0.1).tolist() == pytest.approx([0.4, 0.1])
    with pytest.raises(ValueError, match="head: expected a share from 0 to 1"):
        label_smoothing(counts_of(7, 3), head=1.5)


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


def test_class_balanced_weights_have_the_ratios_of_the_published_program():
    counts = counts_of(5000, 500, 50)
    got = [class_balanced_weights(counts, beta) for beta in (0.9999, 0.99)]
    theirs = [[0.034107, 0.275167, 2.690725], [0.661041, 0.665413, 1.673546]]  # with a mean of 1 over classes
    for ours, published in zip(got, theirs, strict=True):
        assert (ours / ours.mean()).tolist() == pytest.approx(published, abs=1e-6)
        assert (counts.images * ours).sum() / 5550 == pytest.approx(1), "samples weigh 1 on average"


def test_generalised_weights_have_the_ratios_of_the_published_program():
    counts = counts_of(1000, 200, 30, 5)
    got = generalized_weights(counts)
    assert (got / got.mean()).tolist() == pytest.approx([0.00613317, 0.04231055, 0.41222958, 3.5393267], abs=1e-6)
    assert (counts.images * got).sum() / 1235 == pytest.approx(1), "samples weigh 1 on average"
    assert generalized_weights(counts, 0).tolist() == [1, 1, 1, 1]
    assert generalized_weights(counts, 800).isfinite().all()
    for bad, message in ((-0.5, "exponent: expected a finite number from 0"), (float("nan"), "exponent: ")):
        with pytest.raises(ValueError, match=message):
            generalized_weights(counts, bad)
    with pytest.raises(ValueError, match="class 1 'c1' has 0 training images"):
        generalized_weights(counts_of(5, 0))


def test_their_limits_are_equal_weights_and_the_inverse_of_the_counts():
    counts = counts_of(400, 100, 25)
    assert class_balanced_weights(counts, 0).tolist() == [1, 1, 1]
    inverse = 1 / counts.images.double()
    torch.testing.assert_close(class_balanced_weights(counts, 1 - 1e-14), inverse * 175, rtol=1e-6, atol=0)
    boxes = ClassCounts(["a", "b"], torch.tensor([9, 9]), torch.tensor([90, 9]), num_images=20)
    assert class_balanced_weights(boxes, by="image").tolist() == [1, 1]
    assert class_balanced_weights(boxes, by="instance")[1] > 5


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


# -- softmax equalization ----------------------------------------------------------------------------------------------


def test_softmax_equalization_and_its_gradient_are_the_published_formula(monkeypatch):
    """Lots as they fell in the reference: 1 leaves a rare class out, unless it is the sample's own."""
    z = torch.sin(torch.arange(20, dtype=torch.float64)).view(4, 5) * 3
    y, counts = torch.tensor([0, 2, 3, 4]), counts_of(500, 200, 80, 20, 5)
    rare = rare_classes(counts, share=0.1)
    assert rare.tolist() == [0, 0, 1, 1, 1]
    left_out = torch.tensor([[1, 1, 1, 0, 1], [0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 0, 1, 0, 1]])
    monkeypatch.setattr(torch, "rand_like", lambda like: left_out.to(like))
    found = softmax_equalized(z, y, statistic=rare, kept=0.5)
    torch.testing.assert_close(found, torch.tensor([2.708760, 0.065880, 0.118881, 1.761844]), rtol=1e-4, atol=2e-6)
    slope = gradient(softmax_equalized, z, y, statistic=rare, kept=0.5) / 4
    expected = torch.tensor([-0.233345, 0.207912, 0, 0.025433, 0], dtype=torch.float64)
    torch.testing.assert_close(slope[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("kept", "mean"), [(0.0, 1.121214), (1.0, 2.132055)])
def test_rare_classes_are_never_or_always_negatives_at_the_ends(kept, mean):
    z = torch.sin(torch.arange(20, dtype=torch.float64)).view(4, 5) * 3
    rare = torch.tensor([0.0, 0, 1, 1, 1])
    found = softmax_equalized(z, torch.tensor([0, 2, 3, 4]), statistic=rare, kept=kept).mean()
    assert found.item() == pytest.approx(mean, abs=2e-6)


def test_a_rare_class_is_kept_as_often_as_asked():
    z, y = torch.zeros(4000, 2), torch.zeros(4000, dtype=torch.long)
    found = softmax_equalized(z, y, statistic=torch.tensor([0.0, 1.0]), kept=0.25)
    assert found.ne(0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert set(found.exp().round(decimals=4).tolist()) == {1.0, 2.0}
