"""Boxes that are sound and still look wrong: hotcoco's health check on an index of any format."""

from __future__ import annotations

from typing import Any

import numpy as np

from iifdet.datasets.findings import ASPECT, NEAR_DUPLICATE, Finding
from iifdet.datasets.health import repeated_boxes
from iifdet.datasets.index import DatasetIndex

#: hotcoco's code -> severity and reason. Its other codes concern what readers and :mod:`iifdet.datasets.health` report
#: with file and box already.
CODES = {"near_duplicate": ("warning", NEAR_DUPLICATE), "extreme_aspect_ratio": ("notice", ASPECT)}


def find_lookalikes(index: DatasetIndex, split: str) -> list[Finding]:
    """Boxes of one class that overlap by more than 0.95 IoU (each of them is named), and extremely long ones.

    Crowds are left out, and so are exact duplicates, which the readers or the check name by themselves.
    """
    import hotcoco

    boxes = index.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows = np.setdiff1d(np.flatnonzero(~index.crowd), repeated_boxes(index))
    report = hotcoco.COCO(_coco(index, rows, boxes[rows])).healthcheck()
    found = []
    for entry in [*report["errors"], *report["warnings"]]:
        if entry["code"] in CODES:
            severity, reason = CODES[entry["code"]]
            # Ids are rows + 1, see below.
            for m in sorted(number - 1 for number in entry["affected_ids"]):
                name, file = index.names[index.labels[m]], index.files[index.box_image[m]]
                found.append(Finding(severity, split, file, reason, name, int(index.ann_ids[m])))
    return found


def _coco(index: DatasetIndex, rows: Any, xywh: Any) -> dict[str, Any]:
    """Boxes alone, numbered from 1 by their row: masks would only cost time here."""
    columns = (rows.tolist(), index.box_image[rows].tolist(), index.labels[rows].tolist(), xywh.tolist())
    return {
        "images": [
            {"id": n, "file_name": "", "height": h, "width": w} for n, (h, w) in enumerate(index.sizes.tolist())
        ],
        "annotations": [
            {"id": m + 1, "image_id": n, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for m, n, c, box in zip(*columns, strict=True)
        ],
        "categories": [{"id": c, "name": str(c)} for c in range(len(index.names))],
    }
