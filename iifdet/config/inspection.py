"""The keys of ``iifdet stats`` and ``iifdet check``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import DataKeys, WeightKeys


class StatsConfig(DataKeys, WeightKeys):
    """``iifdet stats``."""

    split: Literal["train", "val", "test"] = "train"


class CheckConfig(DataKeys):
    """``iifdet check``."""

    split: Literal["train", "val", "test"] | None = None  # None checks every split of the description
    decode: bool = True  # really decode each image; false reads headers and hashes alone
    limit: Annotated[int, Field(ge=0)] = 3  # examples shown a reason; the files hold all of them
    verbose: bool = False  # show all of them
