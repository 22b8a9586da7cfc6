"""The keys of ``iifdet cam``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from iifdet.config.keys import Device, FolderKeys, Options, Pair, Share, TalkKeys


def _list(value: Any) -> Any:
    """``a,b`` and a list alike; none is the empty list."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [str(part) for part in value]
    return [part for part in (word.strip() for word in str(value).split(",")) if part]


class CamConfig(FolderKeys, TalkKeys):
    """What is explained; keys that are not given come from each checkpoint"""

    weights: Annotated[list[str], BeforeValidator(_list)] = Field(default_factory=list)
    """a checkpoint, or several: a column each"""
    model: str | None = None
    """beside another program's weights: the model's name"""
    model_args: Options = Field(default_factory=dict)
    """beside another program's weights: options of the model"""
    source: Annotated[list[str], BeforeValidator(_list)] = Field(default_factory=list)
    """file, folder, glob, .txt list or URL; if not given, images of data"""
    data: str | None = None
    """where ground truths and the class names of another program's weights come from"""
    split: Literal["train", "val", "test"] = "val"
    """which of its images"""
    allow_outside: bool = False
    """annotation files and lists may name files outside the data set's folders"""
    limit: Annotated[int, Field(ge=0)] = 16
    """images at most; 0 is all"""

    method: Literal["gradcam", "gradcam++", "layercam", "eigencam"] = "gradcam"
    """how the map is made"""
    layer: str = "auto"
    """auto: the layer that the explained row stands on; all: every one it depends on, averaged; or a module's path"""
    scalar: Literal["logit", "score"] = "logit"
    """explain the adjusted class logit, or objectness times class"""
    detection: Annotated[int, Field(ge=1)] = 1
    """the best detection (1), the second, …; with category, of that class"""
    category: str | None = None
    """the class to explain"""
    gt: Annotated[int, Field(ge=1)] | None = None
    """explain a ground-truth box of the image, by its number from 1"""
    cell: Annotated[tuple[float, float] | None, Pair] = None
    """explain the surest prediction at [x, y], pixels of the image"""
    curves: Annotated[int, Field(ge=0, le=1000)] = 0
    """steps of deletion and insertion curves, four passes each; 0 is off"""
    map_conf: Share = 0.05
    """score above which a cell of the class map is filled"""

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    """side of the square that images are fitted into, pixels"""
    resize: Literal["letterbox", "square"] = "letterbox"
    """keep the aspect and pad with grey, or stretch to the square"""
    conf: Share = 0.25
    """score below which a detection is dropped"""
    iou: Share | None = None
    """overlap from which the better of two detections suppresses the other"""
    max_det: Annotated[int, Field(ge=1)] | None = None
    """detections of an image at most"""
    device: Device = None
    """cpu, cuda or the number of a GPU; if not given, the first GPU, or else the CPU"""
