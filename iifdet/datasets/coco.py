"""Reader for COCO and LVIS JSON: 1) load 2) categories 3) images 4) annotations 5) check, clip, sort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.bounds import allowed_folders, refuse_outside
from iifdet.datasets.box_columns import BoxColumns
from iifdet.datasets.checking import (
    CLIPPED,
    UNKNOWN_CATEGORY,
    UNKNOWN_IMAGE,
    box_problems,
    check_boxes,
    lookup,
)
from iifdet.datasets.coco_json import load_json, read_coco_json
from iifdet.datasets.columns import integers
from iifdet.datasets.description import DataDescription, Split
from iifdet.datasets.federated import GROUPS, Federated, LabelLists
from iifdet.datasets.image_columns import ImageColumns
from iifdet.datasets.images import existing, image_sizes
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.segments import Segments
from iifdet.errors import InputError, suggest

_LARGEST_SIDE = 1_000_000
_BLOCK = 1 << 16  # boxes checked at once: what that takes in between stays small


__all__ = ["load_json", "read_coco", "read_lvis"]


class _Images(NamedTuple):
    ids: NDArray[np.int64]
    files: list[str]
    sizes: NDArray[np.int32]
    known: NDArray[np.int64]  # ids of dropped images too: their boxes go with them, without being faults themselves
    rows: NDArray[np.int64]  # place in the file
    measured: bool  # a size came from an image file


class _Categories(NamedTuple):
    ids: NDArray[np.int64]  # label -> id
    names: list[str]
    known: NDArray[np.int64]  # ids that the description's names leave out, too: their boxes are no faults either
    rows: list[dict[str, Any]]  # in label order, as they stand in the file


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
    return _read(description, split, segments, lvis=False)


def read_lvis(description: DataDescription, split: Split, *, segments: bool = True) -> DatasetIndex:
    """Read one split of LVIS v1: as :func:`read_coco`, with ``index.federated``.

    LVIS names an image by ``coco_url``; its last two parts (``train2017/000000391895.jpg``) are looked up under the
    images folder, or the last one alone where the folder holds the files itself. LVIS's own val split has images of
    COCO's train2017 and val2017 both, so the folder should be the one that holds the two.

    Raises:
        InputError: as :func:`read_coco`.
    """
    return _read(description, split, segments, lvis=True)


#: Above, ids leave no room for further ones.
MOST_ID = 1 << 62


def _distinct(ids: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The annotations' ids; those that repeat one, or are none, get numbers of their own above all others."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    own = first & valid
    distinct = ids.copy()
    highest = int(ids[own].max(initial=0))
    if highest > MOST_ID:
        return np.arange(1, len(ids) + 1)
    distinct[~own] = highest + 1 + np.arange((~own).sum())
    return distinct


def _read(description: DataDescription, split: Split, segments: bool, lvis: bool) -> DatasetIndex:
    file, folder = _places(split, description.need_images)
    content = read_coco_json(file, segments=segments)
    categories = _categories(content.categories, description.names, file)
    problems = _strangers(file, "images", "image", content.images.strangers)
    names = _image_names(content.images, lvis)
    files = _image_files(names, folder, lvis and description.need_images)
    refuse_outside(files, allowed_folders(description, split), file, "file_name or coco_url" if lvis else "file_name")
    images = _images(content.images, names, files, problems, description.need_images)
    rows = content.boxes
    problems += _strangers(file, "annotations", "box", rows.strangers)
    boxes = _boxes(rows, images, categories)
    codes = np.where(boxes.wanted, boxes.codes, 0).astype(np.int8)
    problems += box_problems(codes, lambda m: images.files[i] if (i := boxes.image[m]) >= 0 else str(file), rows.ids)
    problems += _noted(rows, boxes, file)
    keep = np.flatnonzero(boxes.wanted & ((boxes.codes == 0) | (boxes.codes == CLIPPED)))
    keep = keep[np.argsort(boxes.image[keep], kind="stable")]
    box_image, clipped, ids = boxes.image[keep], boxes.boxes[keep], rows.ids[keep]
    ann_ids = _distinct(ids, rows.valid[keep, 0])
    return DatasetIndex(
        names=categories.names,
        root=str(folder),
        files=images.files,
        sizes=images.sizes,
        image_ids=images.ids,
        box_image=box_image,
        boxes=clipped,
        labels=boxes.labels[keep],
        crowd=rows.crowd[keep],
        areas=_areas(rows.areas[keep], clipped),
        ann_ids=ann_ids,
        category_ids=categories.ids,
        segments=_segments(rows, keep, images, box_image, ann_ids, problems),
        problems=problems,
        federated=_federated(content.images, images, categories) if lvis else None,
        measured=images.measured,
    )


def _places(split: Split, need_images: bool) -> tuple[Path, Path]:
    if split.annotations is None:
        raise InputError("split: expected {images: folder, annotations: file.json}, got no annotations")
    if not split.annotations.is_file():
        raise InputError(f"annotations: expected the file {split.annotations}, which does not exist; {split.hint}")
    if len(split.images) != 1:
        raise InputError(f"images: expected one folder for COCO annotations, got {len(split.images)}")
    if need_images and not split.images[0].is_dir():
        raise InputError(f"images: expected the folder {split.images[0]}, which does not exist; {split.hint}")
    return split.annotations, split.images[0]


def _strangers(file: Path, key: str, kind: str, number: int) -> list[Problem]:
    return [Problem(str(file), kind, f"entry of '{key}' is not an object")] * number


def _categories(entries: list[Any], wanted: list[str] | None, file: Path) -> _Categories:
    rows = [row for row in entries if isinstance(row, dict)]
    ids, valid = integers(rows, "id")
    names = [row.get("name") for row in rows]
    if not rows or len(rows) < len(entries) or not valid.all():
        raise InputError(f"{file}: categories: expected objects with a whole-number id and a name")
    for name in names:
        if not isinstance(name, str) or not name:
            raise InputError(f"{file}: categories: expected a name for each, got {name!r}")
    for what, values in (("ids", ids.tolist()), ("names", names)):
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            raise InputError(f"{file}: categories: expected distinct {what}, got {twice[0]!r} twice; rename one")
    order = np.argsort(ids) if wanted is None else np.array([_place(name, names, file) for name in wanted])
    places = order.tolist()
    return _Categories(ids[order], [str(names[i]) for i in places], ids, [rows[i] for i in places])


def _place(name: str, names: list[Any], file: Path) -> int:
    if name not in names:
        raise InputError(f"names: expected classes that {file} knows, got '{name}'{suggest(name, names)}")
    return names.index(name)


def _image_names(columns: ImageColumns, lvis: bool) -> list[str | None]:
    if not lvis:
        return columns.names
    pairs = zip(columns.names, columns.urls, strict=True)
    return [name or (url and "/".join(url.split("/")[-2:])) for name, url in pairs]


def _image_files(names: list[str | None], folder: Path, look: bool) -> list[str]:
    """Paths of the files; ``look`` for those of LVIS in the folder itself, too."""
    files = [_inside(folder, str(name)) for name in names]
    if look:
        missing = np.flatnonzero(~existing(files)).tolist()
        flat = [_inside(folder, os.path.basename(files[n])) for n in missing]
        for n, file, found in zip(missing, flat, existing(flat).tolist(), strict=True):
            files[n] = file if found else files[n]
    return files


def _inside(folder: Path, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def _images(
    columns: ImageColumns, names: list[str | None], files: list[str], problems: list[Problem], need_files: bool
) -> _Images:
    ids, valid = columns.ids, columns.valid
    named = np.array([name is not None for name in names], dtype=bool)
    absent = ~existing(files) if need_files else ~columns.sized & ~existing(files)
    missing = "missing image file" if need_files else "image with neither a size nor a file"
    reasons = np.select(
        [~valid, ~named, _repeated(ids, valid), absent],
        ["image without a whole-number id", "image without file_name", "duplicate image id", missing],
        default="",
    ).astype(object)
    sizes, measured = _sizes(columns, files, reasons)
    bad = np.flatnonzero(reasons != "").tolist()
    problems += [Problem(files[n], "image", str(reasons[n])) for n in bad]
    keep = np.flatnonzero(reasons == "")
    return _Images(ids[keep], [files[n] for n in keep.tolist()], sizes[keep], np.unique(ids[valid]), keep, measured)


def _repeated(ids: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark every repetition of a valid id; the first of them stays unmarked."""
    repeated = valid.copy()
    repeated[np.flatnonzero(valid)[np.unique(ids[valid], return_index=True)[1]]] = False
    return repeated


def _sizes(columns: ImageColumns, files: list[str], reasons: NDArray[Any]) -> tuple[NDArray[np.int32], bool]:
    """Sizes from the JSON; from the image's header where the JSON has none."""
    sizes = columns.sizes.copy()
    unknown = np.flatnonzero(~columns.sized & (reasons == ""))
    if len(unknown):
        found, faults = image_sizes([files[n] for n in unknown.tolist()])
        sizes[unknown] = found
        for k, fault in faults.items():
            reasons[unknown[k]] = f"unreadable image: {fault}"
    return sizes.clip(0, _LARGEST_SIDE).astype(np.int32), len(unknown) > 0


def _boxes(rows: BoxColumns, images: _Images, categories: _Categories) -> _Boxes:
    image_valid, category_valid = rows.valid[:, 1], rows.valid[:, 2]
    image = np.where(image_valid, lookup(images.ids, rows.image_ids), -1)
    labels = np.where(category_valid, lookup(categories.ids, rows.category_ids), -1)
    boxes, codes = np.zeros((len(image), 4), np.float32), np.zeros(len(image), np.int8)
    for start in range(0, len(image), _BLOCK):
        block = slice(start, start + _BLOCK)
        xyxy = rows.bbox[block].copy()
        with np.errstate(over="ignore", invalid="ignore"):
            xyxy[:, 2:] += xyxy[:, :2]
        sizes = images.sizes[image[block]] if len(images.ids) else np.zeros((len(xyxy), 2), np.int32)
        boxes[block], codes[block] = check_boxes(xyxy, sizes)
    codes = np.where(labels < 0, UNKNOWN_CATEGORY, codes)
    codes = np.where(image < 0, UNKNOWN_IMAGE, codes).astype(np.int8)
    went_with_image = image_valid & (image < 0) & (lookup(images.known, rows.image_ids) >= 0)
    left_out = category_valid & (labels < 0) & (lookup(categories.known, rows.category_ids) >= 0)
    return _Boxes(image, boxes, labels, codes, ~(went_with_image | left_out), went_with_image & ~left_out)


def _noted(rows: BoxColumns, boxes: _Boxes, file: Path) -> list[Problem]:
    """Faults of annotations that lose no sound box of a sound image."""
    whole = rows.valid[:, 0]
    marks = {
        "annotation without a whole-number id": ~whole,
        "duplicate annotation id": _repeated(rows.ids, whole),
        "box of a left-out image": boxes.stranded,
    }
    return [
        Problem(str(file), "notice", reason, int(rows.ids[m]) if whole[m] else None)
        for reason, mark in marks.items()
        for m in np.flatnonzero(mark).tolist()
    ]


def _areas(areas: NDArray[np.float64], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    least = float(np.finfo(np.float32).tiny)
    own = (areas >= least) & (areas < _LARGEST_SIDE**2)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return np.where(own, areas, sides.prod(axis=1).clip(min=least)).astype(np.float32)


def _segments(
    rows: BoxColumns,
    keep: NDArray[np.int64],
    images: _Images,
    box_image: NDArray[np.int64],
    ann_ids: NDArray[np.int64],
    problems: list[Problem],
) -> Segments | None:
    """Masks of the boxes that are kept; run-length masks of another size than their image are dropped."""
    if rows.segments is None:
        return None
    place = np.full(len(rows.ids), -1, dtype=np.int64)
    place[keep] = np.arange(len(keep))
    wrong = [
        slot
        for slot, rle in rows.segments.rles.items()
        if (m := place[slot]) >= 0 and rle["size"] != images.sizes[box_image[m]].tolist()
    ]
    for slot in wrong:
        del rows.segments.rles[slot]
    reasons = {int(place[slot]): "unusable mask, box kept" for slot in rows.bad_masks if place[slot] >= 0}
    reasons |= {int(place[slot]): "mask of another size than its image, box kept" for slot in wrong}
    problems += [Problem(images.files[box_image[m]], "notice", reasons[m], int(ann_ids[m])) for m in sorted(reasons)]
    segments, parts = rows.segments.select(keep), np.diff(rows.segments.parts)
    return segments if parts[keep].any() or (place[list(rows.segments.rles)] >= 0).any() else None


def _federated(columns: ImageColumns, images: _Images, categories: _Categories) -> Federated:
    rows = images.rows.tolist()
    label = {int(i): c for c, i in enumerate(categories.ids.tolist())}
    negative, rest = (
        LabelLists.pack([[label[i] for i in lists[n] if i in label] for n in rows])
        for lists in (columns.negative, columns.not_exhaustive)
    )
    groups = [row.get("frequency") for row in categories.rows]
    places = [GROUPS.index(g) if isinstance(g, str) and len(g) == 1 and g in GROUPS else -1 for g in groups]
    counted = [integers(categories.rows, key) for key in ("image_count", "instance_count")]
    counts = (np.where(valid & (values >= 0), values, -1) for values, valid in counted)
    return Federated(negative, rest, np.array(places, dtype=np.int8), *counts)
