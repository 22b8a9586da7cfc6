"""A DatasetIndex as one .npz file of flat arrays and a JSON header; no pickles, checksums of every array."""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.federated import Federated
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.segments import RLE, Segments

_ARRAYS = ("sizes", "image_ids", "box_image", "boxes", "labels", "crowd", "areas", "ann_ids", "category_ids")
_MASKS = ("points", "rings", "parts")
_HEADER = "header"
_FEDERATED = "federated"


def write_index(file: IO[bytes], index: DatasetIndex, extra: dict[str, Any]) -> None:
    """Write an index and ``extra`` (plain values) beside it."""
    header: dict[str, Any] = {
        "extra": extra,
        "names": index.names,
        "root": index.root,
        "files": index.files,
        "measured": index.measured,
        "problems": [[p.file, p.kind, p.reason, p.box] for p in index.problems],
        "rles": [] if index.segments is None else _rle_forms(index.segments),
    }
    arrays: dict[str, NDArray[Any]] = {name: getattr(index, name) for name in _ARRAYS}
    if index.segments is not None:
        arrays |= {name: getattr(index.segments, name) for name in _MASKS} | _rle_counts(index.segments)
        arrays |= {} if index.segments.order is None else {"order": index.segments.order}
    if index.federated is not None:
        arrays |= {f"{_FEDERATED}{k}": column for k, column in enumerate(index.federated.columns())}
    header["arrays"] = sorted(arrays)
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(file, allow_pickle=False, **arrays)


def read_extra(stored: Any) -> dict[str, Any]:
    """What was written beside the index."""
    return dict(_header(stored)["extra"])


def read_index(stored: Any) -> DatasetIndex:
    """Read an index from ``np.load(file, allow_pickle=False)``; the file's checksums are checked on the way.

    Raises:
        Exception: of many kinds, where the file is damaged or something else.
    """
    header = _header(stored)
    if set(stored.files) != {_HEADER, *header["arrays"]}:  # checksums do not cover the list of arrays
        raise ValueError(f"arrays: expected {header['arrays']}, got {stored.files}")
    federated = [stored[f"{_FEDERATED}{k}"] for k in range(7)] if f"{_FEDERATED}0" in stored.files else None
    return DatasetIndex(
        names=header["names"],
        root=header["root"],
        files=header["files"],
        **{name: stored[name] for name in _ARRAYS},
        segments=_segments(stored, header["rles"]) if "points" in stored.files else None,
        problems=[Problem(*row) for row in header["problems"]],
        federated=None if federated is None else Federated.from_columns(federated),
        measured=header["measured"],
    )


def _header(stored: Any) -> dict[str, Any]:
    return dict(json.loads(stored[_HEADER].tobytes()))


def _rle_forms(segments: Segments) -> list[list[Any]]:
    """[slot, height, width, text or None]: counts that are a list stand in an array of their own."""
    rows = []
    for slot, rle in segments.rles.items():
        counts = rle["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        rows.append([slot, *rle["size"], None if isinstance(counts, list) else text])
    return rows


def _rle_counts(segments: Segments) -> dict[str, NDArray[np.int64]]:
    lists = [rle["counts"] for rle in segments.rles.values() if isinstance(rle["counts"], list)]
    values = [value for counts in lists for value in counts]
    ends = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return {"rle_ends": ends, "rle_counts": np.array(values, dtype=np.int64)}


def _segments(stored: Any, forms: list[list[Any]]) -> Segments:
    ends, counts = stored["rle_ends"].tolist(), stored["rle_counts"]
    rles: dict[int, RLE] = {}
    number = 0
    for slot, height, width, text in forms:
        if text is None:
            rles[slot] = {"size": [height, width], "counts": counts[ends[number] : ends[number + 1]].tolist()}
            number += 1
        else:
            rles[slot] = {"size": [height, width], "counts": text}
    order = stored["order"] if "order" in stored.files else None
    points, rings, parts = (stored[name] for name in _MASKS)
    return Segments(points, rings, parts, rles, order)
