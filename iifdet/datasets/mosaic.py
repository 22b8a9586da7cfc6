"""Mosaic and mixup: several pictures in one (Bochkovskiy et al. 2020, section 3.3; Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.pieces import Piece, still_count
from iifdet.datasets.resizing import PAD, Image, Masks, letterbox_shape, resize_masks, resized
from iifdet.datasets.transforms import Transformed

#: Both parameters of mixup's beta distribution: shares near one half.
MIXUP_BETA = 32.0


def mosaic(pieces: Sequence[Piece], size: tuple[int, int], rng: np.random.Generator) -> Piece:
    """Four pictures around a common corner on a canvas of twice the tensor's sides.

    Each is brought to the size that it has in a letterbox, and cut where the canvas ends. The corner is drawn from the
    middle half of the canvas. What the middle of the canvas shows is the sample.

    Args:
        pieces: upper left, upper right, lower left, lower right.
        size: (H, W) of the tensor.
        rng: two numbers are drawn from it.

    Returns:
        A piece of (2H, 2W).
    """
    height, width = size
    corner_y, corner_x = int(rng.uniform(0.5, 1.5) * height), int(rng.uniform(0.5, 1.5) * width)
    canvas = np.full((2 * height, 2 * width, 3), PAD, dtype=np.uint8)
    tiles = []
    for place, piece in enumerate(pieces):
        shape = letterbox_shape(piece.image.shape[0], piece.image.shape[1], size)
        top = corner_y - shape[0] if place < 2 else corner_y
        left = corner_x - shape[1] if place % 2 == 0 else corner_x
        tile = _Tile(piece, shape, (top, left), (2 * height, 2 * width))
        tile.paint(canvas)
        tiles.append(tile)
    return _objects(canvas, tiles)


class _Tile:
    """Where one piece, resized to ``shape``, lies on the canvas.

    Attributes:
        rows, columns: of the canvas that it fills.
        own_rows, own_columns: the part of the piece that is seen there.
        onto: sx, sy, sx, sy, then dx, dy, dx, dy from the piece's pixels to the canvas's.
        window: left, top, left, top of what is seen, then its width, height, width, height.
    """

    def __init__(self, piece: Piece, shape: tuple[int, int], where: tuple[int, int], canvas: tuple[int, int]) -> None:
        self.piece, self.shape = piece, shape
        top, left = max(where[0], 0), max(where[1], 0)
        bottom, right = min(where[0] + shape[0], canvas[0]), min(where[1] + shape[1], canvas[1])
        self.rows, self.columns = slice(top, bottom), slice(left, right)
        self.own_rows, self.own_columns = (
            slice(top - where[0], bottom - where[0]),
            slice(left - where[1], right - where[1]),
        )
        scale = shape[1] / piece.image.shape[1], shape[0] / piece.image.shape[0]
        self.onto = [*scale, *scale, where[1], where[0], where[1], where[0]]
        self.window = [left, top, left, top, right - left, bottom - top, right - left, bottom - top]

    def paint(self, canvas: Image) -> None:
        canvas[self.rows, self.columns] = resized(self.piece.image, self.shape)[self.own_rows, self.own_columns]

    def masks(self, kept: NDArray[np.bool_], canvas: tuple[int, ...]) -> Masks:
        """Of the objects that are kept, on a canvas of their own each."""
        assert self.piece.masks is not None
        masks = np.zeros((int(kept.sum()), *canvas), dtype=np.uint8)
        own = resize_masks(self.piece.masks[kept], self.shape)
        masks[:, self.rows, self.columns] = own[:, self.own_rows, self.own_columns]
        return masks


def _objects(canvas: Image, tiles: Sequence[_Tile]) -> Piece:
    """The canvas with what is seen of the tiles' objects. All boxes at once: four times a few costs four times more."""
    counts = [len(tile.piece.boxes) for tile in tiles]
    onto, window = (
        np.repeat(np.array(rows, np.float32), counts, axis=0)
        for rows in ([tile.onto for tile in tiles], [tile.window for tile in tiles])
    )
    before = np.concatenate([tile.piece.boxes for tile in tiles]) * onto[:, :4] + onto[:, 4:]
    # Boxes end where their own picture ends: the next tile hides the rest.
    after = np.clip(before - window[:, :4], 0, window[:, 4:]) + window[:, :4]
    kept = still_count(before, after)
    labels, masks = np.concatenate([tile.piece.labels for tile in tiles])[kept], None
    if all(tile.piece.masks is not None for tile in tiles):
        of_tiles = zip(tiles, np.split(kept, np.cumsum(counts)[:-1]), strict=True)
        masks = np.concatenate([tile.masks(own, canvas.shape[:2]) for tile, own in of_tiles])
    return Piece(canvas, after[kept], labels, masks)


def as_tile(image: Image, size: tuple[int, int]) -> Image:
    """An image at the size that :func:`mosaic` gives it, for a tensor of (H, W)."""
    return resized(image, letterbox_shape(image.shape[0], image.shape[1], size))


def mixup(first: Transformed, second: Transformed, rng: np.random.Generator) -> Transformed:
    """Blend two samples of one size; the objects of both are targets in full."""
    share = float(rng.beta(MIXUP_BETA, MIXUP_BETA))
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0)
    boxes, labels = np.concatenate([first.boxes, second.boxes]), np.concatenate([first.labels, second.labels])
    masks: Masks | None = None
    if first.masks is not None and second.masks is not None:
        masks = np.concatenate([first.masks, second.masks])
    return Transformed(np.asarray(image, np.uint8), boxes, labels, masks, first.scale, first.offset)
