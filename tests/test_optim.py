"""Schedules against torch's, the average against a loop, and which parameters decay."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from iifdet.optim import AveragedWeights, Schedule, build_optimizer
from iifdet.training.state import load_optimizer


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def oracle_rates(make: type[LRScheduler], lr: float, epochs: int, **options: object) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer, **options)  # type: ignore[arg-type]
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_step_schedule_equals_multi_step_lr() -> None:
    schedule = Schedule(0.002, 70, "step", steps=[35, 55], gamma=0.1)
    expected = oracle_rates(MultiStepLR, 0.002, 70, milestones=[35, 55], gamma=0.1)
    assert [schedule.at(e) for e in range(70)] == pytest.approx(expected, rel=1e-9)


def test_steps_may_come_in_any_order_and_drop_within_an_epoch() -> None:
    schedule = Schedule(1.0, 10, "step", steps=[8, 2.5], gamma=0.5)
    assert [schedule.at(e) for e in (2.49, 2.5, 7.9, 8)] == pytest.approx([1, 0.5, 0.5, 0.25])


def test_cosine_schedule_equals_cosine_annealing_lr() -> None:
    schedule = Schedule(0.1, 40, "cosine", final=0.05)
    expected = oracle_rates(CosineAnnealingLR, 0.1, 40, T_max=40, eta_min=0.1 * 0.05)
    assert [schedule.at(e) for e in range(40)] == pytest.approx(expected, rel=1e-6)
    assert schedule.at(40) == pytest.approx(0.005) and schedule.at(41) == pytest.approx(0.005)


def test_warm_up_grows_linearly_from_its_factor() -> None:
    schedule = Schedule(1.0, 10, "constant", warmup=2, warmup_factor=0.1)
    assert [schedule.at(e) for e in (0, 1, 2, 5)] == pytest.approx([0.1, 0.55, 1, 1])


def test_no_warm_up_starts_at_the_base_rate() -> None:
    assert Schedule(0.3, 10, "constant").at(0) == 0.3


def test_average_equals_a_loop_in_double_precision() -> None:
    model, decay, ramp = small_model(), 0.9, 20.0
    average = AveragedWeights(model, decay, ramp)
    expected = {k: v.double() for k, v in model.state_dict().items()}
    for step in range(1, 31):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
            model[1].num_batches_tracked += 1  # type: ignore[operator]
        average.update(model)
        d = decay * (1 - math.exp(-step / ramp))
        for name, value in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * value.double()
    for name, value in average.weights.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)
    assert average.weights["1.num_batches_tracked"] == 30
    assert not torch.equal(average.weights["0.weight"], model.state_dict()["0.weight"])


def test_average_of_an_unchanged_model_stays_bit_identical() -> None:
    model = small_model()
    average = AveragedWeights(model, 0.998)
    for _ in range(5):
        average.update(model)
    for name, value in model.state_dict().items():
        assert torch.equal(average.weights[name], value)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_spares_biases_and_batch_norm(name: str) -> None:
    model = small_model()
    optimizer = build_optimizer(model, name, lr=0.1, weight_decay=0.5)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n: decay[id(p)] for n, p in model.named_parameters()} == {
        "0.weight": 0.5,
        "0.bias": 0,
        "1.weight": 0,
        "1.bias": 0,
        "2.weight": 0.5,
        "2.bias": 0,
    }


def test_decay_all_reaches_every_parameter() -> None:
    model = small_model()
    optimizer = build_optimizer(model, lr=0.1, weight_decay=0.5, decay_all=True)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5]
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    model = small_model()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, lr=0.1, weight_decay=0.5)
    frozen = {id(p) for p in model[0].parameters()}
    assert not frozen & {id(p) for g in optimizer.param_groups for p in g["params"]}


def test_a_model_frozen_throughout_is_refused() -> None:
    with pytest.raises(ValueError, match="freeze: expected something left to train"):
        build_optimizer(small_model().requires_grad_(False), lr=0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_s_moments_take_the_memory_order_and_the_kernel_of_the_model_that_loads_them(name: str) -> None:
    """As from a CPU to a CUDA device, where weights are channels last and steps are fused."""

    def made(order: torch.memory_format, fused: bool) -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 3).to(memory_format=order)
        optimizer = build_optimizer(net, name, lr=0.1)
        for group in optimizer.param_groups:
            group["fused"] = fused
        return net, optimizer

    def step(net: nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        net(torch.rand(2, 3, 8, 8, generator=generator)).square().sum().backward()
        optimizer.step()

    here, there = made(torch.contiguous_format, False), made(torch.channels_last, True)
    step(*here, 1)
    there[0].load_state_dict(here[0].state_dict())
    load_optimizer(there[1], copy.deepcopy(here[1].state_dict()))
    assert all(group["fused"] for group in there[1].param_groups)
    for parameter, moments in there[1].state.items():
        for value in moments.values():
            assert value is None or value.shape != parameter.shape or value.stride() == parameter.stride()
    for each in (here, there):
        step(*each, 2)
    torch.testing.assert_close(there[0].weight, here[0].weight)
