"""Deferred re-weighting: the loss weighs all classes alike until features have formed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iifdet.training import Callback, TrainState
from iifdet.types import Batch


class DeferredWeights(Callback):
    """Class weights of 1 in the loss before an epoch, and the weights from then on.

    What acts follows from the epoch alone, so that a resumed run, or one that went back to a checkpoint, has the same.

    Source: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019, Section 3
    (DRW: the last 40 of 200 epochs).

    Args:
        weights: (C,).
        first: epoch in which they begin to act, counted from 0.
    """

    def __init__(self, weights: Tensor, first: int) -> None:
        self.weights, self.first = weights, first
        self.epoch = -1

    @torch.no_grad()
    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        if state.epoch == self.epoch and state.batch:
            return
        self.epoch = state.epoch
        now = self.weights if state.epoch >= self.first else torch.ones_like(self.weights)
        weights: Tensor = state.model.class_weight  # type: ignore[assignment]
        weights.copy_(now)  # in place: a recorded step reads it
        if state.average is not None:
            state.average.weights["class_weight"].copy_(now)
