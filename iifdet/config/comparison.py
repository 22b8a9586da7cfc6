"""The keys of ``iifdet compare``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from iifdet.config.keys import DataKeys, Share


def _threshold(value: float) -> float:
    if not any(abs(value - known / 100) < 1e-6 for known in range(50, 100, 5)):
        raise ValueError("expected one of 0.5, 0.55, … 0.95")
    return value


class CompareConfig(BaseModel):
    """``iifdet compare run run …``. Files are written when ``project``, ``name`` or ``save`` asks for them."""

    model_config = DataKeys.model_config

    runs: list[str] = []
    by: Literal["image", "instance"] = "image"
    draws: Annotated[int, Field(ge=0, le=100_000)] = 1000  # bootstrap draws of the images; 0 is no intervals
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95  # of the intervals
    conf: Share = 0.25  # a box counts as found from this score on, in McNemar's test
    iou: Annotated[float, AfterValidator(_threshold)] = 0.5  # and from this overlap on
    data: str | None = None  # where the data are, if not where the runs' args.yaml says
    allow_outside: bool = False  # they may name files outside their folders, as in the runs' own keys
    save: bool = False  # a folder with report.html, tables and pictures
    project: str | None = None
    name: str | None = None
    exist_ok: bool = False
    plots: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
