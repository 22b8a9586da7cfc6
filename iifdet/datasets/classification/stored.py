"""What all readers of label files do: keep what can be used, note what cannot."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import numpy as np

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ClassIndex, StoredImages
from iifdet.datasets.classification.stores import Store
from iifdet.datasets.index import Problem
from iifdet.errors import InputError

#: Reasons of what is dropped.
MISSING = "missing image file"
OUT_OF_RANGE = "class out of range"
UNKNOWN_FOLDER = "folder of an unknown class"
EMPTY_FOLDER = "folder of a class without images"
UNKNOWN_CATEGORY = "unknown category id"
UNLABELLED = "image without annotation"
SEVERAL_LABELS = "image with several annotations"
TWICE = "duplicate image id"


def inside(file: str, folder: str, where: str, allow_outside: bool) -> str:
    """The name of a file in the store, ``folder`` in front of it.

    Raises:
        InputError: it would lead out of the store: a foreign list must not make a run read other files.
    """
    name = posixpath.normpath(posixpath.join(folder, file))
    out = posixpath.isabs(file) or name.split("/")[0] == ".."
    if "\0" in name or (out and not allow_outside):
        raise InputError(
            f"{where}: expected a file inside the data set, got {file!r}; correct it, or set allow_outside=true if you "
            "trust this file"
        )
    return name


def index_of(
    description: ClassDescription,
    store: Store,
    names: Sequence[str],
    files: Sequence[str],
    labels: Sequence[int],
    problems: Sequence[Problem],
) -> ClassIndex:
    """The index of the files that are there; the others join the problems."""
    missing = store.missing(files)
    gone = [Problem(str(store.path / files[row]), "image", MISSING) for row in missing]
    kept = np.setdiff1d(np.arange(len(files)), missing)
    images = StoredImages(store, [files[row] for row in kept.tolist()])
    chosen = np.asarray(labels, dtype=np.int64)[kept]
    return ClassIndex.of(names, images, chosen, str(description.root), [*problems, *gone])
