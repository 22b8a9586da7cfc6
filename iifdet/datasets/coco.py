"""Reader for COCO JSON: 1) load 2) categories 3) images 4) annotations 5) check, clip, sort."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.checking import (
    CLIPPED,
    UNKNOWN_CATEGORY,
    UNKNOWN_IMAGE,
    box_problems,
    check_boxes,
    lookup,
)
from iifdet.datasets.columns import integers, number_rows, numbers
from iifdet.datasets.description import DataDescription, Split
from iifdet.datasets.images import existing, image_sizes
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.segments import Segments, pack_segments
from iifdet.errors import InputError, suggest

_LARGEST_SIDE = 1_000_000


class _Images(NamedTuple):
    ids: NDArray[np.int64]
    files: list[str]
    sizes: NDArray[np.int32]
    known: NDArray[np.int64]  # ids of dropped images too: their boxes go with them, without being faults themselves


class _Categories(NamedTuple):
    ids: NDArray[np.int64]  # label -> id
    names: list[str]
    known: NDArray[np.int64]  # ids that the description's names leave out, too: their boxes are no faults either


class _Boxes(NamedTuple):
    image: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    codes: NDArray[np.int8]
    wanted: NDArray[np.bool_]  # False: belongs to a dropped image or to a class that was left out
    stranded: NDArray[np.bool_]  # belongs to a dropped image


def read_coco(description: DataDescription, split: Split, *, segments: bool = True) -> DatasetIndex:
    """Read one split. Category ids become labels in ascending order, or in the order of the description's names.

    Raises:
        InputError: a file or folder is missing, the JSON is not COCO's, or a class name is unknown.
    """
    file, folder = _places(split)
    document = load_json(file)
    problems: list[Problem] = []
    categories = _categories(document, description.names, file)
    images = _images(_objects(document, "images", "image", file, problems), folder, problems)
    rows = _objects(document, "annotations", "box", file, problems)
    boxes = _boxes(rows, images, categories)
    ids, whole = integers(rows, "id")
    codes = np.where(boxes.wanted, boxes.codes, 0).astype(np.int8)
    problems += box_problems(codes, lambda m: images.files[i] if (i := boxes.image[m]) >= 0 else str(file), ids)
    problems += _noted(ids, whole, boxes, file)
    keep = np.flatnonzero(boxes.wanted & ((boxes.codes == 0) | (boxes.codes == CLIPPED)))
    keep = keep[np.argsort(boxes.image[keep], kind="stable")]
    kept, box_image, clipped = [rows[m] for m in keep.tolist()], boxes.image[keep], boxes.boxes[keep]
    distinct = bool(whole[keep].all()) and len(np.unique(ids[keep])) == len(keep)
    ann_ids = ids[keep] if distinct else np.arange(1, len(keep) + 1, dtype=np.int64)
    return DatasetIndex(
        names=categories.names,
        root=str(folder),
        files=images.files,
        sizes=images.sizes,
        image_ids=images.ids,
        box_image=box_image,
        boxes=clipped,
        labels=boxes.labels[keep],
        crowd=integers(kept, "iscrowd")[0] == 1,
        areas=_areas(kept, clipped),
        ann_ids=ann_ids,
        category_ids=categories.ids,
        segments=_segments(kept, images, box_image, ann_ids, problems) if segments else None,
        problems=problems,
    )


def _places(split: Split) -> tuple[Path, Path]:
    if split.annotations is None:
        raise InputError("split: expected {images: folder, annotations: file.json}, got no annotations")
    if not split.annotations.is_file():
        raise InputError(f"annotations: expected the file {split.annotations}, which does not exist; {split.hint}")
    if len(split.images) != 1:
        raise InputError(f"images: expected one folder for COCO annotations, got {len(split.images)}")
    if not split.images[0].is_dir():
        raise InputError(f"images: expected the folder {split.images[0]}, which does not exist; {split.hint}")
    return split.annotations, split.images[0]


def load_json(file: Path) -> dict[str, Any]:
    """Load a JSON object, or raise an InputError that says what is wrong with the file."""
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected complete JSON, got {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{file}: expected a COCO object with images, annotations and categories, got a {type(document).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            got = f"a {type(document[key]).__name__}" if key in document else "none"
            raise InputError(f"{file}: expected a list '{key}', got {got}; results files are not ground truth")
    return document


def _objects(
    document: dict[str, Any], key: str, kind: str, file: Path, problems: list[Problem]
) -> list[dict[str, Any]]:
    rows = document[key]
    good = [row for row in rows if type(row) is dict]
    problems += [Problem(str(file), kind, f"entry of '{key}' is not an object")] * (len(rows) - len(good))
    return good


def _categories(document: dict[str, Any], wanted: list[str] | None, file: Path) -> _Categories:
    rows = [row for row in document["categories"] if isinstance(row, dict)]
    ids, valid = integers(rows, "id")
    names = [row.get("name") for row in rows]
    if not rows or len(rows) < len(document["categories"]) or not valid.all():
        raise InputError(f"{file}: categories: expected objects with a whole-number id and a name")
    for name in names:
        if not isinstance(name, str) or not name:
            raise InputError(f"{file}: categories: expected a name for each, got {name!r}")
    for what, values in (("ids", ids.tolist()), ("names", names)):
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            raise InputError(f"{file}: categories: expected distinct {what}, got {twice[0]!r} twice; rename one")
    order = np.argsort(ids) if wanted is None else np.array([_place(name, names, file) for name in wanted])
    return _Categories(ids[order], [str(names[i]) for i in order.tolist()], ids)


def _place(name: str, names: list[Any], file: Path) -> int:
    if name not in names:
        raise InputError(f"names: expected classes that {file} knows, got '{name}'{suggest(name, names)}")
    return names.index(name)


def _images(rows: list[dict[str, Any]], folder: Path, problems: list[Problem]) -> _Images:
    ids, valid = integers(rows, "id")
    names = [row.get("file_name") for row in rows]
    named = np.array([isinstance(name, str) and bool(name) for name in names], dtype=bool)
    files = [os.path.normpath(os.path.join(folder, str(name))) for name in names]
    reasons = np.select(
        [~valid, ~named, _repeated(ids, valid), ~existing(files)],
        ["image without a whole-number id", "image without file_name", "duplicate image id", "missing image file"],
        default="",
    ).astype(object)
    sizes = _sizes(rows, files, reasons)
    bad = np.flatnonzero(reasons != "").tolist()
    problems += [Problem(files[n], "image", str(reasons[n])) for n in bad]
    keep = np.flatnonzero(reasons == "")
    return _Images(ids[keep], [files[n] for n in keep.tolist()], sizes[keep], np.unique(ids[valid]))


def _repeated(ids: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark every repetition of a valid id; the first of them stays unmarked."""
    repeated = valid.copy()
    repeated[np.flatnonzero(valid)[np.unique(ids[valid], return_index=True)[1]]] = False
    return repeated


def _sizes(rows: list[dict[str, Any]], files: list[str], reasons: NDArray[Any]) -> NDArray[np.int32]:
    """Sizes from the JSON; from the image's header where the JSON has none."""
    columns = [integers(rows, key) for key in ("height", "width")]
    sizes = np.stack([values for values, _ in columns], axis=1)
    known = np.logical_and.reduce([valid & (values > 0) & (values < _LARGEST_SIDE) for values, valid in columns])
    unknown = np.flatnonzero(~known & (reasons == ""))
    if len(unknown):
        found, faults = image_sizes([files[n] for n in unknown.tolist()])
        sizes[unknown] = found
        for k, fault in faults.items():
            reasons[unknown[k]] = f"unreadable image: {fault}"
    return sizes.clip(0, _LARGEST_SIDE).astype(np.int32)


def _boxes(rows: list[dict[str, Any]], images: _Images, categories: _Categories) -> _Boxes:
    image_id, image_valid = integers(rows, "image_id")
    category, category_valid = integers(rows, "category_id")
    image = np.where(image_valid, lookup(images.ids, image_id), -1)
    labels = np.where(category_valid, lookup(categories.ids, category), -1)
    xyxy = number_rows(rows, "bbox", 4)
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy[:, 2:] += xyxy[:, :2]
    sizes = images.sizes[image] if len(images.ids) else np.zeros((len(rows), 2), np.int32)
    boxes, codes = check_boxes(xyxy, sizes)
    codes = np.where(labels < 0, UNKNOWN_CATEGORY, codes)
    codes = np.where(image < 0, UNKNOWN_IMAGE, codes).astype(np.int8)
    went_with_image = image_valid & (image < 0) & (lookup(images.known, image_id) >= 0)
    left_out = category_valid & (labels < 0) & (lookup(categories.known, category) >= 0)
    return _Boxes(image, boxes, labels, codes, ~(went_with_image | left_out), went_with_image & ~left_out)


def _noted(ids: NDArray[np.int64], whole: NDArray[np.bool_], boxes: _Boxes, file: Path) -> list[Problem]:
    """Faults of annotations that lose no sound box of a sound image."""
    marks = {
        "annotation without a whole-number id": ~whole,
        "duplicate annotation id": _repeated(ids, whole),
        "box of a left-out image": boxes.stranded,
    }
    return [
        Problem(str(file), "notice", reason, int(ids[m]) if whole[m] else None)
        for reason, mark in marks.items()
        for m in np.flatnonzero(mark).tolist()
    ]


def _areas(rows: list[dict[str, Any]], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    areas, least = numbers(rows, "area"), float(np.finfo(np.float32).tiny)
    own = (areas >= least) & (areas < _LARGEST_SIDE**2)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return np.where(own, areas, sides.prod(axis=1).clip(min=least)).astype(np.float32)


def _segments(
    rows: list[dict[str, Any]],
    images: _Images,
    box_image: NDArray[np.int64],
    ann_ids: NDArray[np.int64],
    problems: list[Problem],
) -> Segments | None:
    segments, bad = pack_segments([row.get("segmentation") for row in rows])
    reasons = dict.fromkeys(bad, "unusable mask, box kept")
    if segments is not None:
        sizes = images.sizes
        wrong = [m for m, rle in segments.rles.items() if rle["size"] != sizes[box_image[m]].tolist()]
        reasons |= dict.fromkeys(wrong, "mask of another size than its image, box kept")
        for m in wrong:
            del segments.rles[m]
    problems += [Problem(images.files[box_image[m]], "notice", reasons[m], int(ann_ids[m])) for m in sorted(reasons)]
    return segments
