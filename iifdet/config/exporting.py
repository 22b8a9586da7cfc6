"""The keys of ``iifdet export``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import Adjust, DataKeys, Options, Share, WeightKeys


class ExportConfig(WeightKeys):
    """``iifdet export``. What the checkpoint says holds where no key says it, except for ``conf`` and ``adjust``."""

    model_config = DataKeys.model_config

    weights: str | None = None
    model: str | None = None  # beside the weights of another program
    model_args: Options = Field(default_factory=dict)
    data: str | None = None  # names the classes of such weights
    adjust: Adjust | None = None  # None keeps what the checkpoint has

    format: Literal["onnx", "torch"] = "onnx"  # torch: a program of torch.export
    file: str | None = None  # beside the weights by default
    exist_ok: bool = False  # write over what is there

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    resize: Literal["letterbox", "square"] = "letterbox"
    nms_inside: bool = False  # the graph chooses detections; ONNX alone
    conf: Share = 0.25
    iou: Share = 0.6
    max_det: Annotated[int, Field(ge=1)] = 300
    nms: Literal["class", "agnostic", "majority"] = "class"
    multi_label: bool = True
    verbose: bool = True
