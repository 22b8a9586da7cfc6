"""The parts of a data set that a training run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Splits:
    """Indexes of one run.

    Attributes:
        train: what is trained on.
        val: what the best epoch is chosen on.
        final: what the figures of the run are of, where that is another split; None where it is ``val``.
        chosen_on: what ``val`` is called: val, test or holdout, a part of the train split that is not trained on.
    """

    train: Any
    val: Any
    final: Any = None
    chosen_on: str = "val"
