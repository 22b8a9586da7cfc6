"""Batches in pieces that fit into memory, and the way back to before a step that did not."""

from __future__ import annotations

from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

from iifdet.types import Batch


def pieces_of(batch: Batch, most: int, together: int = 1) -> list[Batch]:
    """A batch in order, in pieces of nearly equal length with at most ``most`` images; 0 leaves it whole.

    Args:
        together: images that are not parted, such as the two of a pair; a piece has so many at least.
    """
    images, units = len(batch), len(batch) // together
    number = 1 if most <= 0 else -(-units // max(1, most // together))
    if number <= 1:
        return [batch]
    ends = [*(units * k // number * together for k in range(number)), images]
    return [batch.part(a, b) for a, b in pairwise(ends)]


class Undo:
    """What a forward pass changes beside gradients: buffers such as the running statistics of batch norms, generators.

    Taken before every step, so kept cheap: the copies are made once, filled together, and nothing waits for the device.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.device = device
        self.buffers = sorted(model.buffers(), key=lambda buffer: str(buffer.dtype))  # of one kind together
        self.copies = [torch.empty_like(buffer) for buffer in self.buffers]
        self.kinds = [list(rows) for _, rows in groupby(range(len(self.buffers)), lambda row: self.buffers[row].dtype)]
        self.generators: list[Tensor] = []

    @torch.no_grad()
    def take(self) -> None:
        """Remember how things are now."""
        self.take_buffers()
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        self.generators = [torch.get_rng_state(), *cuda]

    @torch.no_grad()
    def take_buffers(self) -> None:
        """Remember the buffers alone: where a forward pass draws nothing, they are all that it changes."""
        for rows in self.kinds:  # one kernel a kind; mixed ones would take one for each buffer
            torch._foreach_copy_([self.copies[row] for row in rows], [self.buffers[row] for row in rows])

    @torch.no_grad()
    def buffers_back(self) -> None:
        """Undo the statistics of a batch: where a loss is not finite, they may not be either."""
        for rows in self.kinds:
            torch._foreach_copy_([self.buffers[row] for row in rows], [self.copies[row] for row in rows])

    def all_back(self) -> None:
        """As if no forward pass had been since."""
        self.buffers_back()
        torch.set_rng_state(self.generators[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.generators[1], self.device)
