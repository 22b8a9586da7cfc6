"""The keys of ``iifdet cam``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from iifdet.config.keys import DataKeys, Options, Pair, Share


def _list(value: Any) -> Any:
    """``a,b`` and a list alike; none is the empty list."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [str(part) for part in value]
    return [part for part in (word.strip() for word in str(value).split(",")) if part]


class CamConfig(BaseModel):
    """``iifdet cam``. How images are resized comes from each checkpoint where no key says it."""

    model_config = DataKeys.model_config

    weights: Annotated[list[str], BeforeValidator(_list)] = []  # a checkpoint, or several: a column each
    model: str | None = None  # beside the weights of another program
    model_args: Options = {}
    source: Annotated[list[str], BeforeValidator(_list)] = []  # file, folder, glob, .txt list, URL; else images of data
    data: str | None = None  # where ground truths and the class names of foreign weights come from
    split: Literal["train", "val", "test"] = "val"
    allow_outside: bool = False  # the data's lists and annotation files may name files outside its folders
    limit: Annotated[int, Field(ge=0)] = 16  # at most so many images; 0 is all

    method: Literal["gradcam", "gradcam++", "layercam", "eigencam"] = "gradcam"
    layer: str = "auto"  # auto: the one that the row stands on; all: merged; or a name
    scalar: Literal["logit", "score"] = "logit"  # adjusted class logit, or objectness x class
    detection: Annotated[int, Field(ge=1)] = 1  # 1 is the best; with category, the best of that class
    category: str | None = None  # the class to explain
    gt: Annotated[int, Field(ge=1)] | None = None  # number of a ground-truth box of the image, from 1
    cell: Annotated[tuple[float, float] | None, Pair] = None  # [x, y] in pixels of the image
    curves: Annotated[int, Field(ge=0, le=1000)] = 0  # steps of deletion and insertion curves, 4 passes each; 0 is off
    map_conf: Share = 0.05  # cells of the class map are filled above this score

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    resize: Literal["letterbox", "square"] = "letterbox"
    conf: Share = 0.25
    iou: Share | None = None
    max_det: Annotated[int, Field(ge=1)] | None = None
    device: str | int | None = None
    project: str | None = None
    name: str | None = None
    exist_ok: bool = False
    plots: bool = True  # the sheets; maps are always written
    verbose: bool = True
