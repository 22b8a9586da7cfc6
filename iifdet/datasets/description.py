"""Data descriptions: a small YAML that says where a data set lies, how it is split and what its classes are called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iifdet import resources
from iifdet.errors import InputError, suggest

SPLITS = ("train", "val", "test")
FORMATS = ("coco", "lvis", "yolo")
KEYS = ("path", *SPLITS, "names", "nc", "format", "generate")
SPLIT_KEYS = ("images", "annotations")
#: Keys of Ultralytics' files that say nothing about boxes, or that name a download we do not make.
IGNORED_KEYS = ("download", "kpt_shape", "flip_idx", "kpt_names", "skeleton", "channels", "minival", "yaml_file")

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


@dataclass(frozen=True)
class Split:
    """Where one split lies.

    Attributes:
        images: folders of images, or text files that list images.
        annotations: the JSON file, None for formats that keep labels beside the images.
    """

    images: tuple[Path, ...]
    annotations: Path | None = None


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
    """

    name: str
    format: str
    root: Path
    splits: dict[str, Split]
    names: list[str] | None = None
    generate: dict[str, Any] | None = field(default=None)

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
    file = Path(os.path.expanduser(data))
    if file.is_file():
        return read_description(file)
    packaged = resources.resource_path("data", str(data))
    if packaged is None:
        known = resources.resource_names("data")
        raise InputError(f"data: expected a YAML file or a known name, got '{data}'{suggest(str(data), known)}")
    return read_description(packaged)


def read_description(file: Path) -> DataDescription:
    """Read a data YAML; a relative ``path`` in it is relative to the file's own folder."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: expected a readable YAML file, got {reason}") from error
    if not isinstance(content, dict):
        got = "nothing" if content is None else type(content).__name__
        raise InputError(f"{file}: expected 'key: value' lines such as path, train, val, names, got {got}")
    return parse_description(content, name=file.stem, folder=file.resolve().parent)


def parse_description(content: Mapping[Any, Any], *, name: str, folder: Path) -> DataDescription:
    """Check a description's keys and resolve its paths against ``folder``."""
    content = {key: value for key, value in content.items() if key not in IGNORED_KEYS and value is not None}
    for key in content:
        if key not in KEYS:
            raise InputError(f"{name}: unknown key '{key}'{suggest(str(key), KEYS)}")
    root = _resolve(_text(content.get("path", "."), f"{name}: path"), folder, name)
    splits = {key: _split(content[key], root, f"{name}: {key}") for key in SPLITS if key in content}
    if not splits:
        raise InputError(f"{name}: expected a train, val or test key, got none; say where the images lie")
    names = _names(content["names"], name) if "names" in content else None
    _check_nc(content.get("nc"), names, name)
    generate = content.get("generate")
    if generate is not None and not isinstance(generate, dict):
        raise InputError(f"{name}: generate: expected keys such as 'seed: 0', got {generate!r}")
    format_ = _format(content.get("format"), splits, name)
    return DataDescription(name, format_, root, splits, names, generate)


def expand(text: str, where: str) -> str:
    """Expand ``${VAR}``, ``${VAR:-default}`` and a leading ``~``.

    Example:
        >>> expand("${IIFDET_NO_SUCH_VARIABLE:-here}/images", "doc")
        'here/images'
    """

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = os.environ.get(name) or default
        if found is None:
            raise InputError(
                f"{where}: expected the environment variable {name} to be set, got nothing; "
                f"export {name}=… or write the folder into the file"
            )
        return found

    return os.path.expanduser(_VARIABLE.sub(value, text))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: expected a path, got {value!r}")
    return value.strip()


def _resolve(text: str, folder: Path, where: str) -> Path:
    return Path(os.path.normpath(folder / expand(text, where)))


def _split(value: Any, root: Path, where: str) -> Split:
    if isinstance(value, dict):
        for key in value:
            if key not in SPLIT_KEYS:
                raise InputError(f"{where}: unknown key '{key}'{suggest(str(key), SPLIT_KEYS)}")
        if "images" not in value:
            raise InputError(f"{where}: expected {{images: folder, annotations: file.json}}, got no 'images'")
        given = value.get("annotations")
        annotations = None if given is None else _resolve(_text(given, f"{where}.annotations"), root, where)
        return Split(_folders(value["images"], root, f"{where}.images"), annotations)
    return Split(_folders(value, root, where))


def _folders(value: Any, root: Path, where: str) -> tuple[Path, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{where}: expected a folder, got an empty list")
    return tuple(_resolve(_text(item, where), root, where) for item in items)


def _names(value: Any, where: str) -> list[str]:
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise InputError(f"{where}: names: expected the keys 0…{len(value) - 1}, got {list(value)[:5]}…")
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: names: expected a list of class names, got {value!r}")
    # YAML reads an unquoted class 'no' or '1' as a bool or a number; the text is what was meant.
    names = [name if isinstance(name, str) else str(name) for name in value]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: names: expected distinct names, got '{twice[0]}' twice")
    return names


def _check_nc(nc: Any, names: list[str] | None, where: str) -> None:
    if nc is not None and names is not None and nc != len(names):
        raise InputError(f"{where}: nc: expected {len(names)} (the number of names), got {nc}; drop nc")


def _format(value: Any, splits: dict[str, Split], where: str) -> str:
    has_json = [key for key, split in splits.items() if split.annotations is not None]
    format_ = value if value is not None else ("coco" if has_json else "yolo")
    if format_ not in FORMATS:
        raise InputError(f"{where}: format: expected one of {', '.join(FORMATS)}, got '{format_}'{_near(format_)}")
    if format_ in ("coco", "lvis") and len(has_json) < len(splits):
        missing = next(key for key in splits if key not in has_json)
        raise InputError(f"{where}: {missing}: expected {{images: folder, annotations: file.json}}, got no annotations")
    return str(format_)


def _near(word: Any) -> str:
    hint = suggest(str(word), FORMATS)
    return hint if "did you mean" in hint else ""
