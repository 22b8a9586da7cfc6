"""The keys of ``iifdet val``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from iifdet.config.keys import Adjust, DataKeys, InferenceKeys, Options, WeightKeys


class ValConfig(DataKeys, WeightKeys, InferenceKeys):
    """What is validated; keys that are not given come from the checkpoint"""

    weights: str | None = None
    """a checkpoint, an exported file, or another program's weights beside model"""
    model: str | None = None
    """beside another program's weights: the model's name"""
    model_args: Options = Field(default_factory=dict)
    """beside another program's weights: options of the model"""
    trusted: bool = False
    """read a .pt2, which can run code that stands in it"""
    split: Literal["train", "val", "test"] = "val"
    """which images"""
    adjust: Adjust | None = None
    """adjust a model that was trained without, or otherwise; if not given, as the checkpoint has it"""
    fixed_ap: bool = False
    """keep the best 10,000 detections of each class beside the others, however many of an image, for compare"""
