"""Whether an evaluation saw each image of its split once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def find_gap(seen: Ids, known: Ids, partial: bool) -> tuple[str, Ids] | None:
    """What is wrong and with which images, or None.

    Args:
        seen: ids of the images that were fed.
        known: ids of the split's images.
        partial: images may be missing.
    """
    found, times = np.unique(seen, return_counts=True)
    problems = {"came more than once": found[times > 1], "are not of this split": np.setdiff1d(found, known)}
    if not partial:
        problems["are missing"] = np.setdiff1d(known, found)
    return next(((problem, ids) for problem, ids in problems.items() if len(ids)), None)
