"""Detectors by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from iifdet.detectors.base import Detector
from iifdet.detectors.postprocess import PostprocessOptions
from iifdet.detectors.rcnn_networks import fasterrcnn, maskrcnn
from iifdet.detectors.retinanet import retinanet
from iifdet.detectors.ssd import ssd300, ssd512
from iifdet.detectors.yolov3 import yolov3, yolov3_nano, yolov3_tiny

#: name -> factory(num_classes, **keywords); random weights, no network.
DETECTORS: dict[str, Callable[..., Detector]] = {
    "yolov3": yolov3,
    "yolov3-tiny": yolov3_tiny,
    "yolov3-nano": yolov3_nano,
    "ssd300": ssd300,
    "ssd512": ssd512,
    "fasterrcnn": fasterrcnn,
    "maskrcnn": maskrcnn,
    "retinanet": retinanet,
}

__all__ = ["DETECTORS", "Detector", "PostprocessOptions"]
