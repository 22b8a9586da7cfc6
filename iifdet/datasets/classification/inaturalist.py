"""iNaturalist's JSON: images, one annotation each, categories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ClassIndex, StoredImages
from iifdet.datasets.classification.stored import check_images, inside
from iifdet.datasets.classification.stores import Store, open_store, read_text
from iifdet.errors import InputError


class _Image(msgspec.Struct):
    id: int | str
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int


class _Category(msgspec.Struct):
    id: int
    name: str


class _Content(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


def read_inaturalist(description: ClassDescription, split: str) -> ClassIndex:
    """One split of iNaturalist's JSON. Classes go by ascending category id; names as in the file.

    The train split's categories are those of all splits; files without ``categories`` take theirs from it.

    Raises:
        InputError: the JSON does not make sense, an image has no or several annotations, a category is unknown, an
            image is missing.
    """
    store = open_store(description.root, description.hint)
    own = _read(store, description, split)
    train = own if split == "train" or "train" not in description.splits else _read(store, description, "train")
    categories = sorted(train.categories or own.categories, key=lambda c: c.id)
    what = f"{description.name} {split}"
    if len({c.id for c in categories}) < len(categories) or not categories:
        raise InputError(f"{what}: expected categories with distinct ids, got {len(categories)}; correct the file")
    number = {c.id: label for label, c in enumerate(categories)}
    names = description.names or _distinct(categories)
    if len(names) != len(categories):
        raise InputError(f"{what}: names: expected {len(categories)} names, got {len(names)}; leave names out")
    labels = _labels(own, number, what)
    folder = description.split(split).images
    files = [inside(image.file_name, folder, f"{what}: image {image.id}") for image in own.images]
    check_images(store, files, description, split)
    return ClassIndex.of(names, StoredImages(store, files), labels, str(description.root))


def _read(store: Store, description: ClassDescription, split: str) -> _Content:
    place = description.split(split)
    assert place.labels is not None
    text = read_text(store, place.labels, f"{description.name} {split}", description.hint)
    try:
        content = msgspec.json.decode(text, type=_Content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{place.labels}: expected iNaturalist's images, annotations and categories, got {error}"
        ) from error
    if not content.images:
        raise InputError(f"{description.name} {split}: expected images in {place.labels}, found none")
    return content


def _labels(content: _Content, number: dict[int, int], what: str) -> list[int]:
    found: dict[Any, int] = {}
    for annotation in content.annotations:
        if annotation.category_id not in number:
            raise InputError(
                f"{what}: image {annotation.image_id}: expected one of {len(number)} category ids, got "
                f"{annotation.category_id}; correct the file"
            )
        if annotation.image_id in found:
            raise InputError(f"{what}: image {annotation.image_id}: expected one annotation, got two; keep one")
        found[annotation.image_id] = number[annotation.category_id]
    for image in content.images:
        if image.id not in found:
            raise InputError(f"{what}: image {image.id}: expected an annotation, got none; leave the image out")
    if len({image.id for image in content.images}) < len(content.images):
        raise InputError(f"{what}: expected distinct image ids, got one twice; correct the file")
    return [found[image.id] for image in content.images]


def _distinct(categories: list[_Category]) -> list[str]:
    """The file's names; with the id behind those that several categories have."""
    times = Counter(c.name for c in categories)
    return [c.name if times[c.name] == 1 else f"{c.name} ({c.id})" for c in categories]
