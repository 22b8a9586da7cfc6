"""Everything that changes during a run, and so everything that resuming needs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from iifdet.checkpoint import to_cpu
from iifdet.optim import AveragedWeights


@dataclass
class TrainState:
    """Everything that changes during a run. The learning rate is a function of progress times ``lr_factor``.

    Attributes:
        epoch, batch: the next batch to train is number ``batch`` of ``epoch``.
        best, best_epoch: best fitness so far and when; early stopping counts the epochs since.
        rows: results.csv so far.
        sums: loss sums of the unfinished epoch.
        trained: batches of the unfinished epoch that made a step.
        bad_steps: steps in a row, over epochs, whose loss or gradient was not finite.
        rollbacks: how often the run went back to a checkpoint because of them.
        lr_factor: what the rollbacks have made of the learning rate.
        micro: most images in one forward pass since memory ran out; 0 while it never did.
        wrapped: what is called for losses: the model, or what shares its gradients with other processes. Everything
            else, checkpoints too, goes by ``model``.
    """

    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None = None
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    rows: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    trained: int = 0
    finished: bool = False
    bad_steps: int = 0
    rollbacks: int = 0
    lr_factor: float = 1.0
    micro: int = 0
    wrapped: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def state_dict(self, generators: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Plain types and tensors; weights and averages are saved beside, not here.

        Args:
            generators: :func:`generators_now` of each process; of this one by default.
        """
        first, *others = generators or [generators_now(self.device)]
        return {
            "optimizer": to_cpu(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "generators": first,
            "other_generators": others,  # of the other processes, by rank: all else is the same on each
            **{k: getattr(self, k) for k in PLAIN_FIELDS},
        }

    def load_state_dict(self, content: Mapping[str, Any], rank: int = 0) -> None:
        """Restore a checkpoint's ``weights``, ``ema`` and ``training`` parts, as process number ``rank`` had them."""
        training = content["training"]
        self.model.load_state_dict(content["weights"])
        load_optimizer(self.optimizer, training["optimizer"])
        if training["scaler"]:
            self.scaler.load_state_dict(training["scaler"])
        if self.average is not None and content["ema"] is not None:
            for name, value in content["ema"].items():
                self.average.weights[name].copy_(value)
            self.average.updates = training["average_updates"]
        generators = training["other_generators"][rank - 1] if rank else training["generators"]
        torch.set_rng_state(generators["cpu"])
        if self.device.type == "cuda" and generators["cuda"] is not None:
            torch.cuda.set_rng_state(generators["cuda"], self.device)
        for key in PLAIN_FIELDS:
            value = training[key]
            setattr(self, key, value.copy() if isinstance(value, dict | list) else value)


PLAIN_FIELDS = (
    "epoch",
    "batch",
    "best",
    "best_epoch",
    "rows",
    "sums",
    "images",
    "seconds",
    "trained",
    "finished",
    "bad_steps",
    "rollbacks",
    "lr_factor",
    "micro",
)


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Restore an optimizer's state, be it another device's.

    Whether its steps are fused is a matter of this device, and torch's loader puts counters where the saved groups say.
    Moments take the memory order of their parameters: fused kernels walk through both at once.
    """
    own = [group.get("fused") for group in optimizer.param_groups]
    groups = [{**group, "fused": fused} for group, fused in zip(saved["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def generators_now(device: torch.device) -> dict[str, Any]:
    """All random state there is: what is augmented is seeded by (run, epoch, image), and nothing here draws from
    Python's or numpy's own generators (a test guards it)."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def processes_of(training: Mapping[str, Any]) -> int:
    """How many processes wrote a checkpoint's ``training`` part."""
    return 1 + len(training.get("other_generators", ()))


@contextlib.contextmanager
def averaged(state: TrainState) -> Iterator[nn.Module]:
    """The model in eval mode with its averaged weights, where there are some; the raw ones come back after."""
    model = state.model
    raw = None
    if state.average is not None:
        raw = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(state.average.weights)
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        if raw is not None:
            model.load_state_dict(raw)
