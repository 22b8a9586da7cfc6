from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iifdet.classifiers.causal import CausalHead
from iifdet.classifiers.cosine import CosineHead, LearnedCosineHead, squash
from iifdet.classifiers.heads import HEADS, build_head
from iifdet.longtail import LogitAdjustment, directions

D, C = 6, 5


def double(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[name](D, C).double()


def cosines(x: Tensor, weight: Tensor) -> Tensor:
    """Angles by torch's own function, one pair at a time."""
    return torch.stack([torch.nn.functional.cosine_similarity(x, row[None]) for row in weight], dim=1)


@pytest.mark.parametrize(("name", "s"), [("cosine", 16.0), ("cosine_learned", 25.0)])
def test_a_cosine_head_is_scale_times_length_times_cosine(name: str, s: float) -> None:
    head, x = double(name), torch.randn(7, D, dtype=torch.float64)
    length = x.norm(dim=1, keepdim=True)
    expected = s * length / (1 + length) * cosines(x, head.weight)
    torch.testing.assert_close(head(x), expected)


def test_a_linear_head_is_a_linear_layer() -> None:
    head, x = double("linear"), torch.randn(7, D, dtype=torch.float64)
    torch.testing.assert_close(head(x), x @ head.weight.T + head.bias)


@pytest.mark.parametrize("name", HEADS)
def test_gradients_of_features_and_rows_are_those_of_finite_differences(name: str) -> None:
    head, x = double(name), torch.randn(3, D, dtype=torch.float64, requires_grad=True)
    parameters = dict(head.named_parameters())

    def logits(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(head, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(logits, (x, *parameters.values()))


@pytest.mark.parametrize("name", HEADS)
def test_zero_features_and_zero_rows_give_finite_logits_and_gradients(name: str) -> None:
    head = HEADS[name](D, C)
    with torch.no_grad():
        head.weight[2] = 0
    x = torch.zeros(2, D, requires_grad=True)
    logits = head(x)
    torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0])).backward()
    assert logits.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() < 1e3 for p in head.parameters())


@given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=3, max_size=3))
def test_squashed_features_and_unit_rows_are_never_longer_than_one(values: list[float]) -> None:
    x = torch.tensor([values])
    assert squash(x).norm() <= 1 + 1e-5
    length = directions(x).norm().item()
    assert length == pytest.approx(0 if not x.any() else 1, abs=1e-3) or x.norm() < 1e-18


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("center", ["none", "mean"])
@pytest.mark.parametrize("when", ["both", "infer", "train"])
def test_a_folded_head_gives_the_adjusted_logits(name: str, center: str, when: str) -> None:
    head, adjust, x = double(name), LogitAdjustment(C).double(), torch.randn(9, D, dtype=torch.float64)
    adjust.set(torch.linspace(-1, 3, C), torch.linspace(-2, 2, C), when=when, center=center)
    expected = adjust(head(x), phase="infer")
    head.fold(adjust)
    torch.testing.assert_close(head(x), expected)


def test_a_fold_is_in_the_state_dict_of_a_cosine_head() -> None:
    head, adjust, x = double("cosine"), LogitAdjustment(C).double(), torch.randn(9, D, dtype=torch.float64)
    adjust.set(torch.linspace(0.5, 3, C), torch.linspace(-2, 2, C))
    head.fold(adjust)
    fresh = CosineHead(D, C).double()
    fresh.load_state_dict(head.state_dict())
    torch.testing.assert_close(fresh(x), head(x), rtol=0, atol=0)


def test_heads_stay_in_float32_under_autocast() -> None:
    x = torch.randn(4, D)
    for name in HEADS:
        head = HEADS[name](D, C)
        with torch.autocast("cpu", torch.bfloat16):
            assert head(x.bfloat16()).dtype == torch.float32
            torch.testing.assert_close(head(x), head(x.double().float()))


def test_a_causal_head_is_the_published_program() -> None:
    """Numbers of its formulas: two parts, s = 16, γ = 1/32."""
    steps = torch.arange(20, dtype=torch.float64)
    head = CausalHead(4, 5).double()
    head.weight.data = torch.cos(steps).view(5, 4) * 0.5
    x, other = (wave(steps[:12]).view(3, 4).abs() for wave in (torch.sin, torch.cos))
    row = torch.tensor([-0.359111, 9.563678, -14.749948, 5.755572, 3.061727], dtype=torch.float64)
    torch.testing.assert_close(head(x.requires_grad_())[0], row, atol=1e-6, rtol=0)
    head(other.requires_grad_())
    mean = torch.tensor([1.123563, 1.242119, 1.258283, 1.122203], dtype=torch.float64)
    torch.testing.assert_close(head.direction, mean, atol=1e-6, rtol=0)
    followed = head.direction.clone()
    inferred = {
        3.0: [0.926550, -4.328125, 13.150339, -1.440620, -1.240443],
        1.5: [0.283719, 2.617777, -0.799805, 2.157476, 0.910642],
        1.0: [0.069443, 4.933077, -5.449852, 3.356841, 1.627670],
    }
    for head.effect, expected in inferred.items():
        torch.testing.assert_close(head.eval()(x)[0], torch.tensor(expected).double(), atol=1e-6, rtol=0)
    head.train()(x.detach())
    assert torch.equal(head.direction, followed), "neither inference nor a second stage on finished features moves it"


def test_a_folded_causal_head_gives_the_adjusted_logits_in_inference() -> None:
    head, adjust, x = double("causal"), LogitAdjustment(C).double(), torch.randn(9, D, dtype=torch.float64)
    head((x + 1).requires_grad_())
    adjust.set(torch.linspace(0.5, 3, C), torch.linspace(-2, 2, C), center="mean")
    expected = adjust(head.eval()(x), phase="infer")
    head.fold(adjust)
    torch.testing.assert_close(head(x), expected)


def test_the_learned_scale_learns() -> None:
    head = LearnedCosineHead(D, C)
    head(torch.randn(4, D)).square().sum().backward()
    assert head.root_scale.grad is not None and head.root_scale.grad != 0
    assert float(head.scale().detach()) == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cos"}, "head: expected one of linear, cosine, cosine_learned, causal, got 'cos'"),
        (
            {"name": "linear", "scale": 16.0},
            "scale: expected none with head=linear, got 16.0; use head=cosine or causal",
        ),
        ({"name": "cosine_learned", "scale": 16.0}, "scale: expected none with head=cosine_learned"),
        ({"name": "cosine", "scale": 0.0}, "scale: expected a number above 0"),
        ({"name": "cosine", "scale": float("nan")}, "scale: expected a number above 0"),
        ({"name": "causal", "scale": 0.0}, "scale: expected a number above 0"),
        ({"name": "causal", "effect": -1.0}, "effect: expected a number from 0"),
        ({"name": "cosine", "effect": 1.0}, "effect: expected none with head=cosine, got 1.0; use head=causal"),
    ],
)
def test_wrong_options_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(arguments.pop("name"), D, C, **arguments)
