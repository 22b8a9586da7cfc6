"""From maps and points of the network to pixels of the original image, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.detectors.layout import Layout
from iifdet.types import ImageInfo


@dataclass(frozen=True)
class View:
    """How one image reaches the network: original -> tensor (``info``) -> network input (``layout``).

    Attributes:
        info: where the tensor came from.
        tensor: (height, width) of the tensor.
        layout: how the tensor lies in the network's input.
    """

    info: ImageInfo
    tensor: tuple[int, int]
    layout: Layout

    def to_map(self, points: NDArray[np.float64], axis: int, step: float) -> NDArray[np.float64]:
        """Positions on a map with a cell each ``step`` pixels of the network's input, cell k from k to k + 1.

        Args:
            points: positions in tensor pixels, pixel k reaching from k to k + 1.
            axis: 0 for y, 1 for x.
        """
        return points * (self.layout.content[axis] / self.tensor[axis] / step)

    def to_tensor(self, points: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Positions in original pixels to tensor pixels; ``axis`` 0 for y, 1 for x."""
        return points * self.info.scale[1 - axis] + self.info.offset[1 - axis]

    def upsample(self, values: NDArray[Any], smooth: bool = True) -> NDArray[Any]:
        """An (h, w) map over the network's input at the (H, W) pixels of the original image.

        Args:
            smooth: interpolate between the cells' centres, or give each pixel its cell's value.
        """
        rows, columns = (
            self.to_map(self.to_tensor(np.arange(self.info.size[axis], dtype=np.float64) + 0.5, axis), axis, step)
            for axis, step in enumerate(self.layout.step(*values.shape))
        )
        if not smooth:
            y, x = (np.clip(p.astype(int), 0, n - 1) for p, n in zip((rows, columns), values.shape, strict=True))
            return values[y][:, x]
        return _interpolate(_interpolate(values, rows).T, columns).T

    def of_tensor(self) -> View:
        """The view of the tensor as if it were the original: maps come out at its pixels."""
        return View(
            ImageInfo(self.info.image_id, self.info.index, self.info.file, self.tensor), self.tensor, self.layout
        )

    def content(self) -> NDArray[np.bool_]:
        """Which pixels of the tensor show the image; the others are padding."""
        inside = []
        for axis in (0, 1):
            first, last = self.to_tensor(np.array([0.0, self.info.size[axis]]), axis)
            centres = np.arange(self.tensor[axis]) + 0.5
            inside.append((centres > first) & (centres < last))
        return inside[0][:, None] & inside[1]

    def visible(self) -> NDArray[np.bool_]:
        """(H, W) whether a pixel of the original image lies in the tensor: a crop leaves some out."""
        inside = []
        for axis in (0, 1):
            places = self.to_tensor(np.arange(self.info.size[axis], dtype=np.float64) + 0.5, axis)
            inside.append((places >= 0) & (places <= self.tensor[axis]))
        return np.asarray(inside[0][:, None] & inside[1][None, :], dtype=np.bool_)

    def rows_at(self, x: float, y: float) -> NDArray[np.int64]:
        """Rows of ``raw`` whose cell holds a point in tensor pixels, of every level."""
        found, start = [], 0
        for grid in self.layout.levels:
            row, column = (
                int(np.clip(self.to_map(np.array([p]), axis, grid.step[axis])[0], 0, cells - 1))
                for axis, (p, cells) in enumerate(((y, grid.rows), (x, grid.columns)))
            )
            first = start + (row * grid.columns + column) * grid.per_cell
            found.append(np.arange(first, first + grid.per_cell))
            start += grid.size
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _interpolate(values: NDArray[np.float32], positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of ``values`` at positions along the first axis, linear between centres, constant beyond the outer ones."""
    centred = np.clip(positions - 0.5, 0, len(values) - 1)
    low = np.floor(centred).astype(int)
    high, share = np.minimum(low + 1, len(values) - 1), (centred - low)[:, None]
    return np.asarray(values[low] * (1 - share) + values[high] * share, dtype=np.float32)


def paint_boxes(
    size: tuple[int, int], boxes: NDArray[np.float32], values: Sequence[float] | NDArray[np.float32], empty: float = 0
) -> NDArray[np.float32]:
    """(H, W) map in which each box is filled with its value and the largest lies on top.

    Args:
        boxes: (N, 4) xyxy in pixels of the map.
        values: (N,).
        empty: where there is no box.
    """
    canvas = np.full(size, empty, dtype=np.float32)
    values = np.asarray(values, dtype=np.float32)
    corners = np.stack((np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])), axis=1).reshape(-1, 4)
    limit = np.array([size[1], size[0], size[1], size[0]])
    for row in np.argsort(values, kind="stable"):
        x1, y1, x2, y2 = np.clip(np.nan_to_num(corners[row]), 0, limit).astype(int)
        canvas[y1:y2, x1:x2] = values[row]
    return canvas
