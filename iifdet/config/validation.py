"""The keys of ``iifdet val``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import DataKeys, FinishedKeys, InferenceKeys, Keys, WeightKeys


class ImportedKeys(Keys):
    """Another program's detections, in place of a model"""

    predictions: str | None = None
    """a file of COCO's results format; of the other keys those about the data, the scoring and the folder act"""
    first_category: Annotated[int, Field(ge=-(10**9), le=10**9)] | None = None
    """the file's category of class 0, where it counts classes through; if not given, its categories are the data's"""
    image_id: Literal["id", "file"] | None = None
    """what the file's numbers of images are, where both would do: the data's ids, or names of files"""


class ValConfig(FinishedKeys, ImportedKeys, DataKeys, WeightKeys, InferenceKeys):
    """What is validated; keys that are not given come from the checkpoint"""

    trusted: bool = False
    """read a .pt2, which can run code that stands in it"""
    split: Literal["train", "val", "test"] = "val"
    """which images"""
    fixed_ap: bool = False
    """keep the best 10,000 detections of each class beside the others, however many of an image, for compare"""

    @property
    def reads_images(self) -> bool:
        """Detections that are there already need none."""
        return self.predictions is None
