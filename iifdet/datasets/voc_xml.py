"""One Pascal VOC annotation file: XML without entities, its size and its objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

_LARGEST_SIDE = 1_000_000
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NAN = float("nan")


class VocObject(NamedTuple):
    """One object.

    Attributes:
        name: class name; empty where there is none.
        box: xyxy in pixels, from 0; NaN where a side is missing or no number.
        difficult: whether it is marked as difficult.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, slots=True)
class VocAnnotation:
    """One file.

    Attributes:
        filename: the image's name as the file gives it, often stale; empty where there is none.
        size: (height, width), (0, 0) where missing or no size.
        objects: its objects in order.
    """

    filename: str
    size: tuple[int, int]
    objects: list[VocObject]


class VocError(ValueError):
    """An annotation file that cannot be read; the message is the reason."""


def read_voc_xml(file: Path | str) -> VocAnnotation:
    """Read one annotation file.

    VOC counts pixels from 1 and includes the last one, so a box reaches from xmin - 1 to xmax: (1, 1, W, H) is the
    whole image. Detectron2's ``load_voc_instances`` reads it the same way. Tools that count from 0 write corners of 0;
    those are taken for 1.

    Raises:
        VocError: unreadable, not well-formed, entities declared, or not an ``annotation``.
    """
    root = _parse(file)
    if root.tag != "annotation":
        raise VocError("XML is no VOC annotation")
    height, width = (_number(root, f"size/{side}") for side in ("height", "width"))
    known = all(1 <= side <= _LARGEST_SIDE and side.is_integer() for side in (height, width))
    objects = [
        VocObject(_text(found, "name"), _box(found), _number(found, "difficult") == 1)
        for found in root.findall("object")
    ]
    return VocAnnotation(_text(root, "filename"), (int(height), int(width)) if known else (0, 0), objects)


def _parse(file: Path | str) -> Element:
    """Build the element tree with expat alone.

    Entities are refused where they are declared: they could name other files, or expand to gigabytes.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(Path(file).read_bytes(), True)
        return builder.close()
    except expat.ExpatError as error:
        raise VocError(f"broken XML: {expat.ErrorString(error.code)}") from error
    except OSError as error:
        raise VocError(f"unreadable annotation file: {error.strerror}") from error
    except VocError:
        raise
    except (ValueError, LookupError, AssertionError) as error:  # an encoding that expat does not know
        raise VocError(f"broken XML: {error}") from error


def _refuse(*_: object) -> None:
    raise VocError("XML declares entities, which are refused")


def _box(found: Element) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (_number(found, f"bndbox/{side}") for side in _SIDES)
    return _from_one(x1), _from_one(y1), x2, y2


def _from_one(value: float) -> float:
    return 0.0 if 0 <= value < 1 else value - 1


def _text(element: Element, path: str) -> str:
    return " ".join((element.findtext(path) or "").split())


def _number(element: Element, path: str) -> float:
    try:
        value = float(_text(element, path))
    except ValueError:
        return _NAN
    return value if math.isfinite(value) else _NAN
