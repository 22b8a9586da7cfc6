"""The keys of ``iifdet export``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import FinishedKeys, Share, WeightKeys


class ExportConfig(FinishedKeys, WeightKeys):
    """What is written

    What the checkpoint says holds where no key says it, except for ``conf`` and ``adjust``.
    """

    data: str | None = None
    """names the classes of another program's weights"""

    format: Literal["onnx", "torch"] = "onnx"
    """an ONNX file, or a program of torch.export (.pt2)"""
    file: str | None = None
    """where it goes; beside the weights where no place is named"""
    exist_ok: bool = False
    """write over what is there"""

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    """side of the input, pixels; if not given, the checkpoint's"""
    resize: Literal["letterbox", "square"] = "letterbox"
    """how predict will fit images into it; if not given, the checkpoint's"""
    nms_inside: bool = False
    """ONNX: the graph chooses detections"""
    conf: Share = 0.25
    """nms_inside: score below which a detection is dropped"""
    iou: Share = 0.6
    """nms_inside: overlap from which the better of two detections suppresses the other"""
    max_det: Annotated[int, Field(ge=1)] = 300
    """nms_inside: detections of an image"""
    nms: Literal["class", "agnostic", "majority"] = "class"
    """what predict does with the boxes of a file without NMS inside; a graph suppresses within a class alone"""
    multi_label: bool = True
    """nms_inside: a box may be a detection of several classes"""
    verbose: bool = True
    """say what is going on; false leaves warnings"""
