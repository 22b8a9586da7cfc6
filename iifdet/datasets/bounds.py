"""Paths that data files name stay inside the data set: a foreign annotation file must not make a run read other files.

What a user writes into a data description is theirs to choose, so each of its places may be read: the folder ``path``,
the folders of images, the folder of a list. What stands *in* the files there (``file_name``, lines of lists) may not
lead out of them. Links are not followed for this: a link inside the folder is the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from iifdet.datasets.description import DataDescription, Split
from iifdet.errors import InputError


def allowed_folders(description: DataDescription, split: Split) -> list[str] | None:
    """Folders that the split's files may lie in; None where ``allow_outside`` lets them lie anywhere."""
    if description.allow_outside:
        return None
    parts = [folder for part in split.parts for folder in (part.path, part.images, part.annotations) if folder]
    places = [place if place.is_dir() else place.parent for place in split.images]
    return [os.path.abspath(folder) for folder in (description.root, *places, *parts)]


def refuse_outside(files: Iterable[str], allowed: list[str] | None, source: str | Path, key: str) -> None:
    """Refuse the first file that lies in none of the folders.

    Args:
        files: paths with ``..`` resolved.
        source: the data file that names them.
        key: where in it.

    Raises:
        InputError: one lies outside.
    """
    if allowed is None:
        return
    inside = tuple(folder.rstrip(os.sep) + os.sep for folder in allowed)
    for file in files:
        if not file.startswith(inside) and not os.path.abspath(file).startswith(inside):
            raise InputError(
                f"{source}: {key}: expected files inside {allowed[0]}, got {file}; "
                "correct it, or set allow_outside=true if you trust this file"
            )
