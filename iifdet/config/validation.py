"""The keys of ``iifdet val``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from iifdet.config.keys import Adjust, DataKeys, InferenceKeys, Options, WeightKeys


class ValConfig(DataKeys, WeightKeys, InferenceKeys):
    """``iifdet val``. Unset keys come from the checkpoint."""

    model: str | None = None
    model_args: Options = Field(default_factory=dict)
    weights: str | None = None
    trusted: bool = False  # read a .pt2, which can run code that stands in it
    split: Literal["train", "val", "test"] = "val"
    adjust: Adjust | None = None  # None keeps what the checkpoint has
    fixed_ap: bool = False  # keep the best 10,000 detections of each class, however many of an image, for compare
