"""Small detectors with spread-out logits, and views of images through them, for the tests of explanations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iifdet.detectors import DETECTORS, Detector, PostprocessOptions
from iifdet.explaining import View
from iifdet.types import ImageInfo, RawPredictions

C, SIZE = 3, 96
RCNN: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": SIZE, "max_size": 2 * SIZE}
SMALL: dict[str, dict[str, Any]] = {
    "yolov3-nano": {"width": 0.125, "depth": 0.1},
    "yolov3-tiny": {"width": 0.125},
    "ssd300": {"width": 0.0625},
    "fasterrcnn": RCNN,
    "maskrcnn": RCNN,
    "retinanet": RCNN,
}


def make(name: str, seed: int = 0) -> Detector:
    """A detector of SMALL of which nearly everything is a detection."""
    torch.manual_seed(seed)
    model = enliven(DETECTORS[name](C, **SMALL[name]), SIZE)
    model.options = PostprocessOptions(conf=0.0005, max_det=20)
    return model


def enliven(model: Any, size: int) -> Any:
    """Batch norm statistics, and class rows that are not tiny: without them deep maps of random weights are near 0."""
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, size, size)}
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(2, 3, size, size), [empty] * 2)
        for rows in model.classifier_rows():
            rows.weight.normal_(std=0.5)
            rows.bias.normal_(std=0.5)
    return model.eval()


def plain_view(model: Detector, size: tuple[int, int] = (SIZE, SIZE)) -> View:
    """An image that is its own tensor."""
    return View(ImageInfo(0, 0, "x.png", size), size, model.layout(size))


def picture(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> torch.Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


class Planted(Detector):
    """A detector that says what it is told, of whatever image."""

    def __init__(self, raw: RawPredictions, *, class_loss: str = "ce", conf: float = 0.25) -> None:
        super().__init__(raw.class_logits.shape[1], class_loss=class_loss)
        self.said = raw
        self.options = PostprocessOptions(conf=conf)
        self.eval()

    def raw(self, images: Any) -> list[RawPredictions]:
        return [self.said]


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(np.nan_to_num(spearmanr(one.ravel(), other.ravel()).statistic))
