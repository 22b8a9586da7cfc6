"""Detections that another program wrote down, brought to the ids of a split.

COCO's results format, a list of ``{image_id, category_id, score, bbox or segmentation}``, is what most programs write.
They agree neither on what an image is called (its id, or the name of its file) nor on where categories start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.segments import pack_segments
from iifdet.errors import InputError, brief, counted, some
from iifdet.evaluation.engine import Array
from iifdet.evaluation.masks import RLE


class _Row(msgspec.Struct):
    """What counts of an entry."""

    image_id: int | str
    category_id: Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: Any = None


class _Annotated(msgspec.Struct):
    """A COCO file whose annotations have scores, such as ``iifdet predict`` writes."""

    annotations: list[_Row]


@dataclass(frozen=True)
class Imported:
    """Detections of a split, in the order of the file.

    Attributes:
        rows: (n, 7) ``[image_id, x, y, w, h, score, category_id]``, ids of the split.
        masks: one a row, compressed run lengths of the original image; None where not every row has one.
    """

    rows: Array
    masks: list[RLE] | None = None

    def of(self, chosen: NDArray[Any]) -> Imported:
        """Some of them: an (n,) bool mask, or row numbers."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Imported(self.rows[numbers], None if self.masks is None else [self.masks[n] for n in numbers.tolist()])


@dataclass(frozen=True)
class Ids:
    """How a split calls its images and classes.

    Attributes:
        images: (N,) ids.
        files: N image files.
        sizes: (N, 2) height and width.
        categories: (C,) the category of each label.
        own: whether these categories are the data's own; those of text labels and Pascal VOC are counted here.
    """

    images: NDArray[np.int64]
    files: Sequence[str]
    sizes: NDArray[Any]
    categories: NDArray[np.int64]
    own: bool = True


def read_detections(path: str | Path, ids: Ids, first_category: int | None = None) -> Imported:
    """Read a results file.

    Images may be called by their ids, or by their files: path, name, or name without ending.

    Args:
        path: JSON, a list of results, or a COCO file whose annotations have scores.
        ids: what the split calls its images and classes.
        first_category: the file's category of class 0, where the file counts classes through; by default its
            categories are those of the split.

    Raises:
        InputError: no such file, not of this format, or it speaks of images or categories that the split does not have.
    """
    found = _decode(Path(path))
    images = _find_images([row.image_id for row in found], ids, path)
    categories = _find_categories(np.array([row.category_id for row in found], np.int64), ids, first_category, path)
    masks = _masks(found, ids.sizes[images], path)
    columns = ids.images[images], _boxes(found, masks, path), [row.score for row in found], categories
    rows = np.column_stack(columns).astype(float)
    whole = len(masks) > 0 and all(mask is not None for mask in masks)
    return Imported(rows, [mask for mask in masks if mask is not None] if whole else None)


def _decode(path: Path) -> list[_Row]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"predictions: expected a JSON file, got {path} ({error.strerror or error})") from None
    try:
        if content.lstrip()[:1] == b"{":
            return msgspec.json.decode(content, type=_Annotated).annotations
        return msgspec.json.decode(content, type=list[_Row])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a list of {{image_id, category_id, score, bbox}} as COCO's results have it, got {error}"
        ) from None


def _find_images(given: Sequence[int | str], ids: Ids, path: str | Path) -> NDArray[np.int64]:
    """(n,) rows of the images."""
    known: dict[int | str, int] = {int(i): n for n, i in enumerate(ids.images.tolist())}
    if any(isinstance(name, str) for name in given):
        known |= _names_of(ids.files)
    found = np.array([_find(name, known) for name in given], np.int64)
    if (found < 0).any():
        strange = list(dict.fromkeys(given[n] for n in np.flatnonzero(found < 0).tolist()))
        raise InputError(
            f"{path}: expected images of the split, by id or file name, got {brief(strange[0])}"
            f"{f' and {len(strange) - 1} others' if len(strange) > 1 else ''} that it does not have; "
            "name the split that was predicted with data= and split="
        )
    return found


def _find(name: int | str, known: dict[int | str, int]) -> int:
    row = known.get(name, -1)
    if row < 0 and isinstance(name, str) and name.isdecimal():
        row = known.get(int(name), -1)
    return row


def _names_of(files: Sequence[str]) -> dict[int | str, int]:
    """Every way to call a file that means one file alone."""
    names: dict[int | str, int] = {}
    twice: set[str] = set()
    for n, file in enumerate(files):
        for name in _calls(file):
            if names.setdefault(name, n) != n:
                twice.add(name)
    return {name: n for name, n in names.items() if name not in twice}


def _calls(file: str) -> Iterable[str]:
    """The path, every end of it that starts after a slash, and these without the file's ending."""
    parts = PurePath(file).parts
    ends = ["/".join(parts[n:]) for n in range(1, len(parts))]
    stems = [end.removesuffix(PurePath(file).suffix) for end in ends]
    return dict.fromkeys([file, *ends, *stems])


def _find_categories(given: NDArray[np.int64], ids: Ids, first: int | None, path: str | Path) -> NDArray[np.int64]:
    """(n,) categories of the split."""
    known = ids.categories if first is None else first + np.arange(len(ids.categories))
    strange = np.setdiff1d(given, known)
    if len(strange):
        last = first is None and not ids.own and strange.tolist() == [len(known)] and 0 not in given
        step = "give first_category=1" if last else "name the file's category of class 0 with first_category="
        got = some(map(str, strange.tolist()))
        raise InputError(
            f"{path}: expected categories {some(map(str, known.tolist()), 5)}, got {got}; "
            f"if the file counts classes through, {step}"
        )
    if first is None and not ids.own and len(given) and 0 not in given:
        raise InputError(
            f"{path}: expected detections of class 0, got {counted(len(given), 'detection')} from category "
            f"{given.min()} on; say which category class 0 has: first_category=0, or 1 as some programs count"
        )
    place = np.argsort(known, kind="stable")
    return ids.categories[place[np.searchsorted(known[place], given)]]


def _masks(found: Sequence[_Row], sizes: NDArray[Any], path: str | Path) -> list[RLE | None]:
    """Compressed run lengths from any of COCO's three forms; what is none of them may crash pycocotools."""
    segments, bad = pack_segments([row.segmentation for row in found])
    if bad:
        raise InputError(
            f"{path}: expected polygons or run lengths as COCO has them, got {brief(found[bad[0]].segmentation, 40)} "
            f"in entry {bad[0]}"
        )
    if segments is None:
        return [None] * len(found)
    return [_compressed(segments.coco(n), size, n, path) for n, size in enumerate(sizes.tolist())]


def _compressed(mask: Any, size: list[int], number: int, path: str | Path) -> RLE | None:
    from pycocotools import mask as coco_mask

    if mask is None:
        return None
    if isinstance(mask, dict) and list(mask["size"]) != size:
        raise InputError(f"{path}: expected a mask of {size}, as its image, got {mask['size']} in entry {number}")
    if isinstance(mask, dict) and isinstance(mask["counts"], str):
        return {"size": size, "counts": mask["counts"]}
    rle = coco_mask.frPyObjects(mask, *size)
    counts = (coco_mask.merge(rle) if isinstance(rle, list) else rle)["counts"]
    return {"size": size, "counts": counts.decode("ascii")}


def _boxes(found: Sequence[_Row], masks: Sequence[RLE | None], path: str | Path) -> Array:
    """(n, 4) xywh; of a mask alone the box around it."""
    boxes = np.array([(math.nan,) * 4 if row.bbox is None else row.bbox for row in found], float).reshape(-1, 4)
    for n in np.flatnonzero(np.isnan(boxes[:, 0])).tolist():
        boxes[n] = _box_around(masks[n], n, path)
    wrong = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))  # numbers are finite, or they would be no JSON
    if len(wrong):
        n = int(wrong[0])
        raise InputError(f"{path}: expected bbox [x, y, width, height], got {boxes[n].tolist()} in entry {n}")
    return boxes


def _box_around(mask: RLE | None, number: int, path: str | Path) -> Array:
    if mask is None:
        raise InputError(f"{path}: expected a bbox or a segmentation in entry {number}, got neither")
    from pycocotools import mask as coco_mask

    return np.asarray(coco_mask.toBbox(mask))
