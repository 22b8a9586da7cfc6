"""For the tests of prediction: a detector that sees bright pixels and nothing else, pictures and videos for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.detectors import Detector
from iifdet.longtail import ClassCounts
from iifdet.models import create_model
from iifdet.prediction import Result
from iifdet.types import Detection


class BrightSpot(Detector):
    """The smallest box around bright pixels, as a ``spot`` of score 0.9 and below it as a ``thing`` of score 0.5."""

    def __init__(self, masks: bool = False) -> None:
        super().__init__(2)
        self.weight = nn.Parameter(torch.zeros(1))
        self.names, self.has_masks = ["spot", "thing"], masks
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images: Any, targets: Any = None) -> list[Detection]:
        self.batches.append(tuple(images.shape))
        return [self._look(image) for image in images]

    def _look(self, image: Tensor) -> Detection:
        lit = image.mean(dim=0) > 0.55  # the padding is 0.5
        rows, columns = lit.any(dim=1).nonzero().flatten(), lit.any(dim=0).nonzero().flatten()
        if not len(rows):
            return Detection(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0))
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float().expand(2, 4)
        found = Detection(boxes=box, labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.5]))
        if self.has_masks:
            found["masks"] = lit.float().expand(2, *lit.shape)
        return found


@pytest.fixture
def bright() -> BrightSpot:
    return BrightSpot().eval()


@pytest.fixture
def spot() -> Callable[..., np.ndarray]:
    """spot(box, height, width): a dark RGB picture with a bright rectangle, x1 y1 x2 y2."""

    def paint(box: Sequence[int] = (20, 10, 60, 30), height: int = 80, width: int = 120) -> np.ndarray:
        image = np.full((height, width, 3), (40, 10, 20), np.uint8)
        image[box[1] : box[3], box[0] : box[2]] = (255, 240, 230)
        return image

    return paint


@pytest.fixture
def look(bright: BrightSpot) -> Callable[..., list[Result]]:
    """look(source, …): results of the bright-spot detector at 64 px on the CPU."""

    def predict(source: Any, **keys: Any) -> list[Result]:
        return list(iifdet.predict(source, **{"model": bright, "imgsz": 64, "device": "cpu", **keys}))

    return predict


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a random yolov3-nano for the tiny data; it finds something everywhere."""
    torch.manual_seed(0)
    model = create_model("yolov3-nano", 4, width=0.0625, depth=0.1).eval()
    model.names = ["red", "green", "blue", "white"]
    images = torch.tensor([12, 7, 4, 1])
    model.counts = ClassCounts(model.names, images, images, num_images=24)
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, model, recipe={"imgsz": 64, "data": tiny_data, "conf": 0.002, "iou": 0.5, "resize": "square"})
    return str(path)


def write(path: Path, image: np.ndarray) -> Path:
    """An RGB picture as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


@pytest.fixture
def write_image() -> Callable[[Path, np.ndarray], Path]:
    return write


@pytest.fixture
def write_video() -> Callable[..., Path]:
    """write_video(path, frames, size): a video of dark frames with a bright square that moves to the right."""

    def make(path: Path, frames: int, size: int = 64) -> Path:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (size, size))
        for i in range(frames):
            image = np.zeros((size, size, 3), np.uint8)
            image[20:36, i % 40 : i % 40 + 16] = 255
            writer.write(image)
        writer.release()
        return path

    return make
