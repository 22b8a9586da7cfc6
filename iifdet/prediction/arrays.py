"""Pictures that a program holds in memory, as (H, W, 3) uint8 RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor

from iifdet.datasets import ImageError, read_image
from iifdet.errors import InputError

Image = NDArray[np.uint8]
#: What :func:`as_image` understands.
KINDS = (np.ndarray, Tensor, Pillow.Image)


def as_image(value: Any) -> Image:
    """One picture of any of KINDS.

    Everything is RGB, as everywhere in iifdet; what ``cv2.imread`` gives is BGR and wants ``image[..., ::-1]``.

    Args:
        value: numpy (H, W, 3), (H, W, 4), (H, W, 1) or (H, W); a tensor (3, H, W), (4, H, W) or (1, H, W); a PIL image,
            whose EXIF orientation is applied. uint8, uint16 (the upper 8 bits count), or floats in [0, 1]. Grey becomes
            RGB, an alpha channel is dropped.

    Raises:
        InputError: another type, shape or range.

    Example:
        >>> as_image(np.full((1, 2), 0.5)).tolist()
        [[[128, 128, 128], [128, 128, 128]]]
    """
    if isinstance(value, Pillow.Image):
        return _of_array(_of_pillow(value), "a PIL image")
    if isinstance(value, Tensor):
        if value.ndim != 3:
            raise InputError(f"source: expected a tensor (3, H, W), got {tuple(value.shape)}")
        return _of_array(value.detach().cpu().permute(1, 2, 0).numpy(), "a tensor (3, H, W)")
    return _of_array(np.asarray(value), "an array (H, W, 3)")


def read_picture(path: str) -> Image:
    """(H, W, 3) uint8 RGB of an image file, or of a GIF of one frame, which not every OpenCV reads.

    Raises:
        ImageError: as :func:`iifdet.datasets.read_image`.
    """
    if not path.lower().endswith(".gif"):
        return read_image(path)
    try:
        with Pillow.open(path) as image:
            return as_image(image)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {error}") from error


def _of_pillow(image: Pillow.Image) -> NDArray[Any]:
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("L", "RGB", "RGBA", "I;16", "I;16B", "I;16L"):
            return np.asarray(image)
        if image.mode == "I":  # what some versions of Pillow make of a 16-bit file
            return np.asarray(image).clip(0, 65535).astype(np.uint16)
        return np.asarray(image.convert("RGB"))
    except OSError as error:  # Pillow reads lazily: the file may be cut short
        raise InputError(f"source: expected a readable PIL image, got one that is not ({error})") from error


def _of_array(pixels: NDArray[Any], what: str) -> Image:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise InputError(f"source: expected {what} with 1, 3 or 4 channels, got the shape {pixels.shape}")
    pixels = _to_bytes(pixels)
    pixels = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return np.ascontiguousarray(pixels)


def _to_bytes(pixels: NDArray[Any]) -> Image:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype.kind != "f":
        raise InputError(f"source: expected uint8, uint16 or floats in [0, 1], got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"source: expected floats in [0, 1], got {low:g} to {high:g}; divide by 255 or give uint8")
    return (pixels * 255).round().astype(np.uint8)
