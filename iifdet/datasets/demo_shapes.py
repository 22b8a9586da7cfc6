"""Outlines for the demo data: ten pairs of look-alikes. Each function gives (P, 2) points about the unit circle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]


def polar(radius: NDArray[np.float64], angle: NDArray[np.float64]) -> Outline:
    """Points from polar coordinates; angle 0 points up."""
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def circle(radius: float = 1.0, points: int = 40) -> Outline:
    """A closed circle: its last point is its first, so that a hole can be joined on."""
    angle = np.linspace(0, 2 * np.pi, points + 1)
    return polar(np.full(points + 1, radius), angle)


def regular(corners: int) -> Outline:
    """A regular polygon."""
    return circle(points=corners)[:-1]


def star(corners: int, inner: float = 0.45) -> Outline:
    """A star with this many tips."""
    angle = np.arange(2 * corners) * np.pi / corners
    return polar(np.where(np.arange(2 * corners) % 2, inner, 1.0), angle)


def ring(hole: float) -> Outline:
    """A disc with a hole, as one outline that walks in through a seam: COCO polygons know no holes."""
    return np.concatenate([circle(), circle(hole)[::-1]])


def trapezoid(top: float) -> Outline:
    """A square whose upper side is shortened to this share."""
    return np.array([[-0.8 * top, -0.8], [0.8 * top, -0.8], [0.8, 0.8], [-0.8, 0.8]])


def plus(arm: float) -> Outline:
    """A plus sign with arms of this half width."""
    corner = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
    quarter = np.array([[0, 1], [-1, 0]])
    return np.concatenate([corner @ np.linalg.matrix_power(quarter, k) for k in range(4)])


def arrow(stem: float) -> Outline:
    """A triangle on a stem of this half width."""
    return np.array([[0, -1], [0.9, 0.2], [stem, 0.2], [stem, 1], [-stem, 1], [-stem, 0.2], [-0.9, 0.2]])


def gear(teeth: int, sharp: float) -> Outline:
    """A wheel with teeth: soft waves for small ``sharp``, square teeth for a large one."""
    angle = np.linspace(0, 2 * np.pi, 12 * teeth, endpoint=False)
    wave = np.tanh(sharp * np.cos(teeth * angle)) / np.tanh(sharp)
    return polar(0.82 + 0.18 * wave, angle)


def crescent(bite: float) -> Outline:
    """A disc with a circle of radius 0.85 bitten out of its side; ``bite`` says how far to the side."""
    # Where the unit circle meets the biting one: x = (1 + bite² - 0.85²) / (2 bite).
    x = (1 + bite**2 - 0.85**2) / (2 * bite)
    outer, inner = np.arccos(x), np.arccos((x - bite) / 0.85)
    far = np.linspace(outer, 2 * np.pi - outer, 36)
    near = np.linspace(2 * np.pi - inner, inner, 24)
    body = np.stack([np.cos(far), np.sin(far)], axis=1)
    cut = np.stack([bite + 0.85 * np.cos(near), 0.85 * np.sin(near)], axis=1)
    return np.concatenate([body, cut])


def letter(bar: float) -> Outline:
    """An L whose foot starts at the stem (``bar`` 0) or reaches across it like an upturned T (``bar`` 0.6)."""
    stem = [[-0.2, -1], [0.2, -1], [0.2, 0.5]]
    foot = [[0.9, 0.5], [0.9, 1], [-0.2 - bar, 1], [-0.2 - bar, 0.5], [-0.2, 0.5]]
    return np.array(stem + foot)


def bean(square: float) -> Outline:
    """A long rounded body: an ellipse (exponent 1) or a capsule-like one (exponent 0.4)."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([0.55 * np.sign(sin) * abs(sin) ** square, np.sign(cos) * abs(cos) ** square], axis=1)


#: Pairs of look-alikes. Which of the two is common and which is rare, and how common, is drawn by lot.
PAIRS: list[tuple[tuple[str, Callable[[], Outline]], tuple[str, Callable[[], Outline]]]] = [
    (("star5", partial(star, 5)), ("star6", partial(star, 6))),
    (("square", partial(trapezoid, 1.0)), ("trapezoid", partial(trapezoid, 0.6))),
    (("ring", partial(ring, 0.65)), ("washer", partial(ring, 0.3))),
    (("plus", partial(plus, 0.42)), ("cross", partial(plus, 0.2))),
    (("arrow", partial(arrow, 0.45)), ("dart", partial(arrow, 0.15))),
    (("pentagon", partial(regular, 5)), ("hexagon", partial(regular, 6))),
    (("gear", partial(gear, 7, 6.0)), ("flower", partial(gear, 7, 0.5))),
    (("moon", partial(crescent, 0.55)), ("cookie", partial(crescent, 1.1))),
    (("letter_l", partial(letter, 0.0)), ("letter_t", partial(letter, 0.6))),
    (("ellipse", partial(bean, 1.0)), ("capsule", partial(bean, 0.35))),
]
