"""The parts of a data set that a training run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iifdet.longtail import ClassCounts


@dataclass(frozen=True)
class Splits:
    """Indexes of one run.

    Attributes:
        train: what is trained on.
        val: what the best epoch is chosen on.
        final: what the figures of the run are of, where that is another split; None where it is ``val``.
        chosen_on: what ``val`` is called: val, test or holdout, a part of the train split that is not trained on.
        reported: what that split is called that the figures of the run are of.
        counts: of all training images, where ``train`` lacks those that choose the best epoch: weights and groups go by
            the data set, not by who was held out. None where they are those of ``train``.
    """

    train: Any
    val: Any
    final: Any = None
    chosen_on: str = "val"
    reported: str = "val"
    counts: ClassCounts | None = None

    @property
    def watched(self) -> str:
        """Images that the figures of the epochs are of, in words, where the run reports others; else nothing."""
        if self.final is None:
            return ""
        return "held-out training images" if self.chosen_on == "holdout" else self.chosen_on
