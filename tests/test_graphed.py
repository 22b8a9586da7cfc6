"""Whole steps at once do what single steps do; recording is tried with what runs again on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from taped import Tape, record_on_tape
from torch import Tensor, nn

from iifdet.build.freezing import freeze_all_but_scale
from iifdet.classifiers import CLASSIFIERS, Distillation
from iifdet.longtail import ClassCounts
from iifdet.training import FitOptions, GraphedStep, Step, TrainState, train_step
from iifdet.training.graphed import WARM_UP
from iifdet.training.pieces import Undo
from iifdet.types import Batch, MixedLabels

CPU = FitOptions(epochs=1, device=torch.device("cpu"))


def new_state(momentum: float = 0.9, learned: bool = False, **options: Any) -> TrainState:
    torch.manual_seed(0)
    model = CLASSIFIERS["se_resnet20"](4, **{"width": 0.25, "head": "cosine", **options}).train()
    model.set_class_weight(torch.ones(4))
    n = torch.tensor([40, 20, 10, 5])
    model.set_class_statistic(ClassCounts(list("abcd"), n, n, num_images=75))
    if learned:
        freeze_all_but_scale(model)
    plain = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": matrices, "weight_decay": 1e-2}, {"params": plain, "weight_decay": 0.0}]
    return TrainState(
        model, torch.optim.SGD(groups, lr=0.1, momentum=momentum), torch.amp.GradScaler("cpu", enabled=False)
    )


def batches(count: int = 8, size: int = 6, mixed: bool = False) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        images = torch.rand(size if number % 4 else size - 2, 3, 16, 16, generator=generator)
        labels = torch.randint(4, (len(images),), generator=generator)
        share = torch.rand(len(images), generator=generator)
        yield Batch(images, MixedLabels(labels, labels.flip(0), share) if mixed else labels)


def again(body: Callable[[], None]) -> Callable[[], None]:
    return body


def run(step: Step, state: TrainState, options: FitOptions = CPU, **data: Any) -> TrainState:
    undo = Undo(state.model, options.device)
    for number, batch in enumerate(batches(**data)):
        for group in state.optimizer.param_groups:
            group["lr"] = 0.1 / (1 + number)
        step(state, [batch], 8, options, undo)
    return state


def tensors(state: TrainState) -> dict[str, Tensor]:
    buffers = {f"buffer {i}": s["momentum_buffer"] for i, s in enumerate(state.optimizer.state.values()) if s}
    return {**state.model.state_dict(), **buffers}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("options", [CPU, FitOptions(epochs=1, device=torch.device("cpu"), clip=0.5)])
def test_recorded_steps_train_as_single_ones(mixed: bool, options: FitOptions) -> None:
    one, other = (
        run(train_step, new_state(), options, mixed=mixed),
        run(GraphedStep(again), new_state(), options, mixed=mixed),
    )
    for name, value in tensors(one).items():
        torch.testing.assert_close(tensors(other)[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert (one.trained, one.images, one.batch) == (other.trained, other.images, other.batch)
    assert one.sums["cls"] == pytest.approx(other.sums["cls"], rel=1e-5)


#: What a recording must not bake in: losses that know the classes, and learn while training.
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "seesaw": {"class_loss": "seesaw"},
    "ldam": {"class_loss": "ldam"},
    "eqlv2": {"class_loss": "eqlv2"},
    "efl": {"class_loss": "efl"},
    "linear": {"head": "linear", "class_loss": "bce"},
    "learned weights": {},
    "experts": {"experts": 2, "class_loss": "ldam"},
    "bilateral": {"bilateral": True},
    "views": {"contrast": "views"},
    "prototypes": {"contrast": "prototypes"},
    "causal": {"head": "causal"},
    "robust": {"robust": True},
    "generator": {"generator": True},
    "taught": {},
}


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_a_recording_that_is_run_again_on_its_memory_does_what_the_step_does(name: str, clip: float) -> None:
    """To the bit, while learning rates, labels, class weights, shares and the adjustment change between steps."""
    options = FitOptions(epochs=1, device=torch.device("cpu"), clip=clip)

    def train(record: Any) -> tuple[TrainState, list[int]]:
        state, recorded = new_state(learned=name == "learned weights", **MODELS[name]), []
        if name == "taught":
            teacher = CLASSIFIERS["se_resnet20"](4, width=0.25, head="cosine")
            state.model.learn_from(Distillation(teacher, "dive"))  # type: ignore[operator]
        step, undo = GraphedStep(lambda body: (recorded.append(1), record(body))[1]), Undo(state.model, options.device)
        for number, batch in enumerate(batches(count=24, mixed=name in ("plain", "seesaw"))):
            for group in state.optimizer.param_groups:
                group["lr"] = 0.1 / (1 + number)
            if number == 16:
                model: Any = state.model
                model.class_weight.copy_(torch.tensor([1.0, 2, 3, 4]))
                getattr(model, "share", torch.empty(())).fill_(0.75)
                model.set_adjustment(torch.tensor([1.0, 1.5, 2, 2.5]))
            assert step(state, [batch], 24, options, undo)
        return state, recorded

    (one, plain), (other, taped) = train(again), train(record_on_tape)
    assert len(plain) == len(taped) == 2
    for key, value in tensors(one).items():
        assert torch.equal(tensors(other)[key], value), key
    assert one.sums == other.sums


def another_tensor(model: Any) -> None:
    model.class_weight = torch.zeros(4)


def another_number(model: Any) -> None:
    model.head.fixed_scale = 1.0


@pytest.mark.parametrize("change", [another_tensor, another_number])
def test_what_python_changes_between_steps_is_baked_in(change: Callable[[Any], None]) -> None:
    """What the test above leans on: the tape goes on with what it was recorded with, as a graph would."""
    ends = []
    for record, changes in ((again, False), (again, True), (record_on_tape, True)):
        state = new_state()
        step, undo = GraphedStep(record), Undo(state.model, CPU.device)
        for number, batch in enumerate(batches(count=24)):
            if number == 20 and changes:
                change(state.model)
            step(state, [batch], 24, CPU, undo)
        ends.append(state.model.head.weight.detach())  # type: ignore[union-attr]
    unchanged, seen, taped = ends
    assert torch.equal(taped, unchanged) and not torch.equal(seen, unchanged)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), x.new_zeros(())),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: torch.arange(3).repeat_interleave(torch.tensor([1, 2, 0])),
        lambda x: x.nonzero(),
    ],
)
def test_what_a_graph_cannot_hold_the_tape_refuses(ask: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), Tape():
        ask(torch.rand(3))


def test_each_shape_is_recorded_once_it_is_warm() -> None:
    recorded = []
    step = GraphedStep(lambda body: recorded.append(body) or body)  # type: ignore[func-returns-value]
    run(step, new_state(), count=4 * WARM_UP + 5)
    assert len(recorded) == 2


def test_a_bad_step_moves_nothing() -> None:
    state, step = new_state(), GraphedStep(again)
    run(step, state)
    before = {name: value.clone() for name, value in tensors(state).items()}
    undo = Undo(state.model, CPU.device)
    bad = Batch(torch.full((6, 3, 16, 16), float("nan")), torch.zeros(6, dtype=torch.int64))
    assert not step(state, [bad], 8, CPU, undo) and state.bad_steps == 1
    for name, value in tensors(state).items():
        assert torch.equal(value, before[name]), name


def test_what_cannot_be_recorded_is_said_once_and_trained(caplog: pytest.LogCaptureFixture) -> None:
    def fail(body: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    with caplog.at_level(logging.WARNING, "iifdet"):
        state = run(GraphedStep(fail), new_state())
    assert state.trained == 8
    assert [r.message for r in caplog.records] == [
        "no CUDA graph: operation not permitted when stream is capturing; training goes on without"
    ]
    expected = run(GraphedStep(again), new_state())
    assert all(torch.equal(a, b) for a, b in zip(tensors(state).values(), tensors(expected).values(), strict=True))


def test_a_step_that_fails_as_a_whole_is_made_in_the_plain_way(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.calls = model, 0

        def forward(self, *args: Any) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("no such kernel")
            return self.model(*args)

    state = new_state()
    state.wrapped = Odd(state.model)
    run(GraphedStep(again), state)
    assert state.trained == 8 and "no such kernel" in caplog.text


def test_momentum_of_a_loaded_checkpoint_is_used() -> None:
    state, step = new_state(), GraphedStep(again)
    run(step, state, count=6)
    state.optimizer.load_state_dict(state.optimizer.state_dict())
    other = new_state()
    run(train_step, other, count=6)
    for each, how in ((state, step), (other, train_step)):
        run(how, each, count=2)  # type: ignore[arg-type]
    for name, value in tensors(other).items():
        torch.testing.assert_close(tensors(state)[name], value, rtol=1e-4, atol=1e-6, msg=name)


class FailsOnce(torch.autograd.Function):
    """The identity, whose gradient runs out of memory the next time that ``next`` says so."""

    next = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        if FailsOnce.next:
            FailsOnce.next = False
            raise torch.OutOfMemoryError("out of memory")
        return grad


def test_a_step_that_fails_in_its_backward_pass_leaves_neither_gradients_nor_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(step: Step, fails: bool) -> TrainState:
        state = new_state()
        layer: Any = state.model.network.layer1  # type: ignore[union-attr]
        forward = layer.forward
        monkeypatch.setattr(layer, "forward", lambda x: forward(FailsOnce.apply(x)))
        undo = Undo(state.model, CPU.device)
        for number, batch in enumerate(batches(3)):
            monkeypatch.setattr(FailsOnce, "next", fails and number == 1)
            step(state, [batch], 8, CPU, undo)
        return state

    plain, failed = train(train_step, False), train(GraphedStep(again), True)
    assert not FailsOnce.next, "it has failed"
    for name, value in tensors(plain).items():
        torch.testing.assert_close(tensors(failed)[name], value, rtol=1e-4, atol=1e-6, msg=name)
