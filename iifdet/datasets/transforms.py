"""From an image of any size to a training or validation sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.affine import Matrix, RandomAffine, centre_matrix, fit_matrix, mirror, warp_boxes, warp_piece
from iifdet.datasets.photometric import HSV, apply_hsv, hsv_table
from iifdet.datasets.pieces import MIN_SIDE, Piece, clip_boxes, short_sides
from iifdet.datasets.resizing import RESIZES, Boxes, Image, Masks, Resized, Size, pair
from iifdet.errors import InputError, suggest


@dataclass(slots=True)
class Transformed(Piece):
    """One sample ready for collation.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) float32 xyxy in pixels of ``image``.
        labels: (n,) int64.
        masks: (n, H, W) uint8, or None.
        scale: (sx, sy) and offset: (dx, dy) of the resize; flips and affine moves are not in them.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


def sample_seed(seed: int, epoch: int, index: int, repeat: int = 0) -> int:
    """Seed of one sample: a hash of run seed, epoch and row, so that it does not matter which worker draws it.

    Example:
        >>> sample_seed(0, 1, 2) == sample_seed(0, 1, 2), sample_seed(0, 1, 2) == sample_seed(0, 2, 1)
        (True, False)
    """
    words = [value & 0xFFFFFFFF for value in ((seed, epoch, index, repeat) if repeat else (seed, epoch, index))]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class EvalTransform:
    """Resize and nothing else.

    Args:
        size: side of the square tensor, or (H, W).
        resize: ``letterbox`` or ``square``.
    """

    #: Whether samples are for training: then an image that cannot be read may give way to another.
    training: ClassVar[bool] = False

    def __init__(self, size: Size, resize: str = "letterbox") -> None:
        if resize not in RESIZES:
            raise InputError(f"resize: expected letterbox or square, got '{resize}'{suggest(resize, RESIZES)}")
        self.size = size
        self.resize = resize

    def content_shape(self, height: int, width: int) -> tuple[int, int]:
        """Shape that an image of this height and width has inside the tensor; a cache may keep it at that."""
        return RESIZES[self.resize][1](height, width, self.size)

    def __call__(
        self,
        image: Image,
        boxes: Boxes,
        labels: NDArray[np.int64],
        masks: Masks | None = None,
        seed: int = 0,
        *,
        size: Size | None = None,
        centre: bool = False,
    ) -> Transformed:
        """One sample.

        Args:
            image: (h, w, 3) uint8 RGB.
            boxes: (n, 4) xyxy in its pixels.
            labels: (n,).
            masks: (n, h, w) of 0 and 1.
            seed: of everything that is drawn.
            size: of this sample, where it is not the transform's own.
            centre: cut the middle out as it is instead of resizing; a mosaic is twice as large as the tensor.
        """
        piece = Piece(image, np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(labels, np.int64), masks)
        rng = np.random.default_rng(seed)
        return self.transform(piece, pair(self.size if size is None else size), rng, centre)

    def transform(self, piece: Piece, size: tuple[int, int], rng: np.random.Generator, centre: bool) -> Transformed:
        """What a subclass defines; ``size`` is (H, W) of the tensor."""
        return self.fit(piece, size, centre)

    def fit(self, piece: Piece, size: tuple[int, int], centre: bool = False) -> Transformed:
        """Bring a piece to the tensor's size, without anything drawn."""
        if centre:
            matrix = self.fit_matrix(piece, size, centre)
            return as_sample(warp_piece(piece, matrix, size), matrix)
        out: Resized = RESIZES[self.resize][0](piece.image, piece.boxes, size, masks=piece.masks)
        return Transformed(out.image, out.boxes, piece.labels, out.masks, out.scale, out.offset)

    def fit_matrix(self, piece: Piece, size: tuple[int, int], centre: bool = False) -> Matrix:
        """What :meth:`fit` does, as a matrix."""
        height, width = piece.image.shape[:2]
        return centre_matrix(height, width, size) if centre else fit_matrix(height, width, size, self.resize)


class TrainTransform(EvalTransform):
    """Resize, flip, affine moves and colours, all drawn from the seed of the call.

    Resize, move and flip are one matrix, and the pixels are sampled once.

    Args:
        size: side of the square tensor, or (H, W).
        resize: ``letterbox`` or ``square``.
        flip: probability of a horizontal flip.
        hsv: largest relative change of hue, saturation and value.
        affine: ``degrees``, ``translate``, ``scale``, ``shear``; missing ones are 0. None for
            :data:`~iifdet.datasets.affine.AFFINE`.
    """

    training = True

    def __init__(
        self,
        size: Size,
        resize: str = "letterbox",
        flip: float = 0.5,
        hsv: tuple[float, float, float] = HSV,
        affine: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(size, resize)
        self.flip, self.hsv, self.affine = flip, hsv, RandomAffine(affine)

    def transform(self, piece: Piece, size: tuple[int, int], rng: np.random.Generator, centre: bool) -> Transformed:
        # 1. Draw everything, always in this order.
        flipped, move, table = bool(rng.random() < self.flip), self.affine.draw(rng, size), hsv_table(rng, self.hsv)
        # 2. Colours where there are fewer pixels of them, before or after.
        height, width = piece.image.shape[:2]
        early = max(self.hsv) > 0 and height * width <= size[0] * size[1]
        if early:
            piece = Piece(apply_hsv(piece.image, table), piece.boxes, piece.labels, piece.masks)
        # 3. Geometry.
        out = self._moved(piece, size, move, flipped, centre) if self.affine.moves else self._still(piece, size, centre)
        if flipped and not self.affine.moves:
            out = flip_sample(out)
        if max(self.hsv) > 0 and not early:
            out.image = apply_hsv(out.image, table)
        return out

    def _moved(self, piece: Piece, size: tuple[int, int], move: Matrix, flipped: bool, centre: bool) -> Transformed:
        fit = self.fit_matrix(piece, size, centre)
        matrix = mirror(size[1]) @ move @ fit if flipped else move @ fit
        return as_sample(warp_piece(piece, matrix, size, cubic=self.resize == "square"), fit)

    def _still(self, piece: Piece, size: tuple[int, int], centre: bool) -> Transformed:
        out = self.fit(piece, size, centre)
        boxes = clip_boxes(out.boxes, *size)
        rows = short_sides(boxes) >= MIN_SIDE
        return replace(
            out, boxes=boxes[rows], labels=out.labels[rows], masks=None if out.masks is None else out.masks[rows]
        )


def as_sample(piece: Piece, fit: Matrix) -> Transformed:
    """A piece at the tensor's size; ``fit`` is the resize in what was done to it."""
    scale, offset = (float(fit[0, 0]), float(fit[1, 1])), (float(fit[0, 2]), float(fit[1, 2]))
    return Transformed(piece.image, piece.boxes, piece.labels, piece.masks, scale, offset)


def flip_sample(out: Transformed) -> Transformed:
    """Left becomes right."""
    masks = None if out.masks is None else np.ascontiguousarray(out.masks[..., ::-1])
    image = np.asarray(cv2.flip(out.image, 1), np.uint8)
    return replace(out, image=image, boxes=warp_boxes(out.boxes, mirror(image.shape[1])), masks=masks)
