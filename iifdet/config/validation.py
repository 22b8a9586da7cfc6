"""The keys of ``iifdet val``."""

from __future__ import annotations

from typing import Literal

from iifdet.config.keys import DataKeys, FinishedKeys, InferenceKeys, WeightKeys


class ValConfig(FinishedKeys, DataKeys, WeightKeys, InferenceKeys):
    """What is validated; keys that are not given come from the checkpoint"""

    trusted: bool = False
    """read a .pt2, which can run code that stands in it"""
    split: Literal["train", "val", "test"] = "val"
    """which images"""
    fixed_ap: bool = False
    """keep the best 10,000 detections of each class beside the others, however many of an image, for compare"""
