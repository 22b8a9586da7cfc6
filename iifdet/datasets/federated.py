"""What a federated data set such as LVIS says beside its boxes: where a class was looked for, and how common it is.

LVIS (Gupta et al. 2019, section 3) does not label every class in every image. An image's *negative* classes are known
to be absent; of its *not exhaustive* classes only some instances are labelled. All others without a box are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: LVIS's frequency groups by training images: rare (1–10), common (11–100), frequent.
GROUPS = "rcf"


@dataclass(frozen=True)
class LabelLists:
    """A list of labels for each of N images: image n has ``labels[offsets[n]:offsets[n + 1]]``.

    Attributes:
        offsets: (N + 1,) int64.
        labels: (K,) int64.
    """

    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]

    @classmethod
    def pack(cls, lists: list[list[int]]) -> LabelLists:
        """Pack N lists.

        Example:
            >>> LabelLists.pack([[3], [], [1, 2]]).of(2).tolist()
            [1, 2]
        """
        offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
        return cls(offsets, np.array([v for values in lists for v in values], dtype=np.int64))

    def of(self, image: int) -> NDArray[np.int64]:
        """The labels of one image."""
        return self.labels[self.offsets[image] : self.offsets[image + 1]]

    def select(self, rows: NDArray[np.int64]) -> LabelLists:
        """Keep these images, in this order."""
        return LabelLists.pack([self.of(row).tolist() for row in rows.tolist()])

    def relabel(self, new: NDArray[np.int64]) -> LabelLists:
        """Labels ``new[label]``; those that become -1 leave the lists.

        Example:
            >>> lists = LabelLists.pack([[0, 2], [1]]).relabel(np.array([-1, 0, 1]))
            >>> lists.of(0).tolist(), lists.of(1).tolist()
            ([1], [0])
        """
        labels = new[self.labels]
        kept = labels >= 0
        before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        return LabelLists(before[self.offsets], labels[kept])


@dataclass(frozen=True)
class Federated:
    """The federated part of an index of N images and C classes.

    Attributes:
        negative: labels known to be absent from each image.
        not_exhaustive: labels of which an image may hold more instances than are labelled.
        frequency: (C,) int8, place in GROUPS, -1 where the file does not say.
        image_count: (C,) int64, images with the class in the data set's training split, -1 where the file does not say.
        instance_count: (C,) int64, likewise.
    """

    negative: LabelLists
    not_exhaustive: LabelLists
    frequency: NDArray[np.int8]
    image_count: NDArray[np.int64]
    instance_count: NDArray[np.int64]

    def groups(self) -> dict[str, list[int]] | None:
        """Labels by the file's own frequency groups; None where it does not group every class."""
        if (self.frequency < 0).any():
            return None
        names = ("rare", "common", "frequent")
        return {name: np.flatnonzero(self.frequency == place).tolist() for place, name in enumerate(names)}

    def select(self, rows: NDArray[np.int64]) -> Federated:
        """Keep these images, in this order."""
        return Federated(
            self.negative.select(rows),
            self.not_exhaustive.select(rows),
            self.frequency,
            self.image_count,
            self.instance_count,
        )

    def choose(self, kept: NDArray[np.int64]) -> Federated:
        """Keep these classes, which become 0…K-1 in this order."""
        new = np.full(len(self.frequency), -1, dtype=np.int64)
        new[kept] = np.arange(len(kept))
        return Federated(
            self.negative.relabel(new),
            self.not_exhaustive.relabel(new),
            self.frequency[kept],
            self.image_count[kept],
            self.instance_count[kept],
        )

    def columns(self) -> list[NDArray[Any]]:
        """All of it, in a fixed order."""
        lists = (self.negative.offsets, self.negative.labels, self.not_exhaustive.offsets, self.not_exhaustive.labels)
        return [*lists, self.frequency, self.image_count, self.instance_count]

    @classmethod
    def from_columns(cls, columns: list[NDArray[Any]]) -> Federated:
        """The inverse of :meth:`columns`."""
        return cls(LabelLists(*columns[:2]), LabelLists(*columns[2:4]), *columns[4:])

    def image_fields(self, category_ids: NDArray[np.int64]) -> list[dict[str, list[int]]]:
        """LVIS's keys of each image, with category ids."""
        return [
            {
                "neg_category_ids": category_ids[self.negative.of(n)].tolist(),
                "not_exhaustive_category_ids": category_ids[self.not_exhaustive.of(n)].tolist(),
            }
            for n in range(len(self.negative.offsets) - 1)
        ]

    def category_fields(self) -> list[dict[str, Any]]:
        """LVIS's keys of each category, as far as they are known."""
        columns = zip(self.frequency.tolist(), self.image_count.tolist(), self.instance_count.tolist(), strict=True)
        return [
            ({"frequency": GROUPS[place]} if place >= 0 else {})
            | ({"image_count": images} if images >= 0 else {})
            | ({"instance_count": instances} if instances >= 0 else {})
            for place, images, instances in columns
        ]
