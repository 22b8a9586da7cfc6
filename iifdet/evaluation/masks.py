"""Masks on their way into an evaluation: from probabilities in tensor pixels to run lengths in original pixels.

Only the part of a mask that is above the threshold is ever resampled, one detection after the other, so that hundreds
of detections of a large image need no more memory than they came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.evaluation.engine import CocoDict
from iifdet.types import ImageInfo

RLE = dict[str, Any]


def encode_masks(
    masks: Tensor, info: ImageInfo, threshold: float = 0.5, rows: Sequence[int] | None = None
) -> list[RLE]:
    """Probability masks of one image to COCO's compressed run-length masks of the original image.

    The padding around the image is cut off, what is left is interpolated linearly to the original's pixels, and pixels
    above ``threshold`` are in.

    Args:
        masks: (n, H, W) in [0, 1], of the pixels of the image tensor.
        info: where the tensor came from.
        threshold: a pixel counts above it.
        rows: which of the masks, in which order; by default all.

    Returns:
        For each, ``{"size": [height, width], "counts": text}``.

    Example:
        >>> info = ImageInfo(1, 0, "a.jpg", size=(2, 4), scale=(0.5, 0.5), offset=(0.0, 1.0))
        >>> masks = torch.tensor([[[0.0, 0], [1, 0], [0, 0]]])  # (1, 3, 2): a padded row above and below
        >>> encode_masks(masks, info)  # columns of two pixels: four in, four out
        [{'size': [2, 4], 'counts': '044'}]
    """
    (sx, sy), (dx, dy), (height, width) = info.scale, info.offset, info.size
    found = []
    extents = _extents(masks, threshold)
    for row in range(len(masks)) if rows is None else rows:
        top, bottom, left, right = extents[row]
        down, across = _Axis.over(top, bottom, sy, dy, height), _Axis.over(left, right, sx, dx, width)
        crop = masks[row, down.source, across.source].float().cpu().numpy()
        soft = across.sample(down.sample(crop).T).T
        found.append(encode_crop(soft > threshold, down.first, across.first, height, width))
    return found


def encode_crop(inside: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> RLE:
    """Compressed COCO run lengths of a (height, width) mask that is False outside of ``inside``, placed at (top, left).

    COCO counts down the columns, so each column's runs become positions in one long line; a run that reaches the lower
    edge and one that begins at the upper edge of the next column are one.
    """
    from pycocotools import mask as coco_mask

    columns = np.zeros((inside.shape[1], inside.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = inside.T
    column, row = np.nonzero(np.diff(columns, axis=1))  # where a run starts, where it has ended, in turn
    line = (left + column) * height + top + row
    joined = np.flatnonzero(line[1:] == line[:-1])
    line = np.delete(line, np.concatenate([joined, joined + 1]))
    end = [height * width] if not len(line) or line[-1] < height * width else []
    counts = np.diff(line, prepend=0, append=end)
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def mask_truth(index: Any) -> tuple[bool, tuple[str, ...]]:
    """Whether the masks of an index can be scored against, and what to say about boxes that have none."""
    segments = getattr(index, "segments", None)
    missing, total = (0, 0) if segments is None else (segments.missing(), len(segments))
    if missing == total:
        return False, ("no box of the evaluated split has a mask: boxes alone are scored",)
    if not missing:
        return True, ()
    return True, (f"{missing} of {total} boxes of the evaluated split have no mask: their rectangles stand for masks",)


def with_rectangles(gt: CocoDict) -> CocoDict:
    """A COCO ground truth in which a box without a mask has its rectangle for one, as it has in training."""
    annotations = [
        a if a.get("segmentation") else {**a, "segmentation": [_rectangle(*a["bbox"])]} for a in gt["annotations"]
    ]
    return {**gt, "annotations": annotations}


def _rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _extents(masks: Tensor, threshold: float) -> list[list[int]]:
    """First and last + 1 row, first and last + 1 column above the threshold of each mask; zeros where there is none."""
    if not masks.numel():
        return [[0, 0, 0, 0]] * len(masks)
    sides = [_first_last(masks.amax(dim=dim) > threshold) for dim in (2, 1)]  # no boolean copy of the masks
    return torch.cat(sides, dim=1).tolist()


def _first_last(present: Tensor) -> Tensor:
    """(n, L) bool -> (n, 2) place of the first True and of the last + 1; 0, 0 where there is none."""
    length = present.shape[1]
    value = present.to(torch.uint8)  # argmax takes the first of equals
    first, last = value.argmax(dim=1), length - value.flip(1).argmax(dim=1)
    return torch.stack((first, last), dim=1) * present.any(dim=1, keepdim=True)


class _Axis:
    """Linear interpolation along one axis: from a stretch of the tensor's pixels to the original pixels it touches.

    Attributes:
        source: the tensor's pixels that are needed.
        first: the first original pixel that is made.
    """

    def __init__(self, source: slice, first: int, below: NDArray[np.int64], weight: NDArray[np.float32]) -> None:
        self.source, self.first = source, first
        self.below, self.weight = below, weight

    @classmethod
    def over(cls, start: int, stop: int, scale: float, offset: float, length: int) -> _Axis:
        """For content at ``start:stop`` of a tensor, of an original of ``length`` pixels.

        The middle of original pixel j lies at ``(j + 0.5) * scale + offset`` in the tensor, whose own pixels have
        their middles at 0.5, 1.5, …; beyond the image's first and last pixel there is padding, which is not looked at.
        """
        low, high = round(offset), max(round(offset + scale * length) - 1, round(offset))
        start, stop = max(start, low), min(stop, high + 1)
        if start >= stop:
            return cls(slice(0, 1), 0, np.zeros(0, np.int64), np.zeros(0, np.float32))
        # Pixels around the stretch are not above the threshold, and no pixel beyond them can become so.
        first = 0 if start == low else max(int(np.floor((start - 0.5 - offset) / scale - 0.5)), 0)
        last = length if stop > high else min(int(np.ceil((stop + 0.5 - offset) / scale - 0.5)) + 1, length)
        place = np.clip((np.arange(first, last) + 0.5) * scale + offset - 0.5, low, high)
        below = np.floor(place).astype(np.int64)
        begin, end = int(below[0]), min(int(below[-1]) + 2, high + 1)
        return cls(slice(begin, end), first, below - begin, (place - below).astype(np.float32))

    def sample(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(source, …) values to (made, …) values."""
        above = np.minimum(self.below + 1, len(values) - 1)
        weight = self.weight[:, None]
        return values[self.below] * (1 - weight) + values[above] * weight
