"""What may watch a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iifdet.training.state import TrainState
from iifdet.types import Batch


class Callback:
    """Something that watches a run. Override what you need; every hook is neutral.

    ``state`` is everything that changes (:class:`iifdet.training.TrainState`): read it, and set ``state.finished`` in
    ``on_epoch_end`` to end the run there. What else is changed is the run's from then on, checkpoints included.
    """

    def on_start(self, state: TrainState) -> None: ...
    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        """All batches that the coming optimizer step accumulates, before the first of them is trained."""

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None:
        """After each optimizer step, skipped or not: mean losses of the epoch so far, batches in the whole epoch."""

    def on_validate(self, state: TrainState) -> None: ...
    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None: ...
    def on_end(self, state: TrainState) -> None: ...
