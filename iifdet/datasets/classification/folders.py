"""A folder a class: ``train/cat/1.jpg``. In a folder or in a zip file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ClassIndex, StoredImages
from iifdet.datasets.classification.stores import Store, open_store
from iifdet.datasets.listing import is_image
from iifdet.errors import InputError


def read_folders(description: ClassDescription, split: str) -> ClassIndex:
    """One split whose first level of folders are the classes; deeper ones belong to them.

    Class names, where the description gives none, are those of the train split's folders in alphabetical order, or of
    the split's own where there is no train split. Files that are not called like images, and images outside any class,
    are passed over; so is what macOS puts into zip files.

    Raises:
        InputError: a folder is missing, a class is not among the names, or a folder of the train split has no image.
    """
    store = open_store(description.root, description.hint)
    found = _files(store, description, split)
    names = description.names
    if names is None:
        own = "train" in description.splits and split != "train"
        names = sorted(_files(store, description, "train") if own else found)
    unknown = [name for name in found if name not in set(names)]
    if unknown:
        raise InputError(
            f"{description.name} {split}: expected the classes {_few(names)}, got a folder '{unknown[0]}'; "
            "rename it, or list all classes under names"
        )
    number = {name: label for label, name in enumerate(names)}
    files = sorted((file, number[name]) for name, files in found.items() for file in files)
    labels = [label for _, label in files]
    return ClassIndex.of(names, StoredImages(store, [file for file, _ in files]), labels, str(description.root))


def _files(store: Store, description: ClassDescription, split: str) -> dict[str, list[str]]:
    """Class folder -> its image files."""
    top = PurePosixPath(description.split(split).images)
    try:
        listed, folders = store.files(str(top)), store.folders(str(top))
    except InputError as error:
        raise InputError(f"{description.name} {split}: {error}; {description.hint}") from error
    found: dict[str, list[str]] = {name: [] for name in folders if not _hidden(name)}
    for file in listed:
        inside = PurePosixPath(file).relative_to(top).parts
        if len(inside) > 1 and is_image(file) and not any(map(_hidden, inside)):
            found[inside[0]].append(file)
    empty = [name for name, files in found.items() if not files]
    if empty and split == "train":
        raise InputError(
            f"{description.name} train: expected images in every class, found none in {store.path / top / empty[0]}; "
            "add some, or remove the folder"
        )
    if not any(found.values()):
        raise InputError(
            f"{description.name} {split}: expected folders of images in {store.path / top}, one a class, found none; "
            f"{description.hint}"
        )
    return found


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
