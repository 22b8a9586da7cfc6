"""Data descriptions: a small YAML that says where a data set lies, how it is split and what its classes are called.

COCO JSON, Pascal VOC folders and YOLO text labels::

    format: coco                                       format: voc
    path: ${DATA}/pavement                             path: VOCdevkit
    train: {images: train, annotations: train.json}    train: [{path: VOC2007, list: trainval},
    val: {images: val, annotations: val.json}                  {path: VOC2012, list: trainval}]
                                                       val: {path: VOC2007, list: test}
    path: birds
    train: [images/a, 'images/*/day*.jpg', more.txt]   # folders, globs, lists of images
    val: images/val
    names: [robin, wren]

``data/template.yaml`` explains every key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iifdet import resources
from iifdet.datasets.places import (
    CHECK_PATH,
    Split,
    VocPart,
    expand,
    parse_split,
    parse_voc_split,
    resolve,
    split_hint,
    text_of,
)
from iifdet.errors import InputError, some, suggest

__all__ = [
    "FORMATS",
    "DataDescription",
    "Split",
    "VocPart",
    "described_names",
    "expand",
    "find_description",
    "parse_description",
    "task_of",
]

TASKS = ("detect", "classify")
SPLITS = ("train", "val", "test")
FORMATS = ("coco", "lvis", "yolo", "voc")
#: Formats whose boxes are in one JSON file a split.
JSON_FORMATS = ("coco", "lvis")
KEYS = ("task", "path", *SPLITS, "names", "nc", "format", "generate", "source", "layout")
#: Keys of Ultralytics' and Roboflow's files that say nothing about boxes, or that name a download we do not make.
IGNORED_KEYS = (
    "download",
    "kpt_shape",
    "flip_idx",
    "kpt_names",
    "skeleton",
    "channels",
    "minival",
    "yaml_file",
    "roboflow",
)
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class DataDescription:
    """A data description with every path resolved.

    Attributes:
        name: what messages call it: the file's stem, or ``data`` for a dict.
        format: one of FORMATS.
        root: the data set's folder.
        splits: split name -> where it lies.
        names: class names in label order, None where the annotations give them.
        generate: arguments of :func:`iifdet.datasets.demo.make_demo` where the data are made on first use.
        allow_outside: whether files may name paths outside the data set; no key of a description can say so.
        need_images: whether image files must be there, or COCO and LVIS annotations do; no key says so either.
    """

    name: str
    format: str
    root: Path
    splits: dict[str, Split]
    names: list[str] | None = None
    generate: dict[str, Any] | None = field(default=None)
    allow_outside: bool = False
    need_images: bool = True

    def split(self, name: str) -> Split:
        """Return a split, or raise an InputError that lists those there are."""
        if name not in self.splits:
            raise InputError(f"split: expected one of {', '.join(self.splits)} ({self.name}), got '{name}'")
        return self.splits[name]


def find_description(data: str | Path | Mapping[str, Any] | DataDescription) -> DataDescription:
    """Resolve what a user calls data: a YAML file, the name of one that comes with the package, or a dict.

    Raises:
        InputError: nothing is found, or the description does not make sense.
    """
    if isinstance(data, DataDescription):
        return data
    if isinstance(data, Mapping):
        return parse_description(data, name="data", folder=Path.cwd())
    return read_description(find_file(data))


def described_names(data: str | Path) -> list[str] | None:
    """The class names that a description gives, whether or not its files are there; None where it gives none.

    Raises:
        InputError: no description is found, or its names make no sense.
    """
    file = find_file(data)
    content = read_yaml(file)
    names = parse_names(content["names"], file.stem) if content.get("names") is not None else None
    return _check_nc(content.get("nc"), names, _format(content, file.stem), file.stem)


def task_of(data: str | Path | Mapping[str, Any]) -> str:
    """What a data description is for: ``detect`` or ``classify``.

    Raises:
        InputError: no description is found, or its task is neither.
    """
    content = data if isinstance(data, Mapping) else read_yaml(find_file(data))
    task = content.get("task", "detect")
    if task not in TASKS:
        raise InputError(f"data: task: expected one of {', '.join(TASKS)}, got {task!r}")
    return str(task)


def find_file(data: str | Path) -> Path:
    """The YAML file that a user means by a path or by the name of one that comes with the package.

    Raises:
        InputError: there is none.
    """
    file = Path(os.path.expanduser(data))
    if file.is_file():
        return file
    packaged = resources.resource_path("data", str(data))
    if packaged is None:
        known = resources.resource_names("data")
        raise InputError(f"data: expected a YAML file or a known name, got '{data}'{suggest(str(data), known)}")
    return packaged


def read_description(file: Path) -> DataDescription:
    """Read a data YAML; a relative ``path`` in it is relative to the file's own folder."""
    content = read_yaml(file)
    if {"images", "annotations"} <= content.keys():
        raise InputError(
            f"{file}: expected a description, got annotations; name them in a YAML file, as "
            f"train: {{images: <folder>, annotations: {file.name}}}"
        )
    return parse_description(content, name=file.stem, folder=file.resolve().parent)


def read_yaml(file: Path) -> dict[Any, Any]:
    """The keys of a YAML file.

    Raises:
        InputError: it cannot be read, or has no keys.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: expected a readable YAML file, got {reason}") from error
    if not isinstance(content, dict):
        got = "nothing" if content is None else type(content).__name__
        raise InputError(f"{file}: expected 'key: value' lines such as path, train, val, names, got {got}")
    return content


def parse_description(content: Mapping[Any, Any], *, name: str, folder: Path) -> DataDescription:
    """Check a description's keys and resolve its paths against ``folder``."""
    content = {key: value for key, value in content.items() if key not in IGNORED_KEYS and value is not None}
    if task_of(content) != "detect":
        raise InputError(f"{name}: expected data with boxes, got task: classify; choose a classifier, or other data")
    for key in content:
        if key not in KEYS:
            raise InputError(f"{name}: unknown key '{key}'{suggest(str(key), KEYS)}")
    format_, hint = _format(content, name), next_step(content, name)
    try:
        root = resolve(text_of(content.get("path", "."), f"{name}: path"), folder, name)
    except InputError as error:
        raise InputError(str(error) if hint == CHECK_PATH else f"{error}; {hint}") from error
    given = {key: content[key] for key in SPLITS if key in content}
    if not given:
        raise InputError(f"{name}: expected a train, val or test key, got none; say where the images lie")
    splits = {key: _split(value, key, format_, root, name, hint) for key, value in given.items()}
    names = parse_names(content["names"], name) if "names" in content else None
    names = _check_nc(content.get("nc"), names, format_, name)
    generate = content.get("generate")
    if generate is not None and not isinstance(generate, dict):
        raise InputError(f"{name}: generate: expected keys such as 'seed: 0', got {generate!r}")
    return DataDescription(name, format_, root, splits, names, generate)


def _split(value: Any, key: str, format_: str, root: Path, name: str, hint: str) -> Split:
    where, hint = f"{name}: {key}", split_hint(hint, key)
    if format_ == "voc":
        return parse_voc_split(value, root, where, key, hint)
    split = parse_split(value, root, where, hint)
    if format_ in JSON_FORMATS and split.annotations is None:
        raise InputError(f"{where}: expected {{images: folder, annotations: file.json}}, got no annotations")
    return split


def next_step(content: Mapping[Any, Any], where: str) -> str:
    """The next step for who does not have the data: ``source`` and ``layout`` on one line."""
    source, layout = (content.get(key) for key in ("source", "layout"))
    for key, value in (("source", source), ("layout", layout)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {key}: expected text, got {value!r}")
    steps = [f"get it from {source.strip()}"] if source else []
    steps += (
        [f"lay it out as {', '.join(line.strip() for line in layout.splitlines() if line.strip())}"] if layout else []
    )
    return " and ".join(steps) or CHECK_PATH


def parse_names(value: Any, where: str) -> list[str]:
    """Class names from a list, or from label -> name.

    Raises:
        InputError: something else, or a name twice.
    """
    if isinstance(value, dict):
        # Quoted keys are numbers all the same, as for Ultralytics: {'0': car}.
        value = {int(k) if isinstance(k, str) and k.isdecimal() else k: name for k, name in value.items()}
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise InputError(
                f"{where}: names: expected the keys 0…{len(value) - 1}, got {some(map(str, value), 5)}; "
                "number the classes without gaps"
            )
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: names: expected a list of class names, got {value!r}")
    # YAML reads an unquoted class 'no' or '1' as a bool or a number; the text is what was meant.
    names = [name if isinstance(name, str) else str(name) for name in value]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: names: expected distinct names, got '{twice[0]}' twice")
    return names


def _check_nc(nc: Any, names: list[str] | None, format_: str, where: str) -> list[str] | None:
    """``nc`` must agree with the names; alone it gives text labels names such as 'class_0', as Ultralytics does."""
    if nc is None:
        return names
    if names is None and format_ == "yolo":
        if type(nc) is not int or not 0 < nc <= _MOST_CLASSES:
            raise InputError(f"{where}: nc: expected the number of classes, got {nc!r}; give names instead")
        return [f"class_{i}" for i in range(nc)]
    if names is not None and nc != len(names):
        raise InputError(f"{where}: nc: expected {len(names)} (the number of names), got {nc}; drop nc")
    return names


def _format(content: Mapping[Any, Any], where: str) -> str:
    has_json = any(isinstance(content.get(key), dict) and "annotations" in content[key] for key in SPLITS)
    format_ = content.get("format", "coco" if has_json else "yolo")
    if format_ not in FORMATS:
        raise InputError(f"{where}: format: expected one of {', '.join(FORMATS)}, got '{format_}'{_near(format_)}")
    return str(format_)


def _near(word: Any) -> str:
    hint = suggest(str(word), FORMATS)
    return hint if "did you mean" in hint else ""
