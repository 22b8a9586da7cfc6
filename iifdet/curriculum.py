"""What training does otherwise from epoch to epoch: weights of the loss that act later, a share that falls.

What acts follows from the epoch alone, so that a resumed run, or one that went back to a checkpoint, has the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iifdet.training import Callback, TrainState
from iifdet.types import Batch


class _Buffer(Callback):
    """A buffer of the model, by name, that holds what :meth:`value` says of the epoch."""

    name: str

    def __init__(self) -> None:
        self.epoch = -1

    def value(self, epoch: int) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        if state.epoch == self.epoch and state.batch:
            return
        self.epoch = state.epoch
        now, buffer = self.value(state.epoch), getattr(state.model, self.name)
        buffer.copy_(now)  # in place: a recorded step reads it
        if state.average is not None:
            state.average.weights[self.name].copy_(now)


class DeferredWeights(_Buffer):
    """Class weights of 1 in the loss before an epoch, and the weights from then on: features form first.

    Source: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019, Section 3
    (DRW: the last 40 of 200 epochs).

    Args:
        weights: (C,).
        first: epoch in which they begin to act, counted from 0.
    """

    name = "class_weight"

    def __init__(self, weights: Tensor, first: int) -> None:
        super().__init__()
        self.weights, self.first = weights, first

    def value(self, epoch: int) -> Tensor:
        return self.weights if epoch >= self.first else torch.ones_like(self.weights)


class CumulativeShare(_Buffer):
    """Cumulative learning: the share of what is learned first, ``1 - (epoch / epochs)²``.

    Source: Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition, CVPR
    2020, Section 4.3.

    Args:
        epochs: of the whole run.
    """

    name = "share"

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def value(self, epoch: int) -> Tensor:
        return torch.tensor(1 - (epoch / self.epochs) ** 2)
