"""A folder a class: ``train/cat/1.jpg``. In a folder or in a zip file."""

from __future__ import annotations

from pathlib import PurePosixPath

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.classification.stored import EMPTY_FOLDER, UNKNOWN_FOLDER, index_of
from iifdet.datasets.classification.stores import Store, open_store
from iifdet.datasets.index import Problem
from iifdet.datasets.listing import is_image
from iifdet.errors import InputError


def read_folders(description: ClassDescription, split: str) -> ClassIndex:
    """One split whose first level of folders are the classes; deeper ones belong to them.

    Class names, where the description gives none, are those of the train split's folders in alphabetical order, or of
    the split's own where there is no train split. Files that are not called like images, and images outside any class,
    are passed over; so is what macOS puts into zip files. Folders of other classes, and in the train split folders
    without images, are problems.

    Raises:
        InputError: a folder is missing, or no class has an image.
    """
    store = open_store(description.root, description.hint)
    found = _files(store, description, split)
    names = description.names
    if names is None:
        own = "train" in description.splits and split != "train"
        classes = _files(store, description, "train") if own else found
        names = sorted(name for name, files in classes.items() if files)
    number = {name: label for label, name in enumerate(names)}
    top = store.path / description.split(split).images
    problems = [
        Problem(str(top / name), "image", UNKNOWN_FOLDER) for name in found if found[name] and name not in number
    ]
    if split == "train":
        problems += [Problem(str(top / name), "image", EMPTY_FOLDER) for name, files in found.items() if not files]
    pairs = sorted((file, number[name]) for name, files in found.items() if name in number for file in files)
    return index_of(description, store, names, [f for f, _ in pairs], [label for _, label in pairs], problems)


def _files(store: Store, description: ClassDescription, split: str) -> dict[str, list[str]]:
    """Class folder -> its image files."""
    place = description.split(split)
    top = PurePosixPath(place.images)
    try:
        listed, folders = store.files(str(top)), store.folders(str(top))
    except InputError as error:
        raise InputError(f"{description.name} {split}: {error}; {place.hint}") from error
    found: dict[str, list[str]] = {name: [] for name in folders if not _hidden(name)}
    for file in listed:
        inside = PurePosixPath(file).relative_to(top).parts
        if len(inside) > 1 and is_image(file) and not any(map(_hidden, inside)):
            found[inside[0]].append(file)
    if not any(found.values()):
        raise InputError(
            f"{description.name} {split}: expected folders of images in {store.path / top}, one a class, found none; "
            f"{place.hint}"
        )
    return found


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
