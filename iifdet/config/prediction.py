"""The keys of ``iifdet predict``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from iifdet.config.keys import Classes, DetectionKeys, FinishedKeys, FolderKeys, Share, WeightKeys


class PredictConfig(FinishedKeys, FolderKeys, WeightKeys, DetectionKeys):
    """What is looked at and what is written

    How images are resized, how detections are chosen and what weighs them comes from the checkpoint where no key says
    it; ``conf``, ``batch`` and ``adjust`` do not.
    """

    source: Any = None
    """file, folder, glob, .txt list, video, camera number, URL, or a list of them"""
    data: str | None = None
    """names the classes of another program's weights"""
    trusted: bool = False
    """read a .pt2, which can run code that stands in it"""

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    """side of the square that images are fitted into, pixels; if not given, the checkpoint's"""
    resize: Literal["letterbox", "square"] = "letterbox"
    """keep the aspect and pad with grey, or stretch to the square; if not given, the checkpoint's"""
    batch: Annotated[int, Field(ge=1, le=65_536)] = 8
    """images at a time"""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """threads that read images"""
    conf: Share = 0.25
    """score below which a detection is dropped"""
    classes: Classes = None
    """show only these, by number or name"""
    top: Annotated[int, Field(ge=1)] = 5
    """classifiers: how many classes of each picture"""
    fuse: bool = True
    """several pictures, no amp: batch norms go into the convolutions, and those are packed for the CPU"""
    frame_stride: Annotated[int, Field(ge=1)] = 1
    """every n-th frame of a video"""
    max_frames: Annotated[int, Field(ge=0)] = 0
    """at most so many of each video or camera; 0 is all"""

    save: bool = True
    """write annotated pictures and videos"""
    save_json: bool = True
    """write predictions.json"""
    save_txt: bool = False
    """write a text file beside each picture, in YOLO's form"""
    save_conf: bool = False
    """with scores in the text files"""
    save_csv: bool = False
    """write predictions.csv"""
    mask_format: Literal["rle", "polygon"] = "rle"
    """masks in predictions.json"""
    verbose: bool = True
    """say what is going on; false leaves warnings"""
