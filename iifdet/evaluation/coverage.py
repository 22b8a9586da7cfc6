"""Whether an evaluation saw each image of its split once, and really saw it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from iifdet.types import ImageInfo

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


def count_unread(infos: Iterable[ImageInfo]) -> int:
    """How many images are grey ones in place of files that cannot be read."""
    return sum(not info.readable for info in infos)


def unread_notices(unread: int, images: int) -> tuple[str, ...]:
    """What a reader of the figures should know about files that could not be read.

    Example:
        >>> unread_notices(2, 40)
        ('2 of 40 images could not be read: grey ones were scored in their place; iifdet check names them',)
    """
    said = f"{unread} of {images} images could not be read: grey ones were scored in their place"
    return (f"{said}; iifdet check names them",) if unread else ()
