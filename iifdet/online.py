"""Online IIF: training steps use weights of their own batch, everything else those of the data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from iifdet.longtail import LogitAdjustment, batch_counts, online_weights
from iifdet.training import Callback, TrainState
from iifdet.types import Batch


class OnlineIIF(Callback):
    """Before each optimizer step, sets the smooth weights of all its images: over accumulated batches and over ranks.

    The paper's mini-batch variant (Section III-C). Its published program left the last batch's weights in place for
    inference; here they live beside the stored adjustment, which alone acts in inference and is saved.

    Args:
        temperature: as that of the stored weights, so that training and inference see logits of one size.
    """

    def __init__(self, temperature: float | str = 1.0) -> None:
        self.temperature = temperature

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        adjust: LogitAdjustment = state.model.adjust  # type: ignore[assignment]
        labels = [image for batch in batches for image in batch.labels()]
        counts = batch_counts(labels, adjust.num_classes)
        if dist.is_available() and dist.is_initialized():
            counts = counts.to(adjust.scale.device)  # all processes by one backend, wherever a batch lies
            dist.all_reduce(counts)
        adjust.set_batch_scale(online_weights(counts, self.temperature))

    def on_end(self, state: TrainState) -> None:
        state.model.adjust.set_batch_scale(None)  # type: ignore[union-attr,operator]
