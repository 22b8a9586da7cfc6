"""What Fixed AP looks at (Dave et al. 2021): the best detections of each class, however many lie in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.errors import InputError
from iifdet.evaluation.engine import Array
from iifdet.evaluation.masks import RLE
from iifdet.files import atomic_write

#: Detections of a class that count.
FIXED = 10_000
#: Where a run keeps them.
FIXED_FILE = "fixed_ap.npz"
#: Rows that may pile up before the worst are dropped, beside twice what can stay; with masks, which take ten times as
#: much memory, a tenth of it.
SLACK = 500_000


@dataclass(frozen=True)
class Unlimited:
    """Detections of a split without a limit on an image.

    Attributes:
        rows: (n, 7) ``[image_id, x, y, w, h, score, category_id]``.
        masks: one a row, COCO run lengths of the original image; None for boxes alone.
    """

    rows: Array
    masks: list[RLE] | None = None


@dataclass
class BestOfClasses:
    """The best ``limit`` detections of each class out of any number, in the memory of a few times that many.

    All that is added has masks, or nothing has.
    """

    limit: int = FIXED
    parts: list[Array] = field(default_factory=list)
    masks: list[NDArray[np.object_]] = field(default_factory=list)
    held: int = 0
    kept: int = 0

    def add(self, rows: Array, masks: Sequence[RLE] | None = None) -> None:
        """Take detections in."""
        self.parts.append(rows)
        if masks is not None:
            self.masks.append(_objects(masks))
        self.held += len(rows)
        if self.held > 2 * self.kept + (SLACK // 10 if self.masks else SLACK):
            self.best()

    def best(self) -> Unlimited:
        """Class by class, best first; equal scores in the order in which they came."""
        rows = np.concatenate([np.zeros((0, 7)), *self.parts])
        order = np.lexsort((-rows[:, 5], rows[:, 6]))
        _, first, count = np.unique(rows[order, 6], return_index=True, return_counts=True)
        order = order[np.arange(len(rows)) - np.repeat(first, count) < self.limit]
        rows = rows[order]
        self.parts, self.held, self.kept = [rows], len(rows), len(rows)
        if not self.masks:
            return Unlimited(rows)
        self.masks = [np.concatenate(self.masks)[order]]
        return Unlimited(rows, self.masks[0].tolist())


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def save_fixed(folder: Path, found: Unlimited | None) -> None:
    """Write them into a run folder; None removes those of an earlier run."""
    path = folder / FIXED_FILE
    if found is None:
        path.unlink(missing_ok=True)
        return
    columns = {"detections": found.rows, **({} if found.masks is None else _mask_columns(found.masks))}
    with atomic_write(path) as file:
        np.savez_compressed(file, **columns)


def _mask_columns(masks: list[RLE]) -> dict[str, Any]:
    """Sizes, and all run lengths as one line of bytes with the places where each ends."""
    counts = [mask["counts"].encode("ascii") for mask in masks]
    return {
        "mask_sizes": np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2),
        "mask_ends": np.cumsum([len(c) for c in counts], dtype=np.int64),
        "mask_counts": np.frombuffer(b"".join(counts), np.uint8),
    }


def read_fixed(folder: Path) -> Unlimited | None:
    """What :func:`save_fixed` wrote, or None where a run has not kept it.

    Raises:
        InputError: there is a file that cannot be read.
    """
    path = folder / FIXED_FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            return _from_columns({key: content[key] for key in content.files})
    except Exception as error:  # zip, zlib, numpy and keys fail in ways of their own
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected detections, got {reason}; run iifdet val fixed_ap=true again") from error


def _from_columns(columns: dict[str, Any]) -> Unlimited:
    rows = np.asarray(columns["detections"], float)
    if rows.ndim != 2 or rows.shape[1] != 7:
        raise ValueError(f"{rows.shape} instead of (n, 7)")
    if "mask_counts" not in columns:
        return Unlimited(rows)
    sizes, ends = columns["mask_sizes"], columns["mask_ends"]
    if sizes.shape != (len(rows), 2) or ends.shape != (len(rows),):
        raise ValueError(f"{len(rows)} detections with {len(ends)} masks")
    line = columns["mask_counts"].tobytes().decode("ascii")
    starts = [0, *ends[:-1].tolist()]
    texts = [line[start:end] for start, end in zip(starts, ends.tolist(), strict=False)]
    return Unlimited(rows, [{"size": size, "counts": c} for size, c in zip(sizes.tolist(), texts, strict=True)])
