"""The keys of ``iifdet predict``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from iifdet.config.keys import Adjust, Classes, DataKeys, DetectionKeys, Options, Share, WeightKeys


class PredictConfig(WeightKeys, DetectionKeys):
    """``iifdet predict``. How images are resized, how detections are chosen and what weighs them comes from the
    checkpoint where no key says it; ``conf``, ``batch`` and ``adjust`` do not."""

    model_config = DataKeys.model_config

    source: Any = None  # file, folder, glob, .txt list, video, camera number, URL, or a list of them
    weights: str | None = None
    model: str | None = None  # beside the weights of another program
    model_args: Options = Field(default_factory=dict)
    data: str | None = None  # names the classes of such weights
    trusted: bool = False  # read a .pt2, which can run code that stands in it

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    resize: Literal["letterbox", "square"] = "letterbox"
    batch: Annotated[int, Field(ge=1)] = 8
    conf: Share = 0.25
    classes: Classes = None  # show only these, by number or name
    top: Annotated[int, Field(ge=1)] = 5  # classifiers: how many classes of each picture
    adjust: Adjust | None = None  # None keeps what the checkpoint has
    fuse: bool = True  # several pictures, no amp: batch norms in convolutions, those packed for the CPU
    frame_stride: Annotated[int, Field(ge=1)] = 1  # every so-manieth frame of a video
    max_frames: Annotated[int, Field(ge=0)] = 0  # at most so many of each video or camera; 0 is all

    save: bool = True  # annotated pictures and videos
    save_json: bool = True
    save_txt: bool = False
    save_conf: bool = False  # scores in the text files
    save_csv: bool = False
    mask_format: Literal["rle", "polygon"] = "rle"  # in predictions.json
    project: str | None = None
    name: str | None = None
    exist_ok: bool = False
    verbose: bool = True
