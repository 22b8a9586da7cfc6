"""Detections that another program wrote down, brought to the ids of a split.

COCO's results format, a list of ``{image_id, category_id, score, bbox or segmentation}``, is what most programs write.
A COCO file whose annotations have scores says by itself what its images and categories are called.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.segments import pack_segments
from iifdet.errors import InputError, brief
from iifdet.evaluation.engine import Array
from iifdet.evaluation.masks import RLE
from iifdet.evaluation.naming import Ids, Name, find_categories, find_images

#: No box lies farther out, in pixels, and no score is larger: what is, is no detection.
LARGEST = 1e9


class _Row(msgspec.Struct):
    """What counts of an entry. Some programs write whole numbers as 7.0."""

    image_id: int | float | str
    category_id: int | float
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: Any = None
    file_name: str | None = None


class _Image(msgspec.Struct):
    id: int | str
    file_name: str | None = None


class _Category(msgspec.Struct):
    id: int
    name: str | None = None


class _Document(msgspec.Struct):
    """A COCO file whose annotations have scores, such as ``iifdet predict`` writes."""

    annotations: list[_Row]
    images: list[_Image] = []
    categories: list[_Category] = []


@dataclass(frozen=True)
class Imported:
    """Detections of a split, in the order of the file.

    Attributes:
        rows: (n, 7) ``[image_id, x, y, w, h, score, category_id]``, ids of the split.
        said: (n,) the categories as the file has them.
        masks: one a row, compressed run lengths of the original image; None where no row has one.
        notices: what a reader of their figures should know.
    """

    rows: Array
    said: NDArray[np.int64]
    masks: list[RLE] | None = None
    notices: tuple[str, ...] = ()

    def of(self, chosen: NDArray[Any]) -> Imported:
        """Some of them: an (n,) bool mask, or row numbers."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        masks = None if self.masks is None else [self.masks[n] for n in numbers.tolist()]
        return Imported(self.rows[numbers], self.said[numbers], masks, self.notices)


def read_detections(
    path: str | Path, ids: Ids, first_category: int | None = None, image_id: str | None = None
) -> Imported:
    """Read a results file.

    Args:
        path: JSON, gzipped or not: a list of results, or a COCO file whose annotations have scores.
        ids: what the split calls its images and classes.
        first_category: the file's category of class 0, where the file counts classes through; by default its
            categories are those that it names, or those of the split.
        image_id: what numbers in place of images are, ``id`` or the ``file`` called so; by default what they can be.

    Raises:
        InputError: no such file, not of this format, or it speaks of images or categories that the split does not have.
    """
    where = str(path)
    document = _decode(path)
    found = document.annotations
    images = find_images(_image_names(document, where), ids, image_id, where)
    given = np.array([_whole(row.category_id, "category_id", n, where) for n, row in enumerate(found)], np.int64)
    named = {c.id: c.name for c in document.categories if c.name is not None} if document.categories else None
    categories = find_categories(given, named, ids, first_category, where)
    masks = _masks(found, ids.sizes[images], where)
    columns = ids.images[images], _boxes(found, masks, where), _scores(found, where), categories
    rows = np.column_stack(columns).astype(float)
    kept = None if masks is None else [mask for mask in masks if mask is not None]
    return Imported(rows, given, kept, tuple(_notices(found, rows, masks)))


def _decode(path: str | Path) -> _Document:
    content = _read(path)
    try:
        if content.lstrip()[:1] == b"{":
            return msgspec.json.decode(content, type=_Document)
        return _Document(msgspec.json.decode(content, type=list[_Row]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a list of {{image_id, category_id, score, bbox}} as COCO's results have it, got {error}"
        ) from None


def _read(path: str | Path) -> bytes:
    if not str(path):
        raise InputError("predictions: expected a JSON file, got none; give predictions=<file>")
    try:
        content = Path(path).expanduser().read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"predictions: expected a JSON file, got {path} ({reason})") from None
    return content.removeprefix(b"\xef\xbb\xbf")


def _image_names(document: _Document, where: str) -> list[Name]:
    """What the file calls the image of each detection: by its file, where it says which that is."""
    files: Mapping[int | str, str] = {i.id: i.file_name for i in document.images if i.file_name is not None}
    names: list[Name] = []
    for n, row in enumerate(document.annotations):
        image = row.image_id if isinstance(row.image_id, str) else _whole(row.image_id, "image_id", n, where)
        if document.images and image not in files:
            raise InputError(f"{where}: expected images of its own list, got {brief(image)} in entry {n}")
        names.append(files.get(image) or row.file_name or image)
    return names


def _whole(value: int | float, key: str, number: int, where: str) -> int:
    if value != int(value) or abs(value) > 1 << 62:
        raise InputError(f"{where}: expected a whole number for {key}, got {value} in entry {number}")
    return int(value)


def _masks(found: Sequence[_Row], sizes: NDArray[Any], where: str) -> list[RLE | None] | None:
    """Compressed run lengths from any of COCO's three forms, empty ones of rows without; None where no row has a mask.

    What is none of the forms may crash pycocotools.
    """
    segments, bad = pack_segments([row.segmentation for row in found])
    if bad:
        got = brief(found[bad[0]].segmentation, 40)
        raise InputError(f"{where}: expected polygons or run lengths as COCO has them, got {got} in entry {bad[0]}")
    if segments is None:
        return None
    return [_compressed(segments.coco(n), size, n, where) for n, size in enumerate(sizes.tolist())]


def _compressed(mask: Any, size: list[int], number: int, where: str) -> RLE:
    from pycocotools import mask as coco_mask

    if mask is None:
        mask = {"size": size, "counts": [size[0] * size[1]]}
    if isinstance(mask, dict) and list(mask["size"]) != size:
        raise InputError(f"{where}: expected a mask of {size}, as its image, got {mask['size']} in entry {number}")
    if isinstance(mask, dict) and isinstance(mask["counts"], str):
        return {"size": size, "counts": mask["counts"]}
    rle = coco_mask.frPyObjects(mask, *size)
    counts = (coco_mask.merge(rle) if isinstance(rle, list) else rle)["counts"]
    return {"size": size, "counts": counts.decode("ascii")}


def _boxes(found: Sequence[_Row], masks: Sequence[RLE | None] | None, where: str) -> Array:
    """(n, 4) xywh; of a mask alone the box around it."""
    boxes = np.array([(math.nan,) * 4 if row.bbox is None else row.bbox for row in found], float).reshape(-1, 4)
    for n in np.flatnonzero(np.isnan(boxes[:, 0])).tolist():
        boxes[n] = _box_around(None if masks is None or found[n].segmentation is None else masks[n], n, where)
    wrong = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1) | (np.abs(boxes) > LARGEST).any(axis=1))
    if len(wrong):
        n = int(wrong[0])
        raise InputError(f"{where}: expected bbox [x, y, width, height], got {boxes[n].tolist()} in entry {n}")
    return boxes


def _box_around(mask: RLE | None, number: int, where: str) -> Array:
    if mask is None:
        raise InputError(f"{where}: expected a bbox or a segmentation in entry {number}, got neither")
    from pycocotools import mask as coco_mask

    return np.asarray(coco_mask.toBbox(mask))


def _scores(found: Sequence[_Row], where: str) -> Array:
    scores = np.array([row.score for row in found], float)
    wrong = np.flatnonzero(np.abs(scores) > LARGEST)
    if len(wrong):
        raise InputError(f"{where}: expected scores, got {scores[wrong[0]]:g} in entry {wrong[0]}")
    return scores


def _notices(found: Sequence[_Row], rows: Array, masks: Sequence[RLE | None] | None) -> list[str]:
    said = []
    if not len(rows):
        return ["the file holds no detection"]
    low, high = rows[:, 5].min(), rows[:, 5].max()
    if low < 0 or high > 1:
        said.append(
            f"scores lie from {low:g} to {high:g}: AP goes by their order alone, but the confusion matrix, calibration "
            "and pictures take them for probabilities, and so does conf in compare"
        )
    bare = 0 if masks is None else sum(not row.segmentation for row in found)
    if bare:
        said.append(f"{bare} of {len(rows)} detections have no mask: empty ones are scored")
    return said
