"""Learned augmentation policies (AutoAugment, Cubuk et al., CVPR 2019) on batches of uint8 images.

Images that get the same operation at the same strength are done together: few kernels a batch, and each operation is
torchvision's own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

#: (operation, probability, strength from 0 to 9).
Step = tuple[str, float, int]
#: Levels of strength.
LEVELS = 10
#: Grey, what comes in from outside when an image is moved.
FILL = [128.0, 128.0, 128.0]

CIFAR10: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)

#: ``auto_augment`` -> sub-policies of two steps each.
POLICIES = {"cifar10": CIFAR10}


def apply_policy(images: Tensor, policy: tuple[tuple[Step, Step], ...], numbers: Tensor) -> Tensor:
    """One sub-policy an image, its two steps one after the other; (B, 3, H, W) uint8, same shape out.

    Args:
        numbers: (B, 5) in [0, 1) on the CPU: which sub-policy; of each step whether it acts, and its sign.
    """
    drawn = numbers.numpy()
    chosen = (drawn[:, 0] * len(policy)).astype(np.int64)
    images = images.clone()
    for turn in (0, 1):
        acts, minus = drawn[:, 1 + 2 * turn], drawn[:, 2 + 2 * turn] < 0.5
        for (name, level, down), rows in _groups([steps[turn] for steps in policy], chosen, acts, minus).items():
            picked = torch.from_numpy(np.concatenate(rows)).to(images.device, non_blocking=True)
            images[picked] = operate(images[picked], name, level, down)
    return images


Rows = NDArray[np.int64]


def _groups(
    steps: list[Step], chosen: Rows, acts: NDArray[Any], minus: NDArray[np.bool_]
) -> dict[tuple[str, int, bool], list[Rows]]:
    """(operation, strength, direction) -> rows of the images that get it."""
    groups: dict[tuple[str, int, bool], list[Rows]] = defaultdict(list)
    for number, (name, probability, level) in enumerate(steps):
        own = (chosen == number) & (acts < probability)
        for down in (False, True):
            rows = np.flatnonzero(own & (minus == down))
            if len(rows):
                groups[name, level, down and name in SIGNED].append(rows)
    return groups


def operate(images: Tensor, name: str, level: int, minus: bool = False) -> Tensor:
    """One operation on all images; (B, 3, H, W) uint8, same shape out.

    Args:
        name: key of OPERATIONS.
        level: strength from 0 to 9; some operations have none.
        minus: the other direction, where the operation is one of SIGNED.
    """
    return OPERATIONS[name](images, level / (LEVELS - 1) * (-1 if minus else 1))


def _affine(images: Tensor, *, x: int = 0, y: int = 0, shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    # The corner stays where it is under a shear, as in PIL and in torchvision's transforms.
    center = [0.0, 0.0] if any(shear) else None
    degrees = [math.degrees(math.atan(s)) for s in shear]
    nearest = InterpolationMode.NEAREST
    return tv.affine(images, 0.0, [x, y], 1.0, degrees, interpolation=nearest, fill=FILL, center=center)


def _translate(images: Tensor, strength: float, *, across: bool) -> Tensor:
    pixels = int(strength * 150 / 331 * images.shape[-1 if across else -2])
    return _affine(images, x=pixels) if across else _affine(images, y=pixels)


def _shear(images: Tensor, strength: float, *, across: bool) -> Tensor:
    return _affine(images, shear=(0.3 * strength, 0.0) if across else (0.0, 0.3 * strength))


def _rotate(images: Tensor, strength: float) -> Tensor:
    return tv.rotate(images, 30 * strength, interpolation=InterpolationMode.NEAREST, fill=FILL)


#: name -> (images, strength from -1 to 1) -> images.
OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shear_x": partial(_shear, across=True),
    "shear_y": partial(_shear, across=False),
    "translate_x": partial(_translate, across=True),
    "translate_y": partial(_translate, across=False),
    "rotate": _rotate,
    "brightness": lambda images, strength: tv.adjust_brightness(images, 1 + 0.9 * strength),
    "color": lambda images, strength: tv.adjust_saturation(images, 1 + 0.9 * strength),
    "contrast": lambda images, strength: tv.adjust_contrast(images, 1 + 0.9 * strength),
    "sharpness": lambda images, strength: tv.adjust_sharpness(images, 1 + 0.9 * strength),
    "posterize": lambda images, strength: tv.posterize(images, 8 - round(4 * strength)),
    "solarize": lambda images, strength: tv.solarize(images, 255 * (1 - strength)),
    "autocontrast": lambda images, _: tv.autocontrast(images),
    "equalize": lambda images, _: tv.equalize(images),
    "invert": lambda images, _: tv.invert(images),
}

#: Operations that go in either direction.
SIGNED = frozenset(
    ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness"]
)
