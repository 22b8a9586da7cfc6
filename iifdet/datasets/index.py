"""One split of one data set as flat arrays: what every reader produces and everything else starts from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iifdet.datasets.federated import Federated
from iifdet.datasets.segments import Segments
from iifdet.longtail.counts import ClassCounts, count_classes


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the data.

    Attributes:
        file: the file it concerns, with ``:line`` where that helps to find it.
        kind: ``image`` or ``box`` for what was dropped, ``notice`` for what was put right.
        reason: what is wrong; the same words for the same fault, so that problems can be counted.
        box: the annotation's id (COCO) or line (text labels), None where the image is meant.
    """

    file: str
    kind: str
    reason: str
    box: int | None = None


@dataclass(eq=False)
class DatasetIndex:
    """N images with M boxes. Boxes are sorted by image; labels run from 0 to C-1.

    Attributes:
        names: the C class names.
        root: folder that ``file_name`` in :meth:`to_coco` is relative to.
        files: N image files.
        sizes: (N, 2) int32 height and width as displayed.
        image_ids: (N,) int64, the data set's own ids.
        box_image: (M,) int64, row of the image, ascending.
        boxes: (M, 4) float32 xyxy in original pixels, inside the image.
        labels: (M,) int64.
        crowd: (M,) bool; crowds count in :meth:`counts` (as in the published counts) but are never targets.
        areas: (M,) float32, the annotation's own area where it has one (COCO's small/medium/large go by it).
        ann_ids: (M,) int64.
        category_ids: (C,) int64, label -> the data set's own category id.
        segments: masks of the boxes, or None.
        problems: what was dropped or put right while reading.
        federated: what LVIS says beside the boxes, None for other data.
        measured: whether a size came from an image file's header, because the annotations do not give it.
    """

    names: list[str]
    root: str
    files: list[str]
    sizes: NDArray[np.int32]
    image_ids: NDArray[np.int64]
    box_image: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    ann_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    segments: Segments | None = None
    problems: list[Problem] = field(default_factory=list)
    federated: Federated | None = None
    measured: bool = False

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) where each image's boxes start."""
        return np.searchsorted(self.box_image, np.arange(len(self) + 1)).astype(np.int64)

    def boxes_of(self, row: int) -> slice:
        """The boxes of one image, as a slice into the (M, …) arrays."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def counts(self) -> ClassCounts:
        """Count images and instances per class, crowds included."""
        return count_classes(
            torch.from_numpy(self.box_image), torch.from_numpy(self.labels), self.names, num_images=len(self)
        )

    def select(self, rows: Iterable[int] | NDArray[Any]) -> DatasetIndex:
        """Keep these images, in this order: row numbers without repeats, or an (N,) bool mask.

        Problems stay with the full index.
        """
        rows = row_numbers(rows, len(self))
        starts, lengths = self.offsets[rows], np.diff(self.offsets)[rows]
        ends = np.cumsum(lengths)
        take = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
        return DatasetIndex(
            names=list(self.names),
            root=self.root,
            files=[self.files[r] for r in rows.tolist()],
            sizes=self.sizes[rows],
            image_ids=self.image_ids[rows],
            box_image=np.repeat(np.arange(len(rows), dtype=np.int64), lengths),
            boxes=self.boxes[take],
            labels=self.labels[take],
            crowd=self.crowd[take],
            areas=self.areas[take],
            ann_ids=self.ann_ids[take],
            category_ids=self.category_ids.copy(),
            segments=None if self.segments is None else self.segments.select(take),
            federated=None if self.federated is None else self.federated.select(rows),
            measured=self.measured,
        )

    def to_coco(self, rows: Iterable[int] | None = None) -> dict[str, Any]:
        """Ground truth in COCO's form, for the evaluators.

        Annotation ids are the data set's own unless one of them is below 1: the reference evaluator takes id 0 for
        "no match", so those are numbered anew from 1.
        """
        index = self if rows is None else self.select(rows)
        renumber = len(index.ann_ids) > 0 and int(index.ann_ids.min()) < 1
        ann_ids = np.arange(1, len(index.ann_ids) + 1) if renumber else index.ann_ids
        images: list[dict[str, Any]] = [
            {"id": i, "file_name": _relative(file, index.root), "height": h, "width": w}
            for i, file, (h, w) in zip(index.image_ids.tolist(), index.files, index.sizes.tolist(), strict=True)
        ]
        categories: list[dict[str, Any]] = [
            {"id": i, "name": name} for i, name in zip(index.category_ids.tolist(), index.names, strict=True)
        ]
        if index.federated is not None:
            for table, fields in (
                (images, index.federated.image_fields(index.category_ids)),
                (categories, index.federated.category_fields()),
            ):
                for row, more in zip(table, fields, strict=True):
                    row |= more
        return {
            "info": {},
            "images": images,
            "annotations": _annotations(index, ann_ids.tolist()),
            "categories": categories,
        }

    def digest(self) -> str:
        """Hash of what this index says (not of the image files' bytes): equal data, equal digest, on any machine."""
        files = [_relative(file, self.root) for file in self.files]
        state = hashlib.sha256("\0".join([*self.names, "", *files]).encode())
        columns = [self.sizes, self.image_ids, self.box_image, self.boxes, self.labels, self.crowd, self.category_ids]
        masks = () if self.segments is None else self.segments.blocks()
        lists = () if self.federated is None else self.federated.columns()
        for column in chain(columns, masks, lists):
            state.update(np.ascontiguousarray(column).tobytes())
        return state.hexdigest()


def row_numbers(rows: Iterable[int] | NDArray[Any], length: int) -> NDArray[np.int64]:
    """Row numbers without repeats, or an (N,) bool mask, as int64 row numbers."""
    rows = np.asarray(list(rows) if not isinstance(rows, np.ndarray) else rows)
    if rows.dtype == bool:
        if rows.shape != (length,):
            raise ValueError(f"rows: expected a mask of {length} images, got shape {rows.shape}")
        rows = np.flatnonzero(rows)
    rows = rows.astype(np.int64).reshape(-1)
    if len(rows) and not (rows.min() >= 0 and rows.max() < length):
        raise ValueError(f"rows: expected 0…{length - 1}, got {rows.min()}…{rows.max()}")
    if len(np.unique(rows)) < len(rows):
        raise ValueError("rows: expected each image once; repeat images in the sampler, not in the index")
    return rows


def _relative(file: str, root: str) -> str:
    start = root.rstrip(os.sep) + os.sep
    if not file.startswith(start):
        return file
    rest = file[len(start) :]  # relpath asks for the working directory, file by file
    return (os.path.relpath(file, root) if ".." in rest else os.path.normpath(rest)).replace(os.sep, "/")


def _annotations(index: DatasetIndex, ann_ids: list[int]) -> list[dict[str, Any]]:
    boxes = index.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    image_ids = index.image_ids[index.box_image].tolist()
    categories = index.category_ids[index.labels].tolist()
    columns = (ann_ids, image_ids, categories, boxes.tolist(), index.areas.tolist(), index.crowd.tolist())
    found = [
        {"id": a, "image_id": i, "category_id": c, "bbox": b, "area": area, "iscrowd": int(crowd)}
        for a, i, c, b, area, crowd in zip(*columns, strict=True)
    ]
    if index.segments is not None:
        for box, annotation in enumerate(found):
            segment = index.segments.coco(box)
            if segment is not None:
                annotation["segmentation"] = segment
    return found
