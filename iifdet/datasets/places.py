"""Where a split lies: the values of ``train``, ``val`` and ``test`` in a data description, with paths resolved."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iifdet.errors import InputError, suggest

SPLIT_KEYS = ("images", "annotations")
VOC_KEYS = ("path", "list", *SPLIT_KEYS)
#: What an error about a missing file says last, where the description does not know better.
CHECK_PATH = "check 'path'"

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


@dataclass(frozen=True)
class VocPart:
    """One year, or one folder, of a Pascal VOC split.

    Attributes:
        path: the folder that holds ``JPEGImages``, ``Annotations`` and ``ImageSets``, or images and XML files alike.
        images: folder of images where it is not one of those two.
        annotations: folder of XML files, likewise.
        list: which images: a name in ``ImageSets/Main``, or a text file. None for the list named like the split or,
            where there are no lists, every XML file.
        split: name of the split.
    """

    path: Path
    images: Path | None
    annotations: Path | None
    list: str | None
    split: str


@dataclass(frozen=True)
class Split:
    """Where one split lies.

    Attributes:
        images: folders of images, globs of images, or text files that list images.
        annotations: the JSON file, None for formats that keep labels beside the images.
        parts: the parts of a Pascal VOC split; empty for other formats.
        hint: the next step when something of it is missing: how to get the data, if the description says so.
    """

    images: tuple[Path, ...]
    annotations: Path | None = None
    parts: tuple[VocPart, ...] = ()
    hint: str = CHECK_PATH


def split_hint(hint: str, key: str) -> str:
    """What an error about a missing part of a split says last: the description's next step, or which keys to check.

    Example:
        >>> split_hint(CHECK_PATH, "train"), split_hint("get it from here", "train")
        ("check 'train' and 'path'", 'get it from here')
    """
    return f"check '{key}' and 'path'" if hint == CHECK_PATH else hint


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


def text_of(value: Any, where: str) -> str:
    """A path as text, or an InputError."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: expected a path, got {value!r}")
    return value.strip()


def resolve(text: str, folder: Path, where: str) -> Path:
    """A path with variables expanded, relative to ``folder``."""
    return Path(os.path.normpath(folder / expand(text, where)))


def parse_split(value: Any, root: Path, where: str, hint: str = CHECK_PATH) -> Split:
    """``folder``, ``[folder, list.txt, 'glob/*.jpg']`` or ``{images: …, annotations: file.json}``."""
    if not isinstance(value, dict):
        return Split(_folders(value, root, where), hint=hint)
    _known_keys(value, SPLIT_KEYS, where)
    if "images" not in value:
        raise InputError(f"{where}: expected {{images: folder, annotations: file.json}}, got no 'images'")
    annotations = _optional(value, "annotations", root, where)
    return Split(_folders(value["images"], root, f"{where}.images"), annotations, hint=hint)


def parse_voc_split(value: Any, root: Path, where: str, name: str, hint: str = CHECK_PATH) -> Split:
    """``VOC2007``, ``{path: VOC2007, list: trainval}``, ``{images: …, annotations: …}``, or a list of these."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{where}: expected a folder, got an empty list")
    parts = tuple(_voc_part(item, root, where, name) for item in items)
    return Split(tuple(part.images or part.path for part in parts), parts=parts, hint=hint)


def _voc_part(item: Any, root: Path, where: str, name: str) -> VocPart:
    content = item if isinstance(item, dict) else {"path": item}
    _known_keys(content, VOC_KEYS, where)
    path = resolve(text_of(content.get("path", "."), f"{where}.path"), root, where)
    images, annotations = (_optional(content, key, path, where) for key in SPLIT_KEYS)
    chosen = content.get("list")
    # YAML reads a list named 2007 as a number; the name is what was meant.
    chosen = str(chosen) if isinstance(chosen, int) and not isinstance(chosen, bool) else chosen
    chosen = None if chosen is None else expand(text_of(chosen, f"{where}.list"), where)
    return VocPart(path, images, annotations, chosen, name)


def _optional(content: dict[Any, Any], key: str, folder: Path, where: str) -> Path | None:
    given = content.get(key)
    return None if given is None else resolve(text_of(given, f"{where}.{key}"), folder, where)


def _known_keys(content: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'{suggest(str(key), known)}")


def _folders(value: Any, root: Path, where: str) -> tuple[Path, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{where}: expected a folder, got an empty list")
    return tuple(_image_place(text_of(item, where), root, where) for item in items)


def _image_place(text: str, root: Path, where: str) -> Path:
    """A folder or list of images; Roboflow's files write ``../train/images`` for ``train/images`` beside them."""
    path = resolve(text, root, where)
    if text.startswith("../") and not path.exists() and (inside := resolve(text[3:], root, where)).exists():
        return inside
    return path
