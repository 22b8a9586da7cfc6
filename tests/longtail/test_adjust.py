"""LogitAdjustment: phases, centring, background, folding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iifdet.longtail import LogitAdjustment, adjust_logits

C = 5


@pytest.fixture
def logits():
    return torch.randn(7, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def background():
    return torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def adjustment(center="none", when="both", **keys):
    module = LogitAdjustment(C)
    module.set(torch.tensor([0.5, 1.0, 2.0, 4.0, 0.25]), torch.tensor([0, 1.0, -1, 0.5, 2]), center=center, when=when)
    if keys:
        module.set(module.scale.clone(), module.shift.clone(), center=center, when=when, **keys)
    return module


def loops(logits, scale, shift, center, background):
    """The formula, one number at a time."""
    out = torch.empty_like(logits)
    for i, row in enumerate(logits.tolist()):
        reference = {"none": 0.0, "mean": sum(row) / len(row), "bg": float(background[i])}[center]
        for c, z in enumerate(row):
            out[i, c] = float(scale[c]) * (z - reference) + float(shift[c])
    return out


@pytest.mark.parametrize("phase", ["train", "infer"])
def test_fresh_adjustment_is_the_identity(logits, background, phase):
    adjust = LogitAdjustment(C)
    assert adjust.is_identity
    assert torch.equal(adjust(logits, phase=phase, background=background), logits)
    assert torch.equal(adjust.adjust_background(background, logits, phase=phase), background)


@pytest.mark.parametrize("keys", [{"center": "mean"}, {"center": "bg"}, {"bg_scale": 2.0}, {"bg_shift": 0.1}])
def test_anything_that_changes_a_logit_is_not_the_identity(keys):
    adjust = LogitAdjustment(C)
    adjust.set(**keys)
    assert not adjust.is_identity
    adjust.set()
    assert adjust.is_identity


@pytest.mark.parametrize(("when", "train", "infer"), [("both", 1, 1), ("train", 1, 0), ("infer", 0, 1)])
@pytest.mark.parametrize("mode", [True, False])
def test_it_acts_in_the_phase_it_is_told_and_not_by_the_modules_mode(logits, background, when, train, infer, mode):
    adjust = adjustment(when=when, bg_scale=3.0).train(mode)
    for phase, acts in (("train", train), ("infer", infer)):
        assert adjust.acts_in(phase) == bool(acts)
        assert torch.equal(adjust(logits, phase=phase), logits) != bool(acts)
        assert torch.equal(adjust.adjust_background(background, logits, phase=phase), background) != bool(acts)


@pytest.mark.parametrize("center", ["none", "mean", "bg"])
def test_adjusted_logits_equal_the_formula_number_by_number(logits, background, center):
    adjust = adjustment(center)
    expected = loops(logits, adjust.scale, adjust.shift, center, background)
    torch.testing.assert_close(adjust(logits, phase="infer", background=background), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("center", ["none", "mean", "bg"])
def test_background_is_adjusted_by_its_own_scale_and_shift_around_the_same_reference(logits, background, center):
    adjust = adjustment(center, bg_scale=3.0, bg_shift=-1.0)
    reference = {"none": 0.0, "mean": logits.mean(1), "bg": background}[center]
    expected = 3 * (background - reference) - 1
    torch.testing.assert_close(adjust.adjust_background(background, logits, phase="train"), expected)


def test_centering_at_background_needs_one(logits):
    with pytest.raises(ValueError, match="'bg' needs a background logit"):
        adjustment("bg")(logits, phase="infer")
    with pytest.raises(ValueError, match="needs a background row"):
        adjustment("bg").fold_rows(torch.ones(C, 3), torch.ones(C))


def test_leading_shapes_are_free(logits):
    adjust = adjustment("mean")
    whole = adjust(logits[:6].view(2, 3, C), phase="infer")
    torch.testing.assert_close(whole.view(6, C), adjust(logits[:6], phase="infer"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": torch.ones(C + 1)}, r"scale: expected shape \(5,\), got \(6,\)"),
        ({"scale": torch.ones(C, 1)}, r"scale: expected shape \(5,\), got \(5, 1\)"),
        ({"shift": torch.tensor(1.0)}, r"shift: expected shape \(5,\), got \(\)"),
        ({"scale": torch.tensor([1, 1, math.nan, 1, 1])}, "scale: expected finite values"),
        ({"shift": torch.tensor([1, 1, math.inf, 1, 1])}, "shift: expected finite values"),
        ({"bg_scale": math.nan}, "bg_scale: expected a finite number"),
        ({"bg_shift": math.inf}, "bg_shift: expected a finite number"),
        ({"when": "test"}, "when: expected one of both, train, infer, got 'test'"),
        ({"center": "median"}, "center: expected one of none, mean, bg, got 'median'"),
    ],
)
def test_bad_values_are_refused_and_change_nothing(arguments, message):
    adjust = adjustment()
    before = adjust.to_dict()
    # a good value beside the bad one must not get in either
    good = {"scale": torch.full((C,), 9.0), "shift": torch.full((C,), 9.0)}
    with pytest.raises(ValueError, match=message):
        adjust.set(**{**good, **arguments})
    for key, value in adjust.to_dict().items():
        assert torch.equal(value, before[key]) if isinstance(value, torch.Tensor) else value == before[key]


def test_unknown_phase_is_refused(logits):
    with pytest.raises(ValueError, match="phase: expected 'train' or 'infer', got 'eval'"):
        LogitAdjustment(C)(logits, phase="eval")


@pytest.mark.parametrize("center", ["none", "mean", "bg"])
@pytest.mark.parametrize("with_background", [False, True])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
@pytest.mark.parametrize("when", ["both", "infer"])
def test_folded_rows_give_the_adjusted_outputs(center, with_background, kernel, when):
    if center == "bg" and not with_background:
        pytest.skip("refused, tested above")
    torch.manual_seed(0)
    rows = C + with_background
    layer = nn.Conv2d(6, rows, 1).double() if kernel else nn.Linear(6, rows).double()
    x = torch.randn(3, 6, 4, 2, dtype=torch.float64) if kernel else torch.randn(24, 6, dtype=torch.float64)

    def outputs(m):
        y = m(x)
        return y.movedim(1, -1).reshape(-1, rows) if kernel else y

    adjust = adjustment(center, when, bg_scale=1.5, bg_shift=-0.7)
    first = int(with_background)  # row 0 is the background
    z = outputs(layer)
    bg = z[:, 0] if with_background else None
    expected = adjust(z[:, first:], phase="infer", background=bg)
    folded = copy.deepcopy(layer)
    w, b = folded.weight.detach(), folded.bias.detach()
    adjust.fold_rows(w[first:], b[first:], (w[0], b[0]) if with_background else None)
    got = outputs(folded)
    torch.testing.assert_close(got[:, first:], expected, rtol=1e-12, atol=1e-12)
    if bg is not None:
        expected_bg = adjust.adjust_background(bg, z[:, first:], phase="infer")
        torch.testing.assert_close(got[:, 0], expected_bg, rtol=1e-12, atol=1e-12)
    assert (expected - z[:, first:]).abs().min() > 1e-6, "the adjustment changed too little to prove anything"


def test_folding_a_train_only_adjustment_changes_no_row():
    weight, bias = torch.randn(C, 3), torch.randn(C)
    expected = weight.clone(), bias.clone()
    adjustment("mean", "train").fold_rows(weight, bias)
    assert torch.equal(weight, expected[0]) and torch.equal(bias, expected[1])


def test_folding_an_adjustment_that_depends_on_the_input_is_refused():
    class Gated(LogitAdjustment):
        foldable = False

    with pytest.raises(ValueError, match="Gated depends on the input"):
        Gated(C).fold_rows(torch.ones(C, 2), torch.ones(C))


def test_folded_adjustment_is_the_identity_and_refuses_to_train(logits):
    adjust = adjustment("mean")
    adjust.mark_folded()
    assert adjust.is_identity
    assert torch.equal(adjust(logits, phase="infer"), logits)
    with pytest.raises(RuntimeError, match="a folded model cannot train"):
        adjust(logits, phase="train")


@pytest.mark.parametrize("folded", [False, True])
def test_dict_round_trip_keeps_everything(logits, background, folded):
    adjust = adjustment("bg", "infer", bg_scale=1.5, bg_shift=-0.5)
    if folded:
        adjust.mark_folded()
    copy_ = LogitAdjustment(C)
    copy_.load_dict(adjust.to_dict())
    assert copy_.folded is folded
    for phase in ("infer",) if folded else ("train", "infer"):
        a, b = (m(logits, phase=phase, background=background) for m in (adjust, copy_))
        assert torch.equal(a, b)
        a, b = (m.adjust_background(background, logits, phase=phase) for m in (adjust, copy_))
        assert torch.equal(a, b)
    assert copy_.to_dict().keys() == adjust.to_dict().keys()


def test_saved_dict_does_not_follow_later_changes():
    adjust = adjustment()
    saved = adjust.to_dict()
    adjust.set()
    assert float(saved["scale"][3]) == 4


@settings(max_examples=50, deadline=None)
@given(st.floats(0.5, 20), st.sampled_from([-1, 1]), st.integers(0, 10**6))
def test_scaling_depends_on_where_zero_lies_unless_centred(size, sign, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(4, C, generator=generator, dtype=torch.float64)
    bg = torch.randn(4, generator=generator, dtype=torch.float64)
    move = sign * size

    def probabilities(center, by):
        adjusted = adjustment(center)(z + by, phase="infer", background=bg + by)
        return adjusted.softmax(-1)

    assert (probabilities("none", move) - probabilities("none", 0)).abs().max() > 1e-6
    for center in ("mean", "bg"):
        torch.testing.assert_close(probabilities(center, move), probabilities(center, 0), rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=C, max_size=C), st.lists(st.floats(0.01, 20), min_size=C, max_size=C))
def test_positive_weights_keep_the_sign_of_every_logit(values, weights):
    z = torch.tensor(values, dtype=torch.float64)
    z = torch.where(z.abs() < 1e-300, 0.0, z)  # a product of denormal numbers underflows to zero
    adjusted = adjust_logits(z, torch.tensor(weights, dtype=torch.float64), torch.zeros(C, dtype=torch.float64))
    assert torch.equal(adjusted.sign(), z.sign())


def test_gradient_of_an_adjusted_logit_is_its_scale(logits):
    z = logits.clone().requires_grad_()
    adjust = adjustment()
    adjust(z, phase="train").sum().backward()
    torch.testing.assert_close(z.grad, adjust.scale.double().expand_as(z))


@pytest.mark.parametrize("center", ["none", "mean", "bg"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_adjusted_in_full_background_among_it(logits, background, center, dtype):
    adjust = adjustment(center, bg_scale=1.5, bg_shift=0.3)
    half, dim = logits.to(dtype), background.to(dtype)
    for phase in ("train", "infer"):
        exact = adjust(half.float(), phase=phase, background=dim.float())
        assert torch.equal(adjust(half, phase=phase, background=dim), exact)
        exact = adjust.adjust_background(dim.float(), half.float(), phase=phase)
        assert torch.equal(adjust.adjust_background(dim, half, phase=phase), exact)


def test_a_state_dict_brings_phase_centre_and_fold_along() -> None:
    saved = LogitAdjustment(3)
    saved.set(shift=torch.tensor([0.0, -1.0, -2.0]), when="train", center="mean")
    fresh = LogitAdjustment(3)
    fresh.load_state_dict(saved.state_dict())
    assert fresh(torch.zeros(3), phase="infer").tolist() == [0, 0, 0] and (fresh.when, fresh.center) == (
        "train",
        "mean",
    )
    saved.mark_folded()
    fresh.load_state_dict(saved.state_dict())
    with pytest.raises(RuntimeError, match="folded"):
        fresh(torch.zeros(3), phase="train")
    old = {name: value for name, value in LogitAdjustment(3).state_dict().items() if name != "mode"}
    fresh.load_state_dict(old)  # strict: what was saved before there was a mode
    assert fresh.folded and "mode" not in old


def test_logits_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits: expected \(..., 1\)"):
        LogitAdjustment(1)(torch.zeros(4, 21), phase="train")
