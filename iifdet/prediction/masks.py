"""Masks between the tensor, the original image, and COCO's run lengths and polygons."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from iifdet.types import ImageInfo

#: COCO's compressed run lengths: ``{"size": [height, width], "counts": text}``.
RLE = dict[str, Any]
#: A pixel belongs to an object from this probability on.
THRESHOLD = 0.5


def to_original(masks: Tensor, info: ImageInfo) -> list[RLE]:
    """(N, H, W) probabilities in tensor pixels to N masks of the original image; one at a time is in full size.

    What a letterbox padded is cut off, and the rest is scaled back before the threshold.
    """
    height, width = info.size
    left, top = (round(v) for v in info.offset)
    inner_width, inner_height = max(1, round(width * info.scale[0])), max(1, round(height * info.scale[1]))
    rles = []
    for mask in masks.float().cpu().numpy():
        inner = mask[top : top + inner_height, left : left + inner_width]
        if inner.shape != (height, width):
            inner = cv2.resize(np.ascontiguousarray(inner), (width, height), interpolation=cv2.INTER_LINEAR)
        rles.append(encode(inner > THRESHOLD))
    return rles


def encode(mask: NDArray[np.bool_]) -> RLE:
    """(H, W) bool to run lengths that JSON can hold."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


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
