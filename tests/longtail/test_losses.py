"""Classification losses, against torch, torchvision, finite differences and the paper's closed forms."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from iifdet.longtail import (
    ACTIVATIONS,
    CLASS_LOSSES,
    CLASS_STATISTICS,
    ClassCounts,
    LogitAdjustment,
    iif_cross_entropy,
    read_choice,
)
from iifdet.longtail.activations import LOG_PARTS, LOGITS, ONE_VS_REST, gumbel
from iifdet.longtail.class_losses import LOSS_OPTIONS, STATISTIC_OPTIONS
from iifdet.longtail.losses import binary_cross_entropy, binary_focal, cross_entropy, focal, gumbel_cross_entropy

C = 6


def sample(seed=0, n=9, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    z = spread * torch.randn(n, C, generator=generator)
    y = torch.randint(0, C, (n,), generator=generator)
    w = torch.rand(C, generator=generator) * 4 + 0.2
    return z, y, w


def gradient(loss, z, *args):
    z = z.clone().requires_grad_()
    loss(z, *args).sum().backward()
    return z.grad


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 8))
def test_iif_gradient_is_equation_16(seed, spread):
    z, y, w = sample(seed, spread=spread)
    q = (w * z).softmax(-1)
    expected = w * (q - F.one_hot(y, C))
    torch.testing.assert_close(gradient(iif_cross_entropy, z, y, w), expected, rtol=1e-4, atol=1e-5)


def test_iif_gradient_equals_finite_differences_of_the_formula():
    z, y, w = (v.double() if v.is_floating_point() else v for v in sample(3))

    def formula(z):  # Eq. 15 in float64, written out
        e = torch.exp(w * z)
        return -torch.log(e[torch.arange(len(y)), y] / e.sum(-1)).sum()

    step, numeric = 1e-6, torch.zeros_like(z)
    for i in range(len(z)):
        for c in range(C):
            up, down = z.clone(), z.clone()
            up[i, c] += step
            down[i, c] -= step
            numeric[i, c] = (formula(up) - formula(down)) / (2 * step)
    got = gradient(iif_cross_entropy, z.float(), y, w.float()).double()
    torch.testing.assert_close(got, numeric, rtol=1e-4, atol=1e-5)


def test_iif_loss_is_what_a_detector_reaches_through_its_adjustment():
    z, y, w = sample()
    adjust = LogitAdjustment(C)
    adjust.set(w)
    assert torch.equal(cross_entropy(adjust(z, phase="train"), y), iif_cross_entropy(z, y, w))


def test_iif_with_equal_weights_of_one_is_cross_entropy():
    z, y, _ = sample()
    assert torch.equal(iif_cross_entropy(z, y, torch.ones(C)), cross_entropy(z, y))


def test_cross_entropy_equals_torch_with_and_without_weights():
    z, y, w = sample()
    torch.testing.assert_close(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))
    picked = -(z.softmax(-1).log())[torch.arange(len(y)), y]
    torch.testing.assert_close(cross_entropy(z, y, w), picked * w[y])


def test_cost_sensitive_gradient_is_scaled_by_the_true_classs_weight_alone():
    z, y, w = sample()
    q = z.softmax(-1)
    expected = torch.empty_like(z)
    for n in range(len(z)):
        for i in range(C):
            alpha = w[y[n]]
            expected[n, i] = alpha * (q[n, i] - 1) if i == y[n] else alpha * q[n, i]
    torch.testing.assert_close(gradient(cross_entropy, z, y, w), expected, rtol=1e-4, atol=1e-6)


def told(name):
    """A loss that has been told what it has to know: six classes from common to rare."""
    n = torch.tensor([500, 200, 90, 30, 12, 4])
    counts = ClassCounts([str(c) for c in range(C)], n, n, num_images=900)

    def loss(z, *args, **kwargs):
        if name in CLASS_STATISTICS:
            kwargs["statistic"] = CLASS_STATISTICS[name](counts, 16.0)[..., : z.shape[-1]]
        torch.manual_seed(0)  # some draw lots
        return CLASS_LOSSES[name](z, *args, **kwargs)

    return loss


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_weight_multiplies_each_samples_loss_by_its_true_classs_weight(name):
    z, y, w = sample()
    loss = told(name)
    torch.testing.assert_close(loss(z, y, w), loss(z, y) * w[y])


def test_gumbel_cross_entropy_and_its_gradient_are_the_published_program_s():
    """torch's own cross-entropy of exp(-exp(-z)), z held between -4 and 10."""
    z, y, _ = sample(spread=4)
    z[0, :2] = torch.tensor([-5.0, 12.0])
    target = F.one_hot(y, C).float()

    def published(z):
        scores = torch.exp(-torch.exp(-z.clamp(-4, 10).double()))
        return F.binary_cross_entropy(scores, target.double(), reduction="none").sum(-1).float()

    torch.testing.assert_close(gumbel_cross_entropy(z, y), published(z), rtol=1e-4, atol=1e-5)
    mine = gradient(gumbel_cross_entropy, z, y)
    torch.testing.assert_close(mine, gradient(lambda v: published(v), z), rtol=1e-3, atol=1e-5)
    assert not mine[0, :2].any()
    torch.testing.assert_close(gumbel(z), (-(-z.double()).exp()).exp().float())


def test_binary_cross_entropy_is_the_sum_over_classes_of_torchs():
    z, y, _ = sample()
    expected = F.binary_cross_entropy_with_logits(z, F.one_hot(y, C).float(), reduction="none").sum(-1)
    torch.testing.assert_close(binary_cross_entropy(z, y), expected)


@pytest.mark.parametrize("alpha", [0.25, 0.353, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.835, 2.0, 3.0])
def test_focal_equals_torchvisions(alpha, gamma):
    z, y, _ = sample(spread=4)
    target = F.one_hot(y, C).float()
    expected = sigmoid_focal_loss(z, target, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(binary_focal(z, target, alpha=alpha, gamma=gamma), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(focal(z, y, alpha=alpha, gamma=gamma), expected.sum(-1), rtol=1e-4, atol=1e-6)
    ours = gradient(lambda v: binary_focal(v, target, alpha=alpha, gamma=gamma), z)
    theirs = gradient(lambda v: sigmoid_focal_loss(v, target, alpha=alpha, gamma=gamma), z)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_focal_without_focus_and_with_even_alpha_is_half_of_binary_cross_entropy():
    z, y, _ = sample()
    torch.testing.assert_close(focal(z, y, alpha=0.5, gamma=0.0), binary_cross_entropy(z, y) / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.835, 3.0])
def test_focal_gradient_equals_finite_differences(gamma):
    z = torch.linspace(-6, 6, 25, dtype=torch.float64).requires_grad_()
    for target in (torch.zeros_like(z), torch.ones_like(z)):
        assert torch.autograd.gradcheck(lambda v, t=target: binary_focal(v, t, alpha=0.353, gamma=gamma), z)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.8, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_and_its_gradient_are_finite_at_saturated_logits(gamma, dtype):
    z = torch.tensor([-1e30, -1e4, -200, -100, -40, -18, 0, 18, 40, 100, 200, 1e4, 1e30], dtype=dtype).requires_grad_()
    for value in (0.0, 1.0):
        loss = binary_focal(z, torch.full_like(z, value), alpha=0.353, gamma=gamma)
        assert loss.isfinite().all() and (loss >= 0).all()
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert grad.isfinite().all()
        right = z > 0 if value else z < 0
        assert grad[right & (z.abs() > 30)].abs().max() < 1e-6, "sure and right: nothing left to learn"


@pytest.mark.parametrize("name", CLASS_LOSSES)
@pytest.mark.parametrize("label", [C, C + 3, -2])
def test_a_label_that_is_none_of_the_classes_is_refused(name, label):
    z, y, _ = sample()
    y[2] = label
    with pytest.raises((RuntimeError, IndexError), match=r"out of bounds|out of range"):
        told(name)(z, y)


@pytest.mark.parametrize("name", CLASS_LOSSES)
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_losses_and_gradients_are_finite_at_extreme_logits(name, size):
    y = torch.tensor([0, 0, 1, 1])
    z = size * torch.tensor([[1.0, -1], [-1, 1], [0, 0], [1, 1]])
    loss = told(name)(z, y)
    assert loss.isfinite().all()
    assert gradient(told(name), z, y).isfinite().all()


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_losses_are_float32_of_one_number_a_sample_and_take_none(name):
    z, y, w = sample()
    for dtype in (torch.float32, torch.bfloat16):
        loss = told(name)(z.to(dtype), y, w.double())
        assert loss.shape == y.shape and loss.dtype == torch.float32
    assert told(name)(z[:0], y[:0], w).shape == (0,)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_a_surer_right_answer_costs_less(name):
    y = torch.zeros(8, dtype=torch.long)
    z = torch.zeros(8, C)
    z[:, 0] = torch.linspace(-4, 2, 8)  # up to where labels that are spread over all classes are met
    assert (told(name)(z, y).diff() < 0).all()


def test_every_loss_says_what_makes_its_scores():
    sigmoid = {name for name, activation in ACTIVATIONS.items() if activation == "sigmoid"}
    assert sigmoid == {"bce", "focal", "eql", "eqlv2", "efl", "droploss", "acsl", "ecm", "federated"}
    assert {name for name, activation in ACTIVATIONS.items() if activation == "gumbel"} == {"gumbel"}
    assert set(ACTIVATIONS.values()) == {"softmax", "sigmoid", "gumbel"}
    assert ACTIVATIONS.keys() == CLASS_LOSSES.keys()


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_options_of_a_loss_are_the_keywords_of_its_function_and_of_its_statistic(name):
    own = {p.name for p in inspect.signature(CLASS_LOSSES[name]).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert own - {"statistic"} == set(LOSS_OPTIONS.get(name, ()))
    assert ("statistic" in own) == (name in CLASS_STATISTICS)
    n = torch.tensor([5, 2])
    counts = ClassCounts(["a", "b"], n, n, 7)
    if name in CLASS_STATISTICS:
        CLASS_STATISTICS[name](counts, 16.0, **dict.fromkeys(STATISTIC_OPTIONS.get(name, ()), 0.5))
        with pytest.raises(TypeError):
            CLASS_STATISTICS[name](counts, 16.0, unheard_of=1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("crossentropy", "class_loss: expected one of ce, bce, focal"),
        ({"focal": {"gama": 2}}, "class_loss.focal: expected alpha or gamma, got 'gama'"),
        ({"ce": {"gamma": 2}}, "class_loss.ce: expected no options, got 'gamma'"),
        ({"focal": {"gamma": "high"}}, "class_loss.focal.gamma: expected a number from 0 to 1e+09, got 'high'"),
        ({"focal": {"gamma": float("inf")}}, "expected a number from 0"),
        ({"focal": {"gamma": float("nan")}}, "expected a number from 0"),
        ({"focal": {"gamma": 10**400}}, "expected a number from 0 to 1e+09, got 1000"),
        ({"focal": {"gamma": True}}, "expected a number from 0"),
        ({"focal": {"gamma": -1}}, "expected a number from 0 to 1e+09, got -1"),
        ({"focal": {"alpha": 5}}, "class_loss.focal.alpha: expected a number from 0 to 1, got 5"),
        ({"seesaw": {"eps": 0}}, "class_loss.seesaw.eps: expected a number from 1e-09 to 1, got 0"),
        ({"efl": {"gamma": 0}}, "class_loss.efl.gamma: expected a number from 1e-09"),
        ({"ecm": {"background": 0}}, "class_loss.ecm.background: expected a number from 1e-09"),
        ({"federated": {"classes": 2.5}}, "class_loss.federated.classes: expected a whole number from 0"),
        ({"focal": 2}, "class_loss.focal: expected options, such as {gamma: 1.5}, got 2"),
        ({"focal": {}, "ce": {}}, "class_loss: expected one loss"),
        ({}, "class_loss: expected one loss"),
        (["focal"], "class_loss: expected one loss"),
        (None, "class_loss: expected one loss"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_choice(choice)


@pytest.mark.parametrize("name", ONE_VS_REST)
def test_what_is_known_of_an_activation_agrees(name):
    z = torch.linspace(-3, 6, 31)
    log_p, log_rest = LOG_PARTS[name](z)
    torch.testing.assert_close(log_p.exp(), ONE_VS_REST[name](z))
    torch.testing.assert_close(log_p.exp() + log_rest.exp(), torch.ones(31))
    for p in (0.01, 0.3, 0.9):
        assert ONE_VS_REST[name](torch.tensor(LOGITS[name](p))).item() == pytest.approx(p, abs=1e-6)
    assert ONE_VS_REST.keys() == LOG_PARTS.keys() == LOGITS.keys()
    far = torch.tensor([-1e4, -100, 1e4], requires_grad=True)
    scores = ONE_VS_REST[name](far)
    scores.sum().backward()
    assert scores.tolist() == pytest.approx([0, 0, 1]) and far.grad.isfinite().all()


@pytest.mark.parametrize("table", [LOSS_OPTIONS, STATISTIC_OPTIONS])
def test_losses_are_finite_at_the_ends_of_what_their_options_may_be(table):
    z, y, _ = sample()
    n = torch.tensor([500, 200, 90, 30, 12, 4])
    counts = ClassCounts([str(c) for c in range(C)], n, n, num_images=900)
    for name, options in table.items():
        for option, (low, high) in options.items():
            for value in (low, min(high, 1e3)):
                if (option, value) in {("rare", 1e3), ("common", 0.0)}:
                    continue  # rare would be above common
                made = {option: value} if table is STATISTIC_OPTIONS else {}
                told = {option: value} if table is LOSS_OPTIONS else {}
                if name in CLASS_STATISTICS:
                    told["statistic"] = CLASS_STATISTICS[name](counts, 16.0, **made)
                found = z.clone().requires_grad_()
                loss = CLASS_LOSSES[name](found, y, **told)
                loss.sum().backward()
                assert loss.isfinite().all() and found.grad.isfinite().all(), (name, option, value)
