"""Optimizers, learning-rate schedules and weight averaging."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer


def build_optimizer(
    model: nn.Module,
    name: str = "sgd",
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_all: bool = False,
    scaled: bool = False,
) -> Optimizer:
    """An optimizer over the parameters that require a gradient.

    Weight decay acts on matrices and convolutions; with ``decay_all`` on batch norm and biases too. On CUDA the step is
    one kernel a group (torch's ``fused``), but for SGD under a gradient scaler (``scaled``): where the very first step
    overflows, as it does in fp16, torch's fused SGD keeps momentum buffers that nobody has filled.
    """
    cuda = any(parameter.device.type == "cuda" for parameter in model.parameters())
    fused = True if cuda and not (scaled and name == "sgd") else None
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if decay_all or parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("freeze: expected something left to train, got a model with every layer frozen")
    if name == "adamw":
        return AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
    return SGD(groups, lr=lr, momentum=momentum, fused=fused)


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a pure function of progress, so that a resumed run needs no schedule state.

    Attributes:
        lr: base rate.
        epochs: length of the run.
        kind: ``step`` (times ``gamma`` at each of ``steps``), ``cosine`` (down to ``final`` x lr) or ``constant``.
        warmup: epochs of linear growth from ``warmup_factor`` x lr.
    """

    lr: float
    epochs: int
    kind: str = "cosine"
    steps: Sequence[float] = ()
    gamma: float = 0.1
    final: float = 0.01
    warmup: float = 0.0
    warmup_factor: float = 0.001

    def at(self, epoch: float) -> float:
        """Learning rate at a point of the run, in epochs (2.5 is the middle of the third)."""
        factor = 1.0
        if self.kind == "step":
            factor = self.gamma ** bisect_right(sorted(self.steps), epoch)
        elif self.kind == "cosine":
            factor = self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs))) / 2
        if epoch < self.warmup:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup
        return self.lr * factor


class AveragedWeights:
    """Exponential moving average of a model's weights, in fp32. Its decay ramps up, so that early noise is forgotten.

    Args:
        model: whose parameters and floating-point buffers are averaged; other buffers are copied.
        decay: in [0, 1); the weight of the old average once ramped up.
        ramp: updates after which the decay has reached 63 % of its value.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: float = 200.0) -> None:
        self.decay, self.ramp, self.updates = decay, ramp, 0
        self.weights: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        averages, values, copies, others = [], [], [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.weights[name])
                values.append(value.to(self.weights[name].dtype))
            else:
                copies.append(self.weights[name])
                others.append(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
        if copies:
            torch._foreach_copy_(copies, others)
