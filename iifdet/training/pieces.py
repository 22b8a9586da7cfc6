"""Batches in pieces that fit into memory, and the way back to before a step that did not."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from iifdet.types import Batch


def pieces_of(batch: Batch, most: int) -> list[Batch]:
    """A batch in order, in pieces of nearly equal length with at most ``most`` images; 0 leaves it whole."""
    images, number = len(batch), 1 if most <= 0 else -(-len(batch) // most)
    if number <= 1:
        return [batch]
    ends = [images * k // number for k in range(number + 1)]
    return [batch.part(a, b) for a, b in pairwise(ends)]


class Undo:
    """What a forward pass changes beside gradients: buffers such as the running statistics of batch norms, generators.

    Taken before every step, so kept cheap: the copies are made once, filled together, and nothing waits for the device.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.device = device
        self.buffers = list(model.buffers())
        self.copies = [torch.empty_like(buffer) for buffer in self.buffers]
        self.generators: list[Tensor] = []

    @torch.no_grad()
    def take(self) -> None:
        """Remember how things are now."""
        if self.buffers:
            torch._foreach_copy_(self.copies, self.buffers)
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        self.generators = [torch.get_rng_state(), *cuda]

    @torch.no_grad()
    def buffers_back(self) -> None:
        """Undo the statistics of a batch: where a loss is not finite, they may not be either."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.copies)

    def all_back(self) -> None:
        """As if no forward pass had been since."""
        self.buffers_back()
        torch.set_rng_state(self.generators[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.generators[1], self.device)
