"""``augment=paper``: eight chains of the IIF paper's experiments. The only place that knows albumentations."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np

from iifdet.datasets.affine import Matrix, about_middle, mirror, warp_piece
from iifdet.datasets.photometric import apply_table, contrast_table
from iifdet.datasets.pieces import MIN_SIDE, Piece, clip_boxes, short_sides
from iifdet.datasets.resizing import PAD, Image
from iifdet.datasets.transforms import EvalTransform, Transformed

#: Tries until a box is left.
TRIES = 10

Rng = np.random.Generator


class PaperTransform(EvalTransform):
    """Resize, then one of eight chains, evenly drawn; drawn again until at least one box is left.

    The chains and their ranges are those of the IIF paper's published experiments (there in imgaug). After TRIES
    without a box the picture is taken as it is. Where the source gives no grain for the coarse dropout, a cell of 1/20
    of the sides is used.
    """

    training = True

    def transform(self, piece: Piece, size: tuple[int, int], rng: Rng, centre: bool) -> Transformed:
        plain = self.fit(piece, size, centre)
        plain.boxes = clip_boxes(plain.boxes, *size)
        for _ in range(TRIES):
            image, matrix = CHAINS[int(rng.integers(len(CHAINS)))](plain.image, size, rng)
            moved = warp_piece(Piece(image, plain.boxes, plain.labels, plain.masks), matrix, size)
            if len(moved.boxes) or not len(piece.boxes):
                return _sample_of(moved, plain)
        return _sample_of(plain.keep(short_sides(plain.boxes) >= MIN_SIDE), plain)


def _sample_of(piece: Piece, plain: Transformed) -> Transformed:
    return Transformed(piece.image, piece.boxes, piece.labels, piece.masks, plain.scale, plain.offset)


def _contrast(image: Image, rng: Rng, low: float, high: float) -> Image:
    return apply_table(image, contrast_table(rng.uniform(low, high)))


def _still() -> Matrix:
    return np.eye(3)


def _maybe_mirror(size: tuple[int, int], rng: Rng) -> Matrix:
    return mirror(size[1]) if rng.random() < 0.5 else _still()


def contrast_flip(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """Contrast ×0.75–1.5, horizontal flip by one half."""
    return _contrast(image, rng, 0.75, 1.5), _maybe_mirror(size, rng)


def grey_move_y(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """10–90 % grey, moved by ±15 % of the height."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = rng.uniform(0.1, 0.9)
    mixed = np.asarray(cv2.addWeighted(grey, share, image, 1 - share, 0), dtype=np.uint8)
    return mixed, about_middle(size, move=(0, rng.uniform(-0.15, 0.15)))


def contrast_shear_x(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """Contrast ×0.6–1.4, sheared by ±10° along x."""
    return _contrast(image, rng, 0.6, 1.4), about_middle(size, shear=(rng.uniform(-10, 10), 0))


def blur_shear_y(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """Gaussian blur of sigma 0–1, sheared by ±10° along y."""
    return _pixels("blur 1", image, rng), about_middle(size, shear=(0, rng.uniform(-10, 10)))


def cutout_multiply_flip(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """One or two grey squares, brightness ×0.8–1.2 (a quarter of the time a channel each), flip by one half."""
    image = _pixels("cutout 2", image, rng)
    image = _pixels("multiply each" if rng.random() < 0.25 else "multiply", image, rng)
    return image, _maybe_mirror(size, rng)


def contrast_move_x(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """Contrast ×0.6–1.4, moved by ±25 % of the width."""
    return _contrast(image, rng, 0.6, 1.4), about_middle(size, move=(rng.uniform(-0.25, 0.25), 0))


def cutout_noise_scale(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """One to five grey squares, Gaussian noise of sigma 0–15 (half the time a channel each), scaled ×0.9–1.1."""
    image = _pixels("cutout 5", image, rng)
    image = _pixels("noise each" if rng.random() < 0.5 else "noise", image, rng)
    return image, about_middle(size, factor=rng.uniform(0.9, 1.1))


def dropout_blur_scale(image: Image, size: tuple[int, int], rng: Rng) -> tuple[Image, Matrix]:
    """Up to 5 % of coarse cells black, Gaussian blur of sigma 0–3, scaled ×0.8–1.2."""
    return _pixels("blur 3", _coarse_dropout(image, rng), rng), about_middle(size, factor=rng.uniform(0.8, 1.2))


#: picture, (H, W) -> changed picture and the matrix by which it then moves. Method.md's order.
CHAINS: tuple[Callable[[Image, tuple[int, int], Rng], tuple[Image, Matrix]], ...] = (
    contrast_flip,
    grey_move_y,
    contrast_shear_x,
    blur_shear_y,
    cutout_multiply_flip,
    contrast_move_x,
    cutout_noise_scale,
    dropout_blur_scale,
)


def _pixels(name: str, image: Image, rng: Rng) -> Image:
    """One of albumentations' steps that move nothing, seeded from ``rng``."""
    step = _steps()[name]
    step.set_random_seed(int(rng.integers(2**31)))
    return np.asarray(step(image=image)["image"], dtype=np.uint8)


@cache
def _steps() -> dict[str, Any]:
    # Without this it asks the network for a newer version at import.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A

    def cutout(most: int) -> Any:
        side = (0.1, 0.1)
        return A.CoarseDropout((1, most), hole_height_range=side, hole_width_range=side, fill=PAD, p=1)

    def noise(each: bool) -> Any:
        return A.GaussNoise(std_range=(0, 15 / 255), mean_range=(0, 0), per_channel=each, p=1)

    return {
        "blur 1": A.GaussianBlur(blur_limit=0, sigma_limit=(0, 1), p=1),
        "blur 3": A.GaussianBlur(blur_limit=0, sigma_limit=(0, 3), p=1),
        "cutout 2": cutout(2),
        "cutout 5": cutout(5),
        "multiply": A.MultiplicativeNoise((0.8, 1.2), per_channel=False, p=1),
        "multiply each": A.MultiplicativeNoise((0.8, 1.2), per_channel=True, p=1),
        "noise": noise(False),
        "noise each": noise(True),
    }


def _coarse_dropout(image: Image, rng: Rng) -> Image:
    height, width = image.shape[:2]
    kept = (rng.random((20, 20)) >= rng.uniform(0, 0.05)).astype(np.uint8)
    cells = np.asarray(cv2.resize(kept, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    return image * cells[..., None]
