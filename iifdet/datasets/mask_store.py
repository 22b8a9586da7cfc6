"""Collect the masks of a big file piece by piece, with one copy of the points and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.segments import RLE, SHARED_FROM, UNIT, Packed, Segments

_COARSEST = 2**31 / UNIT


class Growing:
    """Rows of one array that grows in place: lists of pieces would need twice the memory when they are joined."""

    def __init__(self, dtype: type[Any], width: int | None = None) -> None:
        self._rows: NDArray[Any] = np.empty((0,) if width is None else (0, width), dtype)
        self._used = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._rows.dtype

    def extend(self, rows: NDArray[Any]) -> None:
        """Append rows; the array's memory is moved by the system, not copied."""
        end = self._used + len(rows)
        if end > len(self._rows):
            self._resize(end + end // 8)
        self._rows[self._used : end] = rows
        self._used = end

    def array(self) -> NDArray[Any]:
        """The rows so far, without the slack; later rows do not reach it."""
        self._resize(self._used)
        return self._rows

    def _resize(self, length: int) -> None:
        self._rows.resize((length, *self._rows.shape[1:]), refcheck=False)


class MaskStore:
    """Takes :class:`Packed` masks in file order; :meth:`segments` makes them one Segments.

    Points are kept as int32 hundredths of a pixel while every one of them is exactly that. Few of them end as float64
    all the same.
    """

    def __init__(self) -> None:
        self._points = Growing(np.int32, 2)
        self._lengths, self._counts = Growing(np.int64), Growing(np.int64)
        self._rles: dict[int, RLE] = {}
        self.bad: list[int] = []
        self._slots = 0

    def add(self, packed: Packed) -> None:
        """Append the masks of the next boxes."""
        hundredths = _hundredths(packed.points) if self._points.dtype == np.int32 else None
        if hundredths is None and self._points.dtype == np.int32:
            self._widen()
        self._points.extend(packed.points if hundredths is None else hundredths)
        self._lengths.extend(packed.lengths)
        self._counts.extend(packed.counts)
        self._rles |= {self._slots + box: rle for box, rle in packed.rles.items()}
        self.bad += [self._slots + box for box in packed.bad]
        self._slots += len(packed.counts)

    def segments(self) -> Segments:
        """All masks, slot by slot in the order they came."""
        rings, parts = (np.zeros(len(g.array()) + 1, np.int64) for g in (self._lengths, self._counts))
        np.cumsum(self._lengths.array(), out=rings[1:])
        np.cumsum(self._counts.array(), out=parts[1:])
        if self._points.dtype == np.int32 and len(self._points.array()) < SHARED_FROM:
            self._widen()
        return Segments(self._points.array(), rings, parts, self._rles)

    def _widen(self) -> None:
        wide = Growing(np.float64, 2)
        wide.extend(self._points.array() / UNIT)
        self._points = wide


def _hundredths(points: NDArray[np.float64]) -> NDArray[np.int32] | None:
    """The same points as int32 hundredths, or None where one of them is not exactly that."""
    scaled = points * UNIT
    np.rint(scaled, out=scaled)
    if len(points) and (np.abs(scaled).max() >= _COARSEST or np.signbit(scaled[scaled == 0]).any()):
        return None
    whole = scaled.astype(np.int32)
    return whole if np.array_equal(np.divide(whole, UNIT, out=scaled), points) else None
