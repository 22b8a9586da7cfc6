"""What Fixed AP looks at (Dave et al. 2021): the best detections of each class, however many lie in one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from iifdet.errors import InputError
from iifdet.evaluation.engine import Array
from iifdet.files import atomic_write

#: Detections of a class that count.
FIXED = 10_000
#: Where a run keeps them.
FIXED_FILE = "fixed_ap.npz"
#: Rows that may pile up before the worst are dropped, beside twice what can stay.
SLACK = 500_000


@dataclass
class BestOfClasses:
    """The best ``limit`` rows of each class out of any number, in the memory of a few times that many.

    Rows are (n, 7) ``[image_id, x, y, w, h, score, category_id]``.
    """

    limit: int = FIXED
    parts: list[Array] = field(default_factory=list)
    held: int = 0
    kept: int = 0

    def add(self, rows: Array) -> None:
        """Take rows in."""
        self.parts.append(rows)
        self.held += len(rows)
        if self.held > 2 * self.kept + SLACK:
            self.rows()

    def rows(self) -> Array:
        """(n, 7), class by class, best first; equal scores in the order in which they came."""
        rows = np.concatenate([np.zeros((0, 7)), *self.parts])
        rows = rows[np.lexsort((-rows[:, 5], rows[:, 6]))]
        _, first, count = np.unique(rows[:, 6], return_index=True, return_counts=True)
        rank = np.arange(len(rows)) - np.repeat(first, count)
        rows = rows[rank < self.limit]
        self.parts, self.held, self.kept = [rows], len(rows), len(rows)
        return rows


def save_fixed(folder: Path, rows: Array | None) -> None:
    """Write them into a run folder; None removes those of an earlier run."""
    path = folder / FIXED_FILE
    if rows is None:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        np.savez_compressed(file, detections=rows)


def read_fixed(folder: Path) -> Array | None:
    """(n, 7), or None where a run has not kept them.

    Raises:
        InputError: there is a file that cannot be read.
    """
    path = folder / FIXED_FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            rows = np.asarray(content["detections"], float)
    except Exception as error:  # zip, zlib, numpy and keys fail in ways of their own
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected detections, got {reason}; run iifdet val fixed_ap=true again") from error
    if rows.ndim != 2 or rows.shape[1] != 7:
        raise InputError(f"{path}: expected (n, 7) detections, got {rows.shape}; run iifdet val fixed_ap=true again")
    return rows
