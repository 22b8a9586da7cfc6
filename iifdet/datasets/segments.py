"""Instance masks of a whole split in a few flat arrays: polygons as points, run-length masks as they came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RLE = dict[str, Any]
#: No polygon reaches farther than this many pixels: pycocotools counts in 32 bits and crashes the process beyond.
FARTHEST = 100_000.0
#: From so many points on, a selection of more than half of the masks shares them instead of copying them.
SHARED_FROM = 1 << 22
#: Points that are whole hundredths of a pixel may be kept as such.
UNIT = 100
_BLOCK = 1 << 16


@dataclass
class Segments:
    """Masks of M boxes.

    Attributes:
        points: (P, 2) float64 xy, pixels of the original image; or int32, hundredths of a pixel, where all of a big
            file's coordinates are such: the same values in half the memory. Not float32: rasterising rounds, and the
            reference evaluator rounds float64.
        rings: (R + 1,) int64, polygon r is ``points[rings[r]:rings[r + 1]]``.
        parts: (S + 1,) int64, slot s has the polygons ``parts[s]:parts[s + 1]``.
        rles: slot -> COCO run-length mask, for those that have one instead.
        order: (M,) int64, the slot of each box; None where box m is slot m, as it is in all but big files.
    """

    points: NDArray[np.float64] | NDArray[np.int32]
    rings: NDArray[np.int64]
    parts: NDArray[np.int64]
    rles: dict[int, RLE] = field(default_factory=dict)
    order: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.parts) - 1 if self.order is None else len(self.order)

    def has(self, box: int) -> bool:
        """Whether this box has a mask of its own."""
        slot = self._slot(box)
        return slot in self.rles or bool(self.parts[slot + 1] > self.parts[slot])

    def missing(self) -> int:
        """How many boxes have no mask of their own.

        Example:
            >>> Segments(np.zeros((3, 2)), np.array([0, 3]), np.array([0, 0, 1])).missing()
            1
        """
        bare = np.diff(self.parts) == 0
        bare[list(self.rles)] = False
        return int((bare if self.order is None else bare[self.order]).sum())

    def coco(self, box: int) -> list[list[float]] | RLE | None:
        """The mask in COCO's form: list of flat polygons, RLE dict, or None where there is none."""
        slot = self._slot(box)
        if slot in self.rles:
            return self.rles[slot]
        rings = range(int(self.parts[slot]), int(self.parts[slot + 1]))
        return [_pixels(self.points[self.rings[r] : self.rings[r + 1]]).ravel().tolist() for r in rings] or None

    def _slot(self, box: int) -> int:
        return box if self.order is None else int(self.order[box])

    def mask(self, box: int, height: int, width: int) -> NDArray[np.uint8] | None:
        """Rasterise to (height, width) uint8 of 0 and 1 by COCO's own rules; None where there is no mask.

        Raises:
            ValueError: a run-length mask of another size.
        """
        from pycocotools import mask as coco_mask

        segment = self.coco(box)
        if segment is None:
            return None
        if isinstance(segment, dict):
            if [int(v) for v in segment["size"]] != [height, width]:
                raise ValueError(f"mask of box {box}: expected size {[height, width]}, got {segment['size']}")
            rle = coco_mask.frPyObjects(segment, height, width) if isinstance(segment["counts"], list) else segment
        else:
            rle = coco_mask.merge(coco_mask.frPyObjects(segment, height, width))
        return np.ascontiguousarray(coco_mask.decode(rle), dtype=np.uint8)

    def select(self, boxes: NDArray[np.int64]) -> Segments:
        """Keep these boxes, in this order. A large share of many masks refers to the same points, without a copy."""
        slots = boxes.astype(np.int64) if self.order is None else self.order[boxes]
        if len(self.points) >= SHARED_FROM and 2 * len(slots) > len(self.parts) - 1:
            return Segments(self.points, self.rings, self.parts, self.rles, slots)
        ring_of, parts = _ranges(self.parts, slots)
        point_of, rings = _ranges(self.rings, ring_of)
        rles = {new: self.rles[old] for new, old in enumerate(slots.tolist()) if old in self.rles} if self.rles else {}
        return Segments(self.points[point_of], rings, parts, rles)

    def plain(self) -> Segments:
        """The same masks with points in pixels and slots in box order, however they are kept."""
        if self.order is None and self.points.dtype != np.int32:
            return self
        slots = np.arange(len(self)) if self.order is None else self.order
        ring_of, parts = _ranges(self.parts, slots)
        point_of, rings = _ranges(self.rings, ring_of)
        rles = {new: self.rles[old] for new, old in enumerate(slots.tolist()) if old in self.rles}
        return Segments(_pixels(self.points[point_of]), rings, parts, rles)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """What the polygons say, however they are kept: points in box order (in blocks, pixels), rings, parts."""
        slots = np.arange(len(self)) if self.order is None else self.order
        ring_of, parts = _ranges(self.parts, slots)
        rings = _offsets(np.diff(self.rings)[ring_of])
        for start in range(0, len(ring_of), _BLOCK):
            yield _pixels(self.points[_ranges(self.rings, ring_of[start : start + _BLOCK])[0]])
        yield from (rings, parts)


def _pixels(points: NDArray[Any]) -> NDArray[np.float64]:
    # Division of a whole number by 100 gives the very float64 that parsing its decimal digits gives.
    return points / UNIT if points.dtype == np.int32 else points


def _ranges(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Concatenate the ranges ``offsets[r]:offsets[r + 1]`` of these rows; return their members and new offsets.

    Example:
        >>> members, offsets = _ranges(np.array([0, 2, 5]), np.array([1, 0]))
        >>> members.tolist(), offsets.tolist()
        ([2, 3, 4, 0, 1], [0, 3, 5])
    """
    lengths = offsets[rows + 1] - offsets[rows]
    new = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    members = np.arange(new[-1], dtype=np.int64) + np.repeat(offsets[rows] - new[:-1], lengths)
    return members, new


class Packed(NamedTuple):
    """Masks of some boxes on the way into :class:`Segments`.

    ``lengths`` are points a ring, ``counts`` rings a box, ``rles`` and ``bad`` (what makes no sense) go by box.
    """

    points: NDArray[np.float64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    rles: dict[int, RLE]
    bad: list[int]


def pack_segments(items: Sequence[Any]) -> tuple[Segments | None, list[int]]:
    """Pack raw ``segmentation`` fields; returns None when no item has one, and the items that make no sense.

    Args:
        items: per box a list of flat polygons, an RLE dict, or nothing. Polygons of fewer than 3 points are left out,
            as the reference tools do.
    """
    packed = pack(items)
    if not len(packed.points) and not packed.rles:
        return None, packed.bad
    return Segments(packed.points, _offsets(packed.lengths), _offsets(packed.counts), packed.rles), packed.bad


def pack(items: Sequence[Any]) -> Packed:
    """The arrays behind :func:`pack_segments`; anything goes in."""
    flat: list[Any] = []
    counts, bad = [], []
    rles: dict[int, RLE] = {}
    for box, item in enumerate(items):
        polygons: list[NDArray[np.float64]] = []
        if isinstance(item, dict):
            rle = _rle(item)
            bad += [] if rle else [box]
            rles |= {box: rle} if rle else {}
        elif item:
            polygons, good = _polygons(item)
            bad += [] if good and polygons else [box]
        flat += polygons
        counts.append(len(polygons))
    points = np.concatenate(flat) if flat else np.zeros((0, 2))
    return Packed(points, np.array([len(p) for p in flat], np.int64), np.array(counts, np.int64), rles, bad)


def pack_decoded(items: Sequence[list[list[float]] | RLE | None]) -> Packed:
    """:func:`pack` for items of known types: all rings in one step, unless one of them is odd."""
    polygons = [item if type(item) is list else () for item in items]
    rings = list(chain.from_iterable(polygons))
    lengths = np.fromiter(map(len, rings), np.int64, len(rings))
    values = np.fromiter(chain.from_iterable(rings), np.float64, int(lengths.sum()))
    if (lengths % 2).any() or (lengths < 6).any() or not (np.abs(values) <= FARTHEST).all():
        return pack(items)
    dicts = {box: _rle(item) for box, item in enumerate(items) if type(item) is dict}
    rles = {box: rle for box, rle in dicts.items() if rle is not None}
    counts = np.fromiter(map(len, polygons), np.int64, len(items))
    return Packed(values.reshape(-1, 2), lengths // 2, counts, rles, [box for box in dicts if box not in rles])


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _polygons(item: Any) -> tuple[list[NDArray[np.float64]], bool]:
    """Convert one annotation's polygons; the flag says whether all of it made sense."""
    if not isinstance(item, list):
        return [], False
    polygons = []
    for ring in item:
        try:
            values = np.asarray(ring, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            return [], False
        if values.ndim != 1 or len(values) % 2 or not (np.abs(values) <= FARTHEST).all():
            return [], False
        if len(values) >= 6:
            polygons.append(values.reshape(-1, 2))
    return polygons, True


def _rle(item: RLE) -> RLE | None:
    """Check an RLE's form; its runs must add up to its size."""
    size, counts = item.get("size"), item.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)):
        return None
    if isinstance(counts, list):
        whole = all(type(v) is int and v >= 0 for v in counts) and sum(counts) == size[0] * size[1]
        return {"size": size, "counts": counts} if whole else None
    if not isinstance(counts, (str, bytes)):
        return None
    try:
        runs = run_lengths(counts)
    except ValueError:
        return None
    whole = bool((runs >= 0).all()) and int(runs.sum()) == size[0] * size[1]
    return {"size": size, "counts": counts} if whole else None


def run_lengths(counts: str | bytes) -> NDArray[np.int64]:
    """Unpack COCO's compressed run lengths, as ``rleFrString`` in its maskApi.c does.

    Characters from 48 on hold 5 bits of a number each, lowest first; the sixth bit says that more follow, the last
    one's fifth bit is the sign; from the fourth number on they are differences to the number two before.

    Raises:
        ValueError: a character or number that never occurs, or the text ends inside a number.

    Example:
        >>> run_lengths("0814").tolist()
        [0, 8, 1, 12]
    """
    data = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((digits & 32) == 0)
    if not len(last) or last[-1] != len(digits) - 1 or digits.min() < 0 or digits.max() > 63:
        raise ValueError("expected compressed run lengths")
    starts = np.concatenate([[0], last[:-1] + 1])
    lengths = last - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("expected run lengths of an image, got a number beyond any")
    places = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((digits & 31) << places, starts)
    numbers -= np.where(digits[last] & 16, np.int64(1) << (5 * lengths), 0)
    for parity in (slice(1, None, 2), slice(2, None, 2)):
        numbers[parity] = np.cumsum(numbers[parity])
    return numbers


#: Characters that one number of a compressed RLE takes at most: 35 bits are more pixels than any image has.
_LONGEST = 7
