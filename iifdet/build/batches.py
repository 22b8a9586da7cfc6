"""Loaders as the loop wants them: any epoch, from any batch; and their end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from iifdet.types import Batch


class EpochBatches:
    """A loader that can start in the middle of any epoch."""

    def __init__(self, loader: Any, batch: int, rect: bool = False) -> None:
        self.loader, self.batch, self.rect = loader, batch, rect

    def __len__(self) -> int:
        if self.rect:
            return int(self.loader.batch_sampler.epoch_length)
        return -(-int(self.loader.sampler.epoch_length) // self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, … of an epoch."""
        if self.rect:
            self.loader.batch_sampler.set_epoch(epoch, start)
        else:
            self.loader.sampler.set_epoch(epoch, start * self.batch)
        return iter(self.loader)


@contextlib.contextmanager
def ending_workers(*loaders: Any) -> Iterator[None]:
    """End the loaders' workers with the block.

    Left to the garbage collector they may cost 5 s each: it closes their queues first, so that they do not hear of it.
    """
    try:
        yield
    finally:
        for loader in loaders:
            loader = getattr(loader, "loader", loader)
            iterator = getattr(loader, "_iterator", None)
            if iterator is not None:
                loader._iterator = None
                getattr(iterator, "_shutdown_workers", lambda: None)()
