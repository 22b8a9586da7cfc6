"""One pass over a split: detections into an evaluator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat, zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from iifdet.distributed import ALONE, World
from iifdet.errors import InputError, is_out_of_memory
from iifdet.types import Batch

log = logging.getLogger("iifdet")


class Batches(Protocol):
    """A split in batches, or this process's shard of them."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


class Evaluator(Protocol):
    """What every task's evaluator offers."""

    #: What came of each batch, as plain values that can be sent and joined.
    parts: list[Any]

    def reset(self) -> None: ...
    def update(self, outputs: Any, batch: Batch) -> None: ...
    def compute(self) -> Any: ...
    def fitness(self, result: Any) -> float: ...
    def summary(self, metrics: dict[str, Any]) -> dict[str, float | None]: ...


@torch.inference_mode()
def run_validation(
    model: nn.Module,
    batches: Batches,
    evaluator: Evaluator,
    device: torch.device,
    amp: torch.dtype | None = None,
    on_batch: Callable[[Batch, Any], None] | None = None,
    world: World = ALONE,
    before_batch: Callable[[], None] = lambda: None,
) -> Any:
    """Run ``model`` (in eval mode) over ``batches`` and return what the evaluator makes of its outputs.

    Of several processes each runs its shard, every ``size``-th batch of the split; the main one joins what came of them
    in the order of one process alone, and makes of it what that would have made. The others get None.

    Args:
        on_batch: sees each batch and its outputs, for pictures.
        before_batch: may end the pass by raising. All processes call it equally often, those with a batch less too, so
            that they can agree in it.
    """
    evaluator.reset()
    turns = world.largest([len(batches)])[0]
    for batch in islice(chain(batches, repeat(None)), turns):
        before_batch()
        if batch is None:
            continue
        moved = batch.to(device)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            outputs = fitting(model, moved.images)
        evaluator.update(outputs, batch)
        if on_batch is not None:
            on_batch(batch, outputs)
        del outputs  # masks of a batch are large: not two of them at once
    shards = world.gather(evaluator.parts)
    evaluator.parts = [part for turn in zip_longest(*shards) for part in turn if part is not None]
    return evaluator.compute() if world.is_main else None


def fitting(model: nn.Module, images: Tensor | list[Tensor]) -> Any:
    """What ``model`` says of a batch; where memory runs out, of its halves one after the other.

    Raises:
        InputError: there is no memory for one image.
    """
    try:
        return model(images)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(images) == 1:
            raise InputError(
                "val_batch: expected memory for one image, got too little left; lower imgsz, or use device=cpu"
            ) from error
    # beyond the clause the error no longer holds the tensors of the attempt
    half = -(-len(images) // 2)
    log.warning("out of memory with %d images at once in validation: val_batch=%d saves the attempt", len(images), half)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    first, second = fitting(model, images[:half]), fitting(model, images[half:])
    return torch.cat([first, second]) if isinstance(first, Tensor) else [*first, *second]
