"""Reader for YOLO text labels: 1) list images 2) read their sizes 3) parse label files 4) check, clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.checking import (
    CLASS_RANGE,
    CLIPPED,
    DUPLICATE,
    box_problems,
    check_boxes,
    find_duplicates,
)
from iifdet.datasets.description import DataDescription, Split
from iifdet.datasets.images import existing, image_sizes
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.listing import list_images, number_images
from iifdet.datasets.segments import pack_segments
from iifdet.errors import InputError

#: How far outside [0, 1] a coordinate may lie and still count as rounding.
TOLERANCE = 1e-3


@dataclass
class _Rows:
    """Label rows of all files, one entry a box."""

    image: list[int] = field(default_factory=list)
    line: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    box: list[tuple[float, float, float, float]] = field(default_factory=list)  # xyxy as shares of the image
    polygon: list[list[float] | None] = field(default_factory=list)


def read_yolo(description: DataDescription, split: Split, *, segments: bool = True) -> DatasetIndex:
    """Read one split. Images without a label file have no boxes and stay.

    Raises:
        InputError: no names, no images, or not a single label file.
    """
    names = description.names
    if names is None:
        raise InputError(f"{description.name}: expected 'names', the list of classes that text labels number; got none")
    problems: list[Problem] = []
    files = _keep_readable(list_images(description, split), problems)
    sizes = _sizes(files, problems)
    readable = np.flatnonzero(sizes[:, 0] > 0)
    files, sizes = [files[n] for n in readable.tolist()], sizes[readable]
    label_files = [label_file(file) for file in files]
    rows = _read_labels(label_files, problems)
    return _index(files, sizes, label_files, rows, names, description.root, problems, segments)


def label_file(image: str) -> str:
    """Where an image's labels lie: the last ``images`` folder becomes ``labels``, the suffix ``.txt``.

    Example:
        >>> Path(label_file("data/images/train/7.jpg")).as_posix()
        'data/labels/train/7.txt'
    """
    parts = list(Path(image).with_suffix(".txt").parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            parts[k] = "labels"
            break
    return str(Path(*parts))


def _keep_readable(files: list[str], problems: list[Problem]) -> list[str]:
    present = existing(files).tolist()
    problems += [Problem(f, "image", "missing image file") for f, ok in zip(files, present, strict=True) if not ok]
    return [file for file, ok in zip(files, present, strict=True) if ok]


def _sizes(files: list[str], problems: list[Problem]) -> NDArray[np.int32]:
    sizes, faults = image_sizes(files)
    problems += [Problem(files[n], "image", f"unreadable image: {fault}") for n, fault in faults.items()]
    return sizes


def _read_labels(label_files: list[str], problems: list[Problem]) -> _Rows:
    rows, present = _Rows(), existing(label_files)
    if len(label_files) and not present.any():
        raise InputError(f"labels: expected text files such as {label_files[0]}, found none; check 'path'")
    for image in np.flatnonzero(present).tolist():
        file = label_files[image]
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            problems.append(Problem(file, "box", f"unreadable label file: {error.strerror}"))
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            fault = _parse(line.split(), image, number, rows)
            if fault:
                problems.append(Problem(f"{file}:{number}", "box", fault, number))
    return rows


def _parse(words: list[str], image: int, number: int, rows: _Rows) -> str | None:
    """Append one label row, or say what is wrong with it. Blank lines are fine."""
    if not words:
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        return "label row is not all numbers"
    label, shape = values[0], values[1:]
    is_box, is_polygon = len(shape) == 4, len(shape) >= 6 and len(shape) % 2 == 0
    if not (is_box or is_polygon):
        return "label row has the wrong number of values"
    if not all(math.isfinite(value) for value in values):
        return "label row has a value that is not finite"
    if not label.is_integer() or abs(label) > 1e9:
        return "class is not a whole number"
    if min(shape) < -TOLERANCE or max(shape) > 1 + TOLERANCE:
        return "coordinate outside 0…1"
    rows.image.append(image)
    rows.line.append(number)
    rows.label.append(int(label))
    rows.box.append(_corners(shape) if is_box else _extent(shape))
    rows.polygon.append(None if is_box else shape)
    return None


def _corners(shape: list[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = shape
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _extent(shape: list[float]) -> tuple[float, float, float, float]:
    xs, ys = shape[0::2], shape[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _index(
    files: list[str],
    sizes: NDArray[np.int32],
    label_files: list[str],
    rows: _Rows,
    names: list[str],
    root: Path,
    problems: list[Problem],
    segments: bool,
) -> DatasetIndex:
    image, labels = np.array(rows.image, dtype=np.int64), np.array(rows.label, dtype=np.int64)
    lines, shares = np.array(rows.line, dtype=np.int64), np.array(rows.box, dtype=np.float64).reshape(-1, 4)
    scale = sizes[image][:, [1, 0, 1, 0]].astype(np.float64)  # (M, 4) width, height, width, height
    boxes, codes = check_boxes(shares * scale, sizes[image])
    codes = np.where((codes == 0) & find_duplicates(image, labels, boxes), DUPLICATE, codes)
    codes = np.where((labels < 0) | (labels >= len(names)), CLASS_RANGE, codes).astype(np.int8)
    problems += box_problems(codes, lambda m: f"{label_files[image[m]]}:{lines[m]}", lines)
    keep = np.flatnonzero((codes == 0) | (codes == CLIPPED))
    masks = None
    if segments:
        polygons = [rows.polygon[m] for m in keep.tolist()]
        masks, _ = pack_segments([None if p is None else [p] for p in polygons])
        if masks is not None:
            per_ring = np.repeat(np.arange(len(keep)), np.diff(masks.parts))
            masks.points *= np.repeat(scale[keep][per_ring, :2], np.diff(masks.rings), axis=0)
    boxes = boxes[keep]
    return DatasetIndex(
        names=list(names),
        root=str(root),
        files=files,
        sizes=sizes,
        image_ids=number_images(files),
        box_image=image[keep],
        boxes=boxes,
        labels=labels[keep],
        crowd=np.zeros(len(keep), dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        ann_ids=np.arange(1, len(keep) + 1, dtype=np.int64),
        category_ids=np.arange(len(names), dtype=np.int64),
        segments=masks,
        problems=problems,
    )
