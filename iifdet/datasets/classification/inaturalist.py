"""iNaturalist's JSON: images, one annotation each, categories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.classification.stored import (
    SEVERAL_LABELS,
    TWICE,
    UNKNOWN_CATEGORY,
    UNLABELLED,
    index_of,
    inside,
)
from iifdet.datasets.classification.stores import Store, open_store, read_text
from iifdet.datasets.index import Problem
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

    Images without annotation or with several, of an unknown category, or whose file is missing are problems.

    Raises:
        InputError: the JSON does not make sense.
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
    labels, problems = _labels(own, number)
    folder, outside = description.split(split).images, description.allow_outside
    chosen = [(image, labels[image.id]) for image in own.images if image.id in labels]
    files = [inside(i.file_name, folder, f"{what}: image {i.id}", outside) for i, _ in chosen]
    return index_of(description, store, names, files, [label for _, label in chosen], problems)


def _read(store: Store, description: ClassDescription, split: str) -> _Content:
    place = description.split(split)
    assert place.labels is not None
    text = read_text(store, place.labels, f"{description.name} {split}", place.hint)
    try:
        content = msgspec.json.decode(text, type=_Content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{place.labels}: expected iNaturalist's images, annotations and categories, got {error}; correct the "
            "file, or get it anew"
        ) from error
    if not content.images:
        raise InputError(f"{description.name} {split}: expected images in {place.labels}, found none; get it anew")
    return content


def _labels(content: _Content, number: dict[int, int]) -> tuple[dict[Any, int], list[Problem]]:
    """Image id -> label, and what is wrong with the images that have none."""
    categories: dict[Any, list[int]] = {}
    for annotation in content.annotations:
        categories.setdefault(annotation.image_id, []).append(annotation.category_id)
    times = Counter(image.id for image in content.images)
    labels, problems = {}, []
    for image in content.images:
        given = categories.get(image.id, [])
        if times[image.id] > 1:
            reason = f"{TWICE}: {image.id}"
        elif len(given) != 1:
            reason = SEVERAL_LABELS if given else UNLABELLED
        elif given[0] not in number:
            reason = f"{UNKNOWN_CATEGORY}: {given[0]}"
        else:
            labels[image.id] = number[given[0]]
            continue
        problems.append(Problem(image.file_name, "image", reason))
    return labels, problems


def _distinct(categories: list[_Category]) -> list[str]:
    """The file's names; with the id behind those that several categories have."""
    times = Counter(c.name for c in categories)
    return [c.name if times[c.name] == 1 else f"{c.name} ({c.id})" for c in categories]
