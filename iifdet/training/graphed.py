"""Whole training steps as one CUDA graph: small models are slow to launch, not to compute.

A step is recorded once for each shape of a batch and replayed from then on. It does what ``train_step`` does, with the
same guards: where the loss or the gradient is not finite, neither weights nor statistics move.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.sgd import sgd

from iifdet.distributed import made_current
from iifdet.training.options import AMP_TYPES, FitOptions
from iifdet.training.pieces import Undo
from iifdet.training.state import TrainState
from iifdet.training.step import train_step
from iifdet.types import Batch, MixedLabels

log = logging.getLogger("iifdet")

#: Plain steps of each shape before its recording: they choose algorithms, and give the optimizer its buffers.
WARM_UP = 3
#: Shapes that are kept recorded; the oldest gives way.
MOST_SHAPES = 4

#: Held while a thread records: the beginning of a recording waits for the whole device, which must not be recording.
_recording = threading.Lock()

#: (body) -> what runs it again. The body is run, or recorded, when it is called.
Record = Callable[[Callable[[], None]], Callable[[], None]]


class GraphedStep:
    """A ``train_step`` that replays a recording where it can, and is ``train_step`` itself where it cannot.

    It cannot with several processes, accumulated or divided batches, multi-scale images, fp16 or another optimizer than
    SGD. Before a shape is recorded it is trained WARM_UP times by the same operations one by one, so that a resumed run
    comes to the same bits. What fails is given up for good, with one line in the log.

    Args:
        record: how a body is recorded; as a CUDA graph by default.
    """

    def __init__(self, record: Record | None = None) -> None:
        self.record = record or record_graph
        self.may_record = self.may_fuse = True
        self.shapes: dict[Any, WholeStep] = {}
        self.optimizer_state: Any = None

    def __call__(
        self, state: TrainState, group: Sequence[Batch], batches: int, options: FitOptions, undo: Undo
    ) -> bool:
        """As :func:`iifdet.training.train_step`."""
        if not (self.may_fuse and can_record(state, group, options)):
            return train_step(state, group, batches, options, undo)
        if self.optimizer_state is not state.optimizer.state:  # another checkpoint was loaded: other buffers
            self.shapes.clear()
            self.optimizer_state = state.optimizer.state
        batch, whole = group[0], None
        try:
            whole = self._whole_step(state, batch, options)
            numbers = whole.run(batch, [float(g["lr"]) for g in state.optimizer.param_groups])
        except Exception as error:  # whatever a device, a library or a model has against it
            self.may_fuse = False
            if whole is not None:
                whole.forget()
            self.shapes.clear()
            torch.cuda.empty_cache()
            log.warning("no CUDA graph: %s; training goes on step by step", _in_one_line(error))
            return train_step(state, group, batches, options, undo)
        return self._count(whole, numbers, state, batch)

    def _whole_step(self, state: TrainState, batch: Batch, options: FitOptions) -> WholeStep:
        """The step for batches of this shape, recorded once it is warm."""
        shape = _shape_of(batch)
        if shape not in self.shapes:
            if len(self.shapes) >= MOST_SHAPES:
                self.shapes.pop(next(iter(self.shapes)))
            self.shapes[shape] = WholeStep(state, batch, options)
        whole = self.shapes[shape]
        if whole.runs >= WARM_UP and not whole.recorded and self.may_record:
            try:
                whole.record(self.record)
            except Exception as error:
                self.may_record = False
                log.warning("no CUDA graph: %s; training goes on without", _in_one_line(error))
        return whole

    def _count(self, whole: WholeStep, numbers: list[float], state: TrainState, batch: Batch) -> bool:
        *values, loss, norm = numbers
        fault = next((f"{what} is {v}" for what, v in (("loss", loss), ("gradient", norm)) if not isfinite(v)), None)
        if fault is None:
            for name, value in zip(whole.names, values, strict=True):
                state.sums[name] = state.sums.get(name, 0.0) + value
            state.trained += 1
            state.images += len(batch)
            if state.average is not None:
                state.average.update(state.model)
        else:
            whole.undo.buffers_back()
            log.warning("%s at epoch %d batch %d: step skipped", fault, state.epoch, state.batch)
        state.bad_steps = 0 if fault is None else state.bad_steps + 1
        state.batch += 1
        return fault is None


def can_record(state: TrainState, group: Sequence[Batch], options: FitOptions) -> bool:
    """Whether a step is of the plain kind that a recording repeats."""
    return (
        len(group) == 1
        and options.world.size == 1
        and options.accumulate == 1
        and options.multi_scale is None
        and not state.micro
        and not state.scaler.is_enabled()
        and isinstance(state.optimizer, SGD)
        and getattr(getattr(state.model, "adjust", None), "batch_scale", None) is None  # made anew for each step
        and isinstance(group[0].images, Tensor)
        and isinstance(group[0].targets, Tensor | tuple)
    )


@dataclass
class _Inputs:
    """Tensors that a recording reads."""

    batch: Batch
    lr: list[Tensor]

    @classmethod
    def like(cls, batch: Batch, groups: int) -> _Inputs:
        device = batch.images.device  # type: ignore[union-attr]
        tensors = [torch.empty_like(t).copy_(t) for t in _tensors(batch)]
        targets = MixedLabels(*tensors[1:]) if isinstance(batch.targets, MixedLabels) else tensors[1]
        return cls(Batch(tensors[0], targets), [torch.zeros((), device=device) for _ in range(groups)])

    def fill(self, batch: Batch, lr: Sequence[float]) -> None:
        for mine, theirs in zip(_tensors(self.batch), _tensors(batch), strict=True):
            mine.copy_(theirs, non_blocking=True)
        for rate, value in zip(self.lr, lr, strict=True):
            rate.fill_(value)


class WholeStep:
    """One step on batches of one shape: forward, backward, optimizer.

    Attributes:
        names: of the losses.
        undo: the buffers as they were before the last step.
        runs: how often it was made.
        begun: whether ``undo`` holds what the step now under way began with.
    """

    def __init__(self, state: TrainState, batch: Batch, options: FitOptions) -> None:
        self.state, self.options = state, options
        self.undo = Undo(state.model, options.device)
        self.inputs = _Inputs.like(batch, len(state.optimizer.param_groups))
        self.names: list[str] = []
        self.out = torch.empty(0)
        self.rerun: Callable[[], None] = self._body
        self.recorded, self.begun, self.runs = False, False, 0

    def run(self, batch: Batch, lr: Sequence[float]) -> list[float]:
        """Make the step: each loss, their sum, the norm of the gradient. Waits for the device."""
        self.begun = False
        self.inputs.fill(batch, lr)
        self.rerun()
        self.runs += 1
        return self.out.tolist()

    def forget(self) -> None:
        """As if the step that failed had not been begun: no gradients of it, and no statistics."""
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.begun:
            self.undo.buffers_back()

    def record(self, how: Record) -> None:
        """Record it, without making it."""
        self.state.optimizer.zero_grad(set_to_none=True)  # gradients are made inside the recording
        try:
            with made_current(self.options.device):
                self.rerun = how(self._body)
        finally:
            self.state.optimizer.zero_grad(set_to_none=True)
        self.recorded = True

    def _body(self) -> None:
        state, options = self.state, self.options
        self.undo.take_buffers()
        self.begun = True
        moved = self.inputs.batch.to(options.device)
        model = state.model if state.wrapped is None else state.wrapped
        amp = torch.autocast(
            options.device.type, AMP_TYPES[options.amp], enabled=options.amp != "none", cache_enabled=False
        )
        with amp, counted_together(model):
            losses = model(moved.images, moved.targets)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        parameters = [p for g in state.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if options.clip:
            nn.utils.clip_grads_with_norm_(parameters, options.clip, norm)
        bad = (~(total.isfinite() & norm.isfinite())).float()
        for group, lr in zip(state.optimizer.param_groups, self.inputs.lr, strict=True):
            _step(state.optimizer, group, lr, bad)
        self.names = list(losses)
        self.out = torch.stack([*(v.detach().float() for v in losses.values()), total.detach().float(), norm.float()])
        state.optimizer.zero_grad(set_to_none=True)


def _step(optimizer: torch.optim.Optimizer, group: dict[str, Any], lr: Tensor, bad: Tensor) -> None:
    """What SGD.step does to one group, unless ``bad`` is 1."""
    parameters = [p for p in group["params"] if p.grad is not None]
    if not parameters:
        return
    for p in parameters if group["momentum"] else ():
        if optimizer.state[p].get("momentum_buffer") is None:  # the first step of all
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    buffers = [optimizer.state[p].get("momentum_buffer") for p in parameters]
    with torch.no_grad():
        sgd(
            parameters,
            [p.grad for p in parameters],
            buffers,
            fused=True,
            found_inf=bad,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=lr,
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )


@contextlib.contextmanager
def counted_together(model: nn.Module) -> Iterator[None]:
    """Batch norms count their batches in one kernel, not in one each."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training and m.momentum is not None]
    counters = [(norm, norm.num_batches_tracked) for norm in norms if norm.num_batches_tracked is not None]
    for norm, _ in counters:
        norm.num_batches_tracked = None
    try:
        yield
        if counters:
            torch._foreach_add_([count for _, count in counters], 1)
    finally:
        for norm, count in counters:
            norm.num_batches_tracked = count


def record_graph(body: Callable[[], None]) -> Callable[[], None]:
    """Record a body as a CUDA graph of the current device; nothing of it is run."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # torch's own stream is of the device it was made on
    with _recording, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        body()
    return graph.replay


def _tensors(batch: Batch) -> list[Tensor]:
    images: Any = batch.images
    return [images, *(batch.targets if isinstance(batch.targets, MixedLabels) else [batch.targets])]


def _shape_of(batch: Batch) -> tuple[Any, ...]:
    return tuple((tuple(t.shape), t.dtype, t.stride()) for t in _tensors(batch))


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
