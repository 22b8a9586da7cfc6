"""The keys of ``iifdet stats`` and ``iifdet check``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import FolderKeys, Share, SplitKeys, TalkKeys, VariantKeys


class StatsConfig(SplitKeys, VariantKeys, TalkKeys):
    """What is counted"""

    split: Literal["train", "val", "test"] = "train"
    """which images"""
    need_images: bool = True
    """leave out images whose files are missing; false counts all that COCO or LVIS annotations name"""

    @property
    def reads_images(self) -> bool:
        """As ``need_images`` says."""
        return self.need_images


class CheckConfig(FolderKeys):
    """What is looked at"""

    data: str = "demo"
    """a YAML description, or a name in data/"""
    split: Literal["train", "val", "test"] | None = None
    """which images; by default every split of the description"""
    allow_outside: bool = False
    """annotation files and lists may name files outside the data set's folders"""
    max_bad: Share = 0.05
    """share of broken images, boxes and labels above which a training would be refused, which is an error"""
    decode: bool = True
    """really decode each image; false reads headers and hashes alone"""
    limit: Annotated[int, Field(ge=0)] = 3
    """examples shown of each reason; the files hold all of them"""
    verbose: bool = False
    """show all of them"""
