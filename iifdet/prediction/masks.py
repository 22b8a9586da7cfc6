"""Masks of the original image: COCO's run lengths, which results hold, as pixels, areas and polygons."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

#: COCO's compressed run lengths: ``{"size": [height, width], "counts": text}``.
RLE = dict[str, Any]


def decode(rles: list[RLE], size: tuple[int, int]) -> Tensor:
    """N run lengths to (N, height, width) bool."""
    if not rles:
        return torch.zeros((0, *size), dtype=torch.bool)
    return torch.from_numpy(np.stack([coco_mask.decode(rle) for rle in rles]).astype(bool))


def area(rle: RLE) -> float:
    """Pixels of a mask."""
    return float(coco_mask.area(rle))


def polygons(rle: RLE) -> list[list[float]]:
    """Outer outlines as COCO's flat ``[x1, y1, x2, y2, …]``; holes are filled, specks below three points left out.

    Corners are pixels' centres, as OpenCV counts them, so an outline encloses half a pixel less on each side.
    """
    contours, _ = cv2.findContours(coco_mask.decode(rle), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [[float(v) for v in contour.ravel()] for contour in contours if len(contour) >= 3]
