"""Turn a list of JSON objects into numpy columns, value by value: one odd value spoils nothing but itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
#: Larger numbers are taken for nonsense, in every way of reading: sums of two must stay finite.
LARGEST = 1e300


def integers(rows: list[Row], key: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Column of whole numbers.

    Returns:
        (M,) int64, 0 where there is none, and (M,) bool, whether there is one.

    Example:
        >>> integers([{"id": 3}, {"id": "x"}, {}], "id")[0].tolist()
        [3, 0, 0]
    """
    values = [_integer(row.get(key)) for row in rows]
    valid = np.array([value is not None for value in values], dtype=bool)
    return np.array([value or 0 for value in values], dtype=np.int64), valid


def numbers(rows: list[Row], key: str) -> NDArray[np.float64]:
    """Column of numbers, NaN where there is none."""
    return np.array([_number(row.get(key)) for row in rows], dtype=np.float64)


def number_rows(rows: list[Row], key: str, width: int) -> NDArray[np.float64]:
    """Column of lists of ``width`` numbers, (M, width); NaN all along where a list is not that."""
    return np.array([_numbers(row.get(key), width) for row in rows], dtype=np.float64).reshape(-1, width)


def whole_lists(rows: list[Row], key: str) -> list[list[int]]:
    """Column of lists of whole numbers; what is none is left out."""
    lists = [row.get(key) for row in rows]
    found = [[_integer(v) for v in values] if isinstance(values, list) else [] for values in lists]
    return [[v for v in values if v is not None] for values in found]


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return float("nan")
    return float(value) if abs(value) < LARGEST else float("nan")


def _numbers(value: Any, width: int) -> list[float]:
    nothing = [float("nan")] * width
    return [_number(v) for v in value] if isinstance(value, list) and len(value) == width else nothing
