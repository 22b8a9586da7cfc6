"""The keys of ``iifdet compare``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from iifdet.config.keys import FolderKeys, Share


def _threshold(value: float) -> float:
    if not any(abs(value - known / 100) < 1e-6 for known in range(50, 100, 5)):
        raise ValueError("expected one of 0.5, 0.55, … 0.95")
    return value


class CompareConfig(FolderKeys):
    """What is compared; files are written when project, name or save asks for them"""

    runs: list[str] = Field(default_factory=list)
    """the runs' folders; they may stand without runs="""
    by: Literal["image", "instance"] = "image"
    """how classes are ordered for the tail: by images with them, or by boxes"""
    draws: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """bootstrap samples of the images; 0 is no intervals"""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """of the intervals"""
    conf: Share = 0.25
    """McNemar's test: the first run's false alarms from this score on are what every run may have"""
    iou: Annotated[float, AfterValidator(_threshold)] = 0.5
    """McNemar's test: overlap from which it has found a box"""
    data: str | None = None
    """where the data are, if not where the runs' args.yaml says"""
    allow_outside: bool = False
    """the data may name files outside their folders, as in the runs' own keys"""
    save: bool = False
    """write a folder with report.html, tables and pictures"""
    plots: bool = True
    """draw pictures"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """of the bootstrap"""
