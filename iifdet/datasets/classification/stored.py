"""What all readers of label files ask: is a named image inside the data set, and is it there."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.stores import Store
from iifdet.errors import InputError


def inside(file: str, folder: str, where: str) -> str:
    """The name of a file in the store, ``folder`` in front of it.

    Raises:
        InputError: it would lead out of the store: a foreign list must not make a run read other files.
    """
    name = posixpath.normpath(posixpath.join(folder, file))
    if posixpath.isabs(file) or name.split("/")[0] == ".." or "\0" in name:
        raise InputError(f"{where}: expected a file inside the data set, got {file!r}; correct it")
    return name


def check_images(store: Store, files: Sequence[str], description: ClassDescription, split: str) -> None:
    """Refuse a split that names images which are not there.

    Raises:
        InputError: it does; the message names the first and how many.
    """
    missing = store.missing(files)
    if missing:
        raise InputError(
            f"{description.name} {split}: expected {len(files)} image files, got {len(missing)} that are missing, "
            f"first {store.path / files[missing[0]]}; {description.hint}"
        )
