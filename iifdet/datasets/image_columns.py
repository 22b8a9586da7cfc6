"""The images of a COCO or LVIS file as columns."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.columns import integers, whole_lists

_LARGEST_SIDE = 1_000_000


class ImageRow(msgspec.Struct, gc=False):
    """An image of the usual types. LVIS has ``coco_url`` where COCO has ``file_name``."""

    id: int
    height: int
    width: int
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None


class ImageColumns(NamedTuple):
    """N images as they stand in the file.

    Attributes:
        ids: (N,) int64, 0 where there is no whole number.
        valid: (N,) bool, whether there was one.
        names: N file names, None where there is no text.
        urls: N texts or None, likewise.
        sizes: (N, 2) int64 height and width.
        sized: (N,) bool, whether both make sense.
        negative, not_exhaustive: category ids of each image, empty lists where there are none.
        strangers: how many entries of the list are no objects; they have no row.
    """

    ids: NDArray[np.int64]
    valid: NDArray[np.bool_]
    names: list[str | None]
    urls: list[str | None]
    sizes: NDArray[np.int64]
    sized: NDArray[np.bool_]
    negative: list[list[int]]
    not_exhaustive: list[list[int]]
    strangers: int = 0

    @classmethod
    def from_structs(cls, rows: list[ImageRow]) -> ImageColumns:
        """Columns of decoded rows; OverflowError where a number is beyond int64."""
        lists = [[row.neg_category_ids or [] for row in rows], [row.not_exhaustive_category_ids or [] for row in rows]]
        np.fromiter(chain.from_iterable(chain(*lists)), np.int64)
        sizes = np.array([(row.height, row.width) for row in rows], dtype=np.int64).reshape(-1, 2)
        return cls(
            ids=np.array([row.id for row in rows], dtype=np.int64),
            valid=np.ones(len(rows), dtype=bool),
            names=[row.file_name or None for row in rows],
            urls=[row.coco_url or None for row in rows],
            sizes=sizes,
            sized=_sensible(sizes),
            negative=lists[0],
            not_exhaustive=lists[1],
        )

    @classmethod
    def from_objects(cls, entries: list[Any]) -> ImageColumns:
        """Columns of JSON objects, whatever they hold."""
        rows = [row for row in entries if type(row) is dict]
        ids, valid = integers(rows, "id")
        sides = [integers(rows, key) for key in ("height", "width")]
        sizes = np.stack([values for values, _ in sides], axis=1)
        whole = np.stack([known for _, known in sides], axis=1)
        return cls(
            ids=ids,
            valid=valid,
            names=[_text(row.get("file_name")) for row in rows],
            urls=[_text(row.get("coco_url")) for row in rows],
            sizes=sizes,
            sized=_sensible(np.where(whole, sizes, 0)),
            negative=whole_lists(rows, "neg_category_ids"),
            not_exhaustive=whole_lists(rows, "not_exhaustive_category_ids"),
            strangers=len(entries) - len(rows),
        )


def _sensible(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.logical_and.reduce((sizes > 0) & (sizes < _LARGEST_SIDE), axis=1).astype(np.bool_)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
