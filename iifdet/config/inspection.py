"""The keys of ``iifdet stats`` and ``iifdet check``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import DataKeys, WeightKeys


class StatsConfig(DataKeys, WeightKeys):
    """What is counted"""

    split: Literal["train", "val", "test"] = "train"
    """which images"""


class CheckConfig(DataKeys):
    """What is looked at"""

    split: Literal["train", "val", "test"] | None = None
    """which images; by default every split of the description"""
    decode: bool = True
    """really decode each image; false reads headers and hashes alone"""
    limit: Annotated[int, Field(ge=0)] = 3
    """examples shown of each reason; the files hold all of them"""
    verbose: bool = False
    """show all of them"""
