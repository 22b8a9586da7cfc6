"""One pass over a split: detections into an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from iifdet.types import Batch


class Evaluator(Protocol):
    """What every task's evaluator offers."""

    def reset(self) -> None: ...
    def update(self, outputs: Any, batch: Batch) -> None: ...
    def compute(self) -> Any: ...
    def fitness(self, result: Any) -> float: ...
    def summary(self, metrics: dict[str, Any]) -> dict[str, float | None]: ...


@torch.inference_mode()
def run_validation(
    model: nn.Module,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    device: torch.device,
    amp: torch.dtype | None = None,
    on_batch: Callable[[Batch, Any], None] | None = None,
) -> Any:
    """Run ``model`` (in eval mode) over ``batches`` and return what the evaluator makes of its outputs.

    Args:
        on_batch: sees each batch and its outputs, for pictures.
    """
    evaluator.reset()
    for batch in batches:
        moved = batch.to(device)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            outputs = model(moved.images)
        evaluator.update(outputs, batch)
        if on_batch is not None:
            on_batch(batch, outputs)
        del outputs  # masks of a batch are large: not two of them at once
    return evaluator.compute()
