"""The annotations of a COCO file as columns, collected piece by piece."""

from __future__ import annotations

import json
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.columns import LARGEST, integers, number_rows, numbers
from iifdet.datasets.mask_store import Growing, MaskStore
from iifdet.datasets.segments import Segments, pack, pack_decoded

_ODD = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


class _Box(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


class _BoxWithMask(_Box, gc=False):
    segmentation: list[list[float]] | dict[str, Any] | None = None


class BoxColumns(NamedTuple):
    """M annotations as they stand in the file, nothing judged.

    Attributes:
        ids, image_ids, category_ids: (M,) int64, 0 where there is no whole number.
        valid: (M, 3) bool, whether there was one, in that order.
        bbox: (M, 4) float64 x, y, width, height; NaN all along where it is not four numbers.
        areas: (M,) float64, NaN where there is none.
        crowd: (M,) bool.
        segments: masks, one slot an annotation; None where they were not asked for.
        bad_masks: annotations whose mask makes no sense.
        strangers: how many entries of the list are no objects; they have no row.
    """

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    valid: NDArray[np.bool_]
    bbox: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segments: Segments | None
    bad_masks: list[int]
    strangers: int


class BoxTable:
    """Grows by pieces of the list of annotations."""

    def __init__(self, segments: bool = True) -> None:
        self._masks = MaskStore() if segments else None
        self._decoder: Any = msgspec.json.Decoder(list[_BoxWithMask] if segments else list[_Box])
        self._keys = Growing(np.int64, 3)  # id, image id, category id
        self._valid = Growing(np.bool_, 3)
        self._numbers = Growing(np.float64, 5)  # bbox, area
        self._crowd = Growing(np.bool_)
        self._strangers = 0

    def add_text(self, text: bytes) -> bool:
        """Take a JSON list of annotations; False, and nothing taken, where that is no complete JSON."""
        try:
            rows: list[Any] = self._decoder.decode(text)
            keys = np.stack([_column(rows, key, np.int64) for key in ("id", "image_id", "category_id")], axis=1)
            crowd = _column(rows, "iscrowd", np.int64) == 1
        except _ODD:
            return self._add_tolerantly(text)
        values = np.empty((len(rows), 5))
        values[:, :4] = np.fromiter(
            chain.from_iterable(map(attrgetter("bbox"), rows)), np.float64, 4 * len(rows)
        ).reshape(-1, 4)
        values[:, 4] = [np.nan if row.area is None else row.area for row in rows]
        large = np.abs(values) >= LARGEST
        if large.any():
            return self._add_tolerantly(text)
        if self._masks is not None:
            self._masks.add(pack_decoded([row.segmentation for row in rows]))
        self._extend(keys, np.ones((len(rows), 3), dtype=np.bool_), values, crowd)
        return True

    def add_objects(self, entries: list[Any]) -> None:
        """Take decoded annotations, whatever they are."""
        rows = [row for row in entries if type(row) is dict]
        self._strangers += len(entries) - len(rows)
        keys = [integers(rows, key) for key in ("id", "image_id", "category_id")]
        values = np.concatenate([number_rows(rows, "bbox", 4), numbers(rows, "area")[:, None]], axis=1)
        if self._masks is not None:
            self._masks.add(pack([row.get("segmentation") for row in rows]))
        whole = np.stack([whole_numbers for whole_numbers, _ in keys], axis=1)
        valid = np.stack([known for _, known in keys], axis=1)
        self._extend(whole, valid, values, integers(rows, "iscrowd")[0] == 1)

    def columns(self) -> BoxColumns:
        """Everything taken so far."""
        keys, values = self._keys.array(), self._numbers.array()
        return BoxColumns(
            ids=np.ascontiguousarray(keys[:, 0]),
            image_ids=np.ascontiguousarray(keys[:, 1]),
            category_ids=np.ascontiguousarray(keys[:, 2]),
            valid=self._valid.array(),
            bbox=values[:, :4],
            areas=values[:, 4],
            crowd=self._crowd.array(),
            segments=None if self._masks is None else self._masks.segments(),
            bad_masks=[] if self._masks is None else self._masks.bad,
            strangers=self._strangers,
        )

    def _add_tolerantly(self, text: bytes) -> bool:
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            return False
        self.add_objects(entries)
        return True

    def _extend(
        self, keys: NDArray[Any], valid: NDArray[np.bool_], values: NDArray[np.float64], crowd: NDArray[np.bool_]
    ) -> None:
        self._keys.extend(keys)
        self._valid.extend(valid)
        self._numbers.extend(values)
        self._crowd.extend(crowd)


def _column(rows: list[Any], key: str, dtype: type[Any]) -> NDArray[Any]:
    return np.fromiter(map(attrgetter(key), rows), dtype, len(rows))
