"""What was found in one picture, in pixels of the original, and the forms that other programs want it in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from iifdet import plots
from iifdet.errors import InputError
from iifdet.prediction.arrays import Image
from iifdet.prediction.masks import RLE, area, decode, polygons
from iifdet.prediction.shown import Shown

MaskFormat = Literal["rle", "polygon"]


@dataclass(eq=False, repr=False)
class Result(Shown):
    """Detections of one picture, best score first.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the original picture, EXIF orientation applied.
        labels: (N,) int64, 0…C-1.
        scores: (N,) float32 in [0, 1].
        names: the C class names.
        path: where the picture came from.
        size: its (height, width).
        stem: what files about it are called, without a suffix.
        source: number of the file, camera or array in the source, from 0.
        frame: number of a video's frame, None for images.
        fps: frames a second of the video, 0 for images.
        rles: N masks as COCO's run lengths, None for models without masks.
        pixels: (H, W, 3) uint8 RGB, None where they were not kept; :attr:`image` reads a file again.
        saved: the annotated picture or video, where one was written.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    names: list[str]
    path: str
    size: tuple[int, int]
    stem: str = "image"
    source: int = 0
    frame: int | None = None
    fps: float = 0.0
    rles: list[RLE] | None = None
    pixels: Image | None = None
    saved: Path | None = None

    @property
    def masks(self) -> Tensor | None:
        """(N, height, width) bool, or None for models without masks; unpacked anew on each access."""
        return None if self.rles is None else decode(self.rles, self.size)

    @property
    def found(self) -> list[str]:
        """What the picture counts for: the N class names."""
        return self.classes

    def describe(self) -> str:
        """One line: ``photo.jpg 480x640: 2 car, 1 bus``."""
        found = ", ".join(f"{number} {name}" for name, number in Counter(self.classes).most_common())
        return f"{self.place}: {found or 'nothing'}"

    # -- other forms -----------------------------------------------------------------------------------------------

    def to_coco(self, image_id: int = 1, masks: MaskFormat = "rle") -> list[dict[str, Any]]:
        """COCO result dicts: ``image_id``, ``category_id`` (the label, from 0), ``bbox`` (xywh), ``score``.

        Args:
            masks: form of ``segmentation``, which models with masks add: ``rle`` is exact, ``polygon`` the outlines.
        """
        boxes = self.boxes.double()  # as in validation: width and height lose nothing
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
        rows = [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        ]
        for row, rle in zip(rows, self.rles or [], strict=False):
            row["segmentation"] = rle if masks == "rle" else polygons(rle)
        return rows

    def areas(self) -> list[float]:
        """N areas in pixels: of the masks where there are some, else of the boxes."""
        if self.rles is not None:
            return [area(rle) for rle in self.rles]
        return (self.boxes[:, 2:] - self.boxes[:, :2]).double().prod(dim=1).tolist()

    def to_yolo(self, conf: bool = False) -> list[str]:
        """Lines ``class cx cy w h``, shares of the picture's width and height; ``conf`` adds the score at the end."""
        height, width = self.size
        low, high = self.boxes[:, :2].double(), self.boxes[:, 2:].double()
        boxes = torch.cat(((low + high) / 2, high - low), dim=1) / torch.tensor([width, height, width, height])
        rows = zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        return [
            " ".join([str(label), *(f"{v:.6f}" for v in ([*box, score] if conf else box))])
            for label, box, score in rows
        ]

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with class names under ``data["class_name"]``.

        Raises:
            InputError: the package supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise InputError(
                f"to_supervision: expected the package supervision, got none ({error}); pip install supervision"
            ) from error
        masks = self.masks
        return Detections(
            xyxy=self.boxes.numpy(),
            mask=None if masks is None else masks.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.classes, dtype=str)},
        )

    def plot(self, image: Image | None = None) -> Image:
        """(H, W, 3) uint8 RGB copy of the picture with boxes, names, scores and masks on it.

        Args:
            image: the picture, where it was not kept and is not in a file.
        """
        pixels = self.image if image is None else image
        return plots.draw_boxes(pixels, self.boxes, self.labels, self.names, self.scores, self.masks)
