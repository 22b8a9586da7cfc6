"""Resize, move, turn and flip as one matrix, so that pixels are sampled once; boxes and masks follow the same matrix.

Matrices are (3, 3) float64 and map edge coordinates, in which pixel i covers [i, i + 1): those of the boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.pieces import Piece, clip_boxes, mask_extents, still_count
from iifdet.datasets.resizing import PAD, RESIZES, Boxes, Image, Masks, resize_masks
from iifdet.errors import InputError, suggest

Matrix = NDArray[np.float64]

#: degrees ±, translate ± as a share of the image, scale 1 ±, shear ± degrees.
AFFINE: dict[str, float] = {"degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0}
#: Below this scale, sampling between four pixels would pass over others: the picture is averaged down first.
_SHRINK = 0.5


def scaling(sx: float, sy: float) -> Matrix:
    """Stretch from the upper left corner."""
    return np.diag([sx, sy, 1.0])


def translation(dx: float, dy: float) -> Matrix:
    """Move by so many pixels."""
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def mirror(width: float) -> Matrix:
    """Flip a picture of this width from left to right."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def fit_matrix(height: int, width: int, size: tuple[int, int], resize: str) -> Matrix:
    """What the resize of this name does to a picture of this height and width, as a matrix."""
    new_height, new_width = RESIZES[resize][1](height, width, size)
    left, top = (size[1] - new_width) // 2, (size[0] - new_height) // 2
    return translation(left, top) @ scaling(new_width / width, new_height / height)


def centre_matrix(height: int, width: int, size: tuple[int, int]) -> Matrix:
    """Cut ``size`` out of the middle, as it is."""
    return translation((size[1] - width) // 2, (size[0] - height) // 2)


class RandomAffine:
    """Draws a matrix that scales, turns, shears and moves about the middle of the tensor.

    Args:
        moves: ``degrees``, ``translate``, ``scale``, ``shear``; missing ones are 0. None for :data:`AFFINE`.

    Raises:
        InputError: unknown key.
    """

    def __init__(self, moves: Mapping[str, float] | None = None) -> None:
        moves = dict(AFFINE if moves is None else moves)
        for key in moves:
            if key not in AFFINE:
                raise InputError(f"affine: unknown key '{key}'{suggest(key, AFFINE)}")
        self.degrees, self.translate, self.scale, self.shear = (moves.get(key, 0.0) for key in AFFINE)
        self.moves = max(self.degrees, self.translate, self.scale, self.shear) > 0

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Matrix:
        """A matrix for tensors of (H, W) ``size``; six numbers are drawn whatever the ranges."""
        turn, factor, shear_x, shear_y, dx, dy = rng.uniform(-1, 1, 6).tolist()
        return about_middle(
            size,
            degrees=turn * self.degrees,
            factor=1 + factor * self.scale,
            shear=(shear_x * self.shear, shear_y * self.shear),
            move=(dx * self.translate, dy * self.translate),
        )


def about_middle(
    size: tuple[int, int],
    degrees: float = 0.0,
    factor: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
    move: tuple[float, float] = (0.0, 0.0),
) -> Matrix:
    """Turn, then shear, then move, about the middle of an (H, W) picture.

    Args:
        degrees: anticlockwise as seen.
        factor: > 0.
        shear: along x and along y, degrees.
        move: shares of the width and of the height.
    """
    height, width = size
    angle = math.radians(degrees)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    turned = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    along_x, along_y = (math.tan(math.radians(s)) for s in shear)
    sheared = np.array([[1.0, along_x, 0.0], [along_y, 1.0, 0.0], [0.0, 0.0, 1.0]])
    back = translation(width * (0.5 + move[0]), height * (0.5 + move[1]))
    return back @ sheared @ turned @ translation(-width / 2, -height / 2)


def warp(image: Image, matrix: Matrix, size: tuple[int, int], pad: int = PAD, cubic: bool = False) -> Image:
    """Sample an (h, w, 3) picture into an (H, W, 3) one through ``matrix``; grey where there is nothing."""
    image, matrix = _shrunk(image, matrix)
    flags = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    return _sample(image, matrix, size, flags, pad)


def is_upright(matrix: Matrix) -> bool:
    """Whether a matrix neither turns nor shears."""
    return bool(matrix[0, 1] == matrix[1, 0] == 0)


def warp_upright(
    image: Image, matrix: Matrix, size: tuple[int, int], pad: int = PAD, cubic: bool = False
) -> tuple[Image, Matrix]:
    """The same as :func:`warp` for an upright matrix, in a third of the time: a cut of the picture is resized.

    Returns:
        The picture, and the matrix that was used: the cut's borders come to lie on whole pixels, so it differs from
        ``matrix`` by half a pixel at most there.
    """
    if matrix[0, 0] < 0:
        image, used = warp_upright(image, mirror(size[1]) @ matrix, size, pad, cubic)
        return np.asarray(cv2.flip(image, 1), np.uint8), mirror(size[1]) @ used  # numpy's copy takes ten times as long
    low, high = sorted((matrix[0, 0], matrix[1, 1]))
    # Averaged along one axis and enlarged along the other: no resize of OpenCV's does it.
    if low < _SHRINK and high > 1:
        return warp(image, matrix, size, pad, cubic), matrix
    height, width = image.shape[:2]
    across = _Cut.along(width, size[1], matrix[0, 0], matrix[0, 2])
    down = _Cut.along(height, size[0], matrix[1, 1], matrix[1, 2])
    out = np.full((*size, 3), pad, dtype=np.uint8)
    if across is None or down is None:
        return out, matrix
    kind = cv2.INTER_AREA if low < _SHRINK else cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    cut = image[down.start : down.stop, across.start : across.stop]
    resized = cv2.resize(cut, (across.last - across.first, down.last - down.first), interpolation=kind)
    rows, columns = down.seen(size[0]), across.seen(size[1])
    out[rows, columns] = resized[_moved(rows, -down.first), _moved(columns, -across.first)]
    return out, translation(across.offset, down.offset) @ scaling(across.scale, down.scale)


@dataclass(frozen=True)
class _Cut:
    """Along one axis, ``start:stop`` of the picture's pixels becomes ``first:last`` of the tensor's."""

    start: int
    stop: int
    first: int
    last: int

    @classmethod
    def along(cls, length: int, target: int, scale: float, offset: float) -> _Cut | None:
        """What of ``length`` pixels is seen in ``target`` pixels under ``scale`` and ``offset``; None if nothing is."""
        low, high = max(0.0, offset), min(float(target), offset + scale * length)
        if high - low < 0.5:
            return None
        start = max(0, math.floor((low - offset) / scale))
        stop = min(length, math.ceil((high - offset) / scale))
        first = round(offset + scale * start)
        return cls(start, stop, first, max(round(offset + scale * stop), first + 1))

    @property
    def scale(self) -> float:
        return (self.last - self.first) / (self.stop - self.start)

    @property
    def offset(self) -> float:
        return self.first - self.scale * self.start

    def seen(self, target: int) -> slice:
        """The part of ``first:last`` that lies in the tensor."""
        return slice(max(self.first, 0), min(self.last, target))


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def warp_masks(masks: Masks, matrix: Matrix, size: tuple[int, int]) -> Masks:
    """The same for (n, h, w) masks of 0 and 1: (n, H, W)."""
    out = np.zeros((len(masks), *size), dtype=np.uint8)
    height, width = masks.shape[1:]
    shape = _shrunk_shape(height, width, matrix)
    masks, matrix = resize_masks(masks, shape), matrix @ scaling(width / shape[1], height / shape[0])
    for k, mask in enumerate(masks):
        # Linear and rounded, as in resize_masks.
        out[k] = _sample(mask * np.uint8(255), matrix, size, cv2.INTER_LINEAR, 0) > 127
    return out


def warp_boxes(boxes: Boxes, matrix: Matrix) -> Boxes:
    """Smallest upright boxes around the (n, 4) boxes' images; not clipped.

    Example:
        >>> warp_boxes(np.array([[0, 0, 2, 1]], np.float32), mirror(10)).tolist()
        [[8.0, 0.0, 10.0, 1.0]]
    """
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)  # (n, 4, 2) clockwise
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32).reshape(-1, 4)


def warp_piece(piece: Piece, matrix: Matrix, size: tuple[int, int], cubic: bool = False) -> Piece:
    """A picture and its objects through ``matrix``; objects of which too little is left are dropped.

    Where the matrix turns or shears, objects with masks get the tight box of what their mask became: the upright box
    around a turned box would be too wide.
    """
    upright = is_upright(matrix)
    if upright:
        image, matrix = warp_upright(piece.image, matrix, size, cubic=cubic)
    else:
        image = warp(piece.image, matrix, size, cubic=cubic)
    before = warp_boxes(piece.boxes, matrix)
    after = clip_boxes(before, *size)
    rows = np.flatnonzero(still_count(before, after))
    masks = None if piece.masks is None else warp_masks(piece.masks[rows], matrix, size)
    moved = Piece(image, after[rows], piece.labels[rows], masks)
    return moved if upright or masks is None else _tightened(moved, masks)


def _tightened(piece: Piece, masks: Masks) -> Piece:
    extents, some = mask_extents(masks)
    upper, lower = np.maximum(piece.boxes[:, :2], extents[:, :2]), np.minimum(piece.boxes[:, 2:], extents[:, 2:])
    piece.boxes = np.concatenate([upper, lower], axis=1)
    return piece.keep(some & still_count(piece.boxes, piece.boxes))


def _shrunk_shape(height: int, width: int, matrix: Matrix) -> tuple[int, int]:
    """Height and width to which a picture is averaged down before it is sampled: its own unless it shrinks a lot."""
    sx, sy = np.hypot(matrix[0, 0], matrix[1, 0]), np.hypot(matrix[0, 1], matrix[1, 1])
    if min(sx, sy) >= _SHRINK:
        return height, width
    return max(1, round(height * min(sy, 1.0))), max(1, round(width * min(sx, 1.0)))


def _shrunk(image: Image, matrix: Matrix) -> tuple[Image, Matrix]:
    height, width = image.shape[:2]
    shape = _shrunk_shape(height, width, matrix)
    if shape == (height, width):
        return image, matrix
    small = np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return small, matrix @ scaling(width / shape[1], height / shape[0])


def _sample(image: Image, matrix: Matrix, size: tuple[int, int], flags: int, pad: int) -> Image:
    # cv2 counts from the middle of the first pixel; given the inverse it need not find it, which takes twice as long.
    inverse = np.linalg.inv(translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5))[:2]
    border = (pad,) * 4
    out = cv2.warpAffine(image, inverse, size[::-1], flags=flags | cv2.WARP_INVERSE_MAP, borderValue=border)
    return np.asarray(out, dtype=np.uint8)
