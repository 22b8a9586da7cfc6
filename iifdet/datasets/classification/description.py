"""Data descriptions of classification: where the images lie, and what says which class each is of.

task: classify                                     task: classify
format: folder            # a folder a class       format: list       # 'path label' a line
path: flowers             # or flowers.zip         path: ${DATA}/ImageNet
train: train                                       train: {images: ., list: ImageNet_LT_train.txt}
test: test                                         test: {images: ., list: ImageNet_LT_test.txt}

task: classify                                     task: classify
format: cifar10           # or cifar100            format: inaturalist
path: cifar-10-batches-py # or the .tar.gz         path: inat2018
train: train                                       train: {images: ., annotations: train2018.json}
test: test                                         val: {images: ., annotations: val2018.json}
imbalance: 100            # any format: the train split's tail is cut to this
seed: 0                   # … and this chooses the images
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iifdet.datasets.description import SPLITS, find_file, next_step, parse_names, read_yaml, task_of
from iifdet.datasets.places import CHECK_PATH, expand, resolve, split_hint, text_of
from iifdet.errors import InputError, suggest

FORMATS = ("folder", "list", "cifar10", "cifar100", "inaturalist")
#: format -> the key of a split that names its file of labels.
LABEL_KEYS = {"list": "list", "inaturalist": "annotations"}
ORDERS = ("file", "frequency")
KEYS = ("task", "format", "path", *SPLITS, "names", "order", "imbalance", "seed", "source", "layout")


@dataclass(frozen=True)
class ClassSplit:
    """Where one split lies.

    Attributes:
        images: folder of the store that the images lie in; ``train`` or ``test`` of the CIFAR files.
        labels: file of the store that says which image is of which class, None where folders or CIFAR's files do.
        hint: the next step where something of it is missing.
    """

    images: str
    labels: str | None = None
    hint: str = CHECK_PATH


@dataclass(frozen=True)
class ClassDescription:
    """A description with its path resolved.

    Attributes:
        name: what messages call it.
        format: one of FORMATS.
        root: the folder or archive.
        splits: split name -> where it lies.
        names: class names in label order, None where the data give them.
        order: ``file`` keeps the numbers of a list file; ``frequency`` numbers its classes by falling number of
            training images, ties by the file's number.
        imbalance: the train split is cut to an exponential profile with this ratio; None leaves it as it is.
        seed: which images the cut keeps.
        hint: the next step where files are missing.
        allow_outside: whether lists may name files outside the data set; no key of a description can say so.
    """

    name: str
    format: str
    root: Path
    splits: dict[str, ClassSplit]
    names: list[str] | None = None
    order: str = "file"
    imbalance: float | None = None
    seed: int = 0
    hint: str = CHECK_PATH
    allow_outside: bool = False

    def split(self, name: str) -> ClassSplit:
        """Return a split, or raise an InputError that lists those there are."""
        if name not in self.splits:
            raise InputError(f"split: expected one of {', '.join(self.splits)} ({self.name}), got '{name}'")
        return self.splits[name]


def find_class_description(data: str | Path | Mapping[str, Any] | ClassDescription) -> ClassDescription:
    """Resolve what a user calls data: a YAML file, the name of one that comes with the package, or a dict.

    Raises:
        InputError: nothing is found, it is about detection, or it does not make sense.
    """
    if isinstance(data, ClassDescription):
        return data
    if isinstance(data, Mapping):
        return parse_class_description(data, name="data", folder=Path.cwd())
    file = find_file(data)
    return parse_class_description(read_yaml(file), name=file.stem, folder=file.resolve().parent)


def parse_class_description(content: Mapping[Any, Any], *, name: str, folder: Path) -> ClassDescription:
    """Check a description's keys and resolve its path against ``folder``."""
    content = {key: value for key, value in content.items() if value is not None}
    if task_of(content) != "classify":
        raise InputError(f"{name}: expected data of classification (task: classify), got boxes; choose a detector")
    for key in content:
        if key not in KEYS:
            raise InputError(f"{name}: unknown key '{key}'{suggest(str(key), KEYS)}")
    format_ = _one_of(content, "format", FORMATS, "folder", name)
    hint = next_step(content, name)
    try:
        root = resolve(text_of(content.get("path"), f"{name}: path"), folder, name)
    except InputError as error:
        raise InputError(str(error) if hint == CHECK_PATH else f"{error}; {hint}") from error
    splits = {
        key: replace(_split(content[key], format_, f"{name}: {key}"), hint=split_hint(hint, key))
        for key in SPLITS
        if key in content
    }
    if not splits:
        raise InputError(f"{name}: expected a train, val or test key, got none; say where the images lie")
    order = _one_of(content, "order", ORDERS, "file", name)
    if order != "file" and format_ != "list":
        raise InputError(f"{name}: order: belongs to format: list, got format: {format_}; leave it out")
    return ClassDescription(
        name=name,
        format=format_,
        root=root,
        splits=splits,
        names=parse_names(content["names"], name) if "names" in content else None,
        order=order,
        imbalance=_imbalance(content.get("imbalance"), name),
        seed=_seed(content.get("seed", 0), name),
        hint=hint,
    )


def _split(value: Any, format_: str, where: str) -> ClassSplit:
    key = LABEL_KEYS.get(format_)
    if key is None:
        return ClassSplit(_inside(value, where))
    if isinstance(value, str):
        return ClassSplit(".", _inside(value, where))
    if not isinstance(value, dict) or key not in value:
        raise InputError(f"{where}: expected {{images: folder, {key}: file}}, got {value!r}")
    for given in value:
        if given not in ("images", key):
            raise InputError(f"{where}: unknown key '{given}'{suggest(str(given), ('images', key))}")
    return ClassSplit(_inside(value.get("images", "."), f"{where}.images"), _inside(value[key], f"{where}.{key}"))


def _inside(value: Any, where: str) -> str:
    """A place in the store, variables expanded."""
    return expand(text_of(value, where), where).rstrip("/") or "/"


def _one_of(content: Mapping[Any, Any], key: str, known: tuple[str, ...], default: str, name: str) -> str:
    value = content.get(key, default)
    if value not in known:
        raise InputError(f"{name}: {key}: expected one of {', '.join(known)}, got {value!r}")
    return str(value)


def _imbalance(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (1 <= value < math.inf):
        raise InputError(f"{name}: imbalance: expected a number of 1 or more, got {value!r}")
    return float(value)


def _seed(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise InputError(f"{name}: seed: expected a whole number from 0 to 4294967295, got {value!r}")
    return value
