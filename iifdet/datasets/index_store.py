"""A DatasetIndex as one .npz file of flat arrays and a JSON header; no pickles, checksums of every array."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from pathlib import Path
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


#: Arrays of at least so many bytes stay in the file.
MAPPED_FROM = 1 << 25


class StoredArrays:
    """The arrays of an uncompressed .npz file, each checked against its checksum.

    ``np.load`` takes them through the zip reader in small pieces, which costs six times as much for a large index. Here
    small ones are read in one go, and large ones (the points of all masks) stay in the file and are mapped read-only.

    Raises:
        Exception: of many kinds, where the file is damaged or something else.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            with zipfile.ZipFile(self._file) as archive:
                self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except BaseException:
            self._file.close()
            raise
        self.files = list(self._members)

    def __enter__(self) -> StoredArrays:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> NDArray[Any]:
        info = self._members[name]
        self._file.seek(info.header_offset)
        local = self._file.read(30)  # its last two pairs of bytes: lengths of the name and of the extra field
        start = (
            info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        )
        self._file.seek(start)
        if np.lib.format.read_magic(self._file) != (1, 0):
            raise ValueError(f"{name}: expected version 1.0 of the format")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(self._file)
        data = self._file.tell()
        size = math.prod(shape) * dtype.itemsize
        if by_columns or dtype.hasobject or data + size - start != info.file_size:
            raise ValueError(f"{name}: expected {info.file_size} bytes of a plain array")
        if size >= MAPPED_FROM:
            array: NDArray[Any] = np.memmap(self._file, dtype, "r", data, shape).view(np.ndarray)
        else:
            array = np.fromfile(self._file, dtype, math.prod(shape)).reshape(shape)
        self._file.seek(start)
        checksum = zlib.crc32(array.data, zlib.crc32(self._file.read(data - start)))
        if checksum != info.CRC:
            raise ValueError(f"{name}: expected checksum {info.CRC}, got {checksum}")
        return array


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


def read_extra(stored: StoredArrays) -> dict[str, Any]:
    """What was written beside the index."""
    return dict(_header(stored)["extra"])


def read_index(stored: StoredArrays) -> DatasetIndex:
    """Read an index; checksums are checked on the way.

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


def _header(stored: StoredArrays) -> dict[str, Any]:
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


def _segments(stored: StoredArrays, forms: list[list[Any]]) -> Segments:
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
