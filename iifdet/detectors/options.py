"""Checks of a model's own options. Each raises a ValueError that names the option: expected, got."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """A whole number of at least ``least``; None, which stands for a default, passes."""
    if value is not None and not (type(value) is int and value >= least):
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: Any, high: float = math.inf) -> None:
    """A finite number from 0 to ``high``, which is 1 or nothing."""
    if not (_is_number(value) and 0 <= value <= high):
        limits = "in [0, 1]" if high == 1 else ">= 0"
        raise ValueError(f"{name}: expected a number {limits}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """A finite number above 0; None, which stands for a default, passes."""
    if value is not None and not (_is_number(value) and value > 0):
        raise ValueError(f"{name}: expected a number above 0, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_switches(options: Mapping[str, Any]) -> None:
    """Booleans, and nothing that is only taken for one."""
    for name, value in options.items():
        if type(value) is not bool:
            raise ValueError(f"{name}: expected true or false, got {value!r}")


def check_sizes(min_size: Any, max_size: Any) -> None:
    """torchvision's sizes: whole pixels, of the shorter side also several to draw from."""
    several = isinstance(min_size, Sequence) and not isinstance(min_size, str)
    if several and not len(min_size):
        raise ValueError("min_size: expected a whole number of pixels or several, got none")
    for size in min_size if several else (min_size,):
        check_whole("min_size", size)
    check_whole("max_size", max_size)
