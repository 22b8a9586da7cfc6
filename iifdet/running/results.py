"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """What ``train`` and ``val`` return.

    Attributes:
        folder: the run folder.
        metrics: the content of metrics.json; fractions from 0 to 1.
        summary: the figures of it that fit on a line.
    """

    folder: Path
    metrics: dict[str, Any]
    summary: dict[str, float | None] = field(default_factory=dict)
