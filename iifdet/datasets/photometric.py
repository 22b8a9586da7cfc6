"""Changes of colour: HSV through lookup tables, contrast, and the SSD paper's chain."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.resizing import Image

#: Largest relative change of hue, saturation and value.
HSV = (0.015, 0.7, 0.4)

Table = NDArray[np.uint8]

_LEVELS = np.arange(256, dtype=np.float64)
#: cv2 keeps the hue of 8-bit pictures as half degrees, 0…179.
_HUES = 180


def hsv_table(rng: np.random.Generator, limits: tuple[float, float, float]) -> Table:
    """Lookup table (1, 256, 3) for hue, saturation and value; three numbers are drawn whatever the limits.

    Args:
        limits: hue ± as a share of the circle, saturation and value ± as a share of themselves.
    """
    hue, saturation, value = (rng.uniform(-1, 1, 3) * np.asarray(limits)).tolist()
    return hsv_change(hue, 1 + saturation, 1 + value)


def hsv_change(hue: float = 0.0, saturation: float = 1.0, value: float = 1.0) -> Table:
    """Lookup table (1, 256, 3): hue turned by a share of the circle, saturation and value multiplied.

    Saturation 0 stays 0: grey has no colour that could grow.
    """
    columns = [(_LEVELS + hue * _HUES) % _HUES, _LEVELS * saturation, _LEVELS * value]
    return np.stack([_levels(column) for column in columns], axis=-1)[None]


def apply_hsv(image: Image, table: Table) -> Image:
    """(h, w, 3) RGB through a table of :func:`hsv_table`, as a new picture."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # One channel at a time: cv2's LUT with a table of three takes twice as long.
    planes = [cv2.LUT(plane, table[..., c].copy()) for c, plane in enumerate(cv2.split(hsv))]
    return np.asarray(cv2.cvtColor(cv2.merge(planes, dst=hsv), cv2.COLOR_HSV2RGB, dst=hsv), dtype=np.uint8)


def contrast_table(factor: float, middle: float = 128.0) -> Table:
    """Lookup table (256,): distance from ``middle`` multiplied.

    Example:
        >>> contrast_table(0.5)[[0, 128, 255]].tolist()
        [64, 128, 192]
    """
    return _levels(middle + factor * (_LEVELS - middle))


def brightness_table(factor: float) -> Table:
    """Lookup table (256,): every value multiplied."""
    return _levels(factor * _LEVELS)


def apply_table(image: Image, table: Table) -> Image:
    """(h, w, 3) through a table of one column, the same for each channel, as a new picture."""
    return np.asarray(cv2.LUT(image, table), dtype=np.uint8)


def distort(image: Image, rng: np.random.Generator) -> Image:
    """The SSD paper's photometric distortion (Liu et al. 2016, section 2.2, after Howard 2013), in the ranges of
    torchvision's references: brightness ×0.875–1.125, contrast ×0.5–1.5, saturation ×0.5–1.5, hue ±0.05, each with
    probability one half, contrast before or after the colours at random; then, with one half, channels in random order.
    """
    brightness, contrast = rng.uniform(0.875, 1.125), rng.uniform(0.5, 1.5)
    saturation, hue = rng.uniform(0.5, 1.5), rng.uniform(-0.05, 0.05)
    bright, contrasted, first, colourful, tinted, mixed = (rng.random(6) < 0.5).tolist()
    order = rng.permutation(3)
    if bright:
        image = apply_table(image, brightness_table(brightness))
    if contrasted and first:
        image = _contrast(image, contrast)
    if colourful or tinted:
        image = apply_hsv(image, hsv_change(hue if tinted else 0.0, saturation if colourful else 1.0))
    if contrasted and not first:
        image = _contrast(image, contrast)
    return np.ascontiguousarray(image[..., order]) if mixed else image


def _contrast(image: Image, factor: float) -> Image:
    """Contrast about the picture's mean grey."""
    return apply_table(image, contrast_table(factor, float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())))


def _levels(values: NDArray[np.float64]) -> Table:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
