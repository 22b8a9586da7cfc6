"""Batches on their way to the device while it is busy with the one before."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from iifdet.types import Batch, MixedLabels

#: Stays on the CPU until the loss has looked at it: to look at it on CUDA would be to wait for it.
ON_CPU = ("boxes", "labels")

#: A batch whose copy is under way, and what happens when it is done.
_Coming = tuple[Batch, torch.cuda.Event]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A training batch with its images, as float, and its masks on the device."""
    return batch.to(device, keep=ON_CPU)


def ahead(source: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches; on CUDA each is copied on a stream of its own while the device works at the one before.

    Those that were made on the device pass as they are.
    """
    if device.type != "cuda":
        yield from source
        return
    stream = torch.cuda.Stream(device)
    waiting: _Coming | None = None
    for batch in source:
        if isinstance(batch.images, torch.Tensor) and batch.images.is_cuda:
            yield batch
            continue
        coming = _copied(batch, device, stream)
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = coming
    if waiting is not None:
        yield _arrived(*waiting, device)


def _copied(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> _Coming:
    try:
        with torch.cuda.stream(stream):
            moved = to_device(batch, device)
    except torch.OutOfMemoryError:  # a step that has no memory for it takes it in pieces
        moved = batch
    return moved, stream.record_event()


def _arrived(batch: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """Let the present stream wait for this copy alone, not for the next one, and the allocator know that it uses it."""
    present = torch.cuda.current_stream(device)
    present.wait_event(copied)
    images = [batch.images] if isinstance(batch.images, torch.Tensor) else batch.images
    for tensor in (*images, *_parts(batch)):
        if tensor.device.type == "cuda":
            tensor.record_stream(present)
    return batch


def _parts(batch: Batch) -> list[torch.Tensor]:
    """The tensors of the targets."""
    if isinstance(batch.targets, torch.Tensor):
        return [batch.targets]
    if isinstance(batch.targets, MixedLabels):
        return list(batch.targets)
    return [value for target in batch.targets for value in target.values() if isinstance(value, torch.Tensor)]
