"""One split of one data set of classification: where its images are, and one label for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from iifdet.datasets.classification.stores import Store
from iifdet.datasets.images import THREADS, ImageError, decode_image
from iifdet.datasets.index import Problem, row_numbers
from iifdet.errors import InputError
from iifdet.longtail.counts import ClassCounts

Images = NDArray[np.uint8]


class ImageSource(Protocol):
    """N images, read one at a time."""

    @property
    def names(self) -> Sequence[str]:
        """(N,) names, the same on every machine."""
        ...

    def __len__(self) -> int: ...

    def file(self, row: int) -> str:
        """What messages call one image: its path, where it has one."""
        ...

    def read(self, row: int) -> Images:
        """(H, W, 3) uint8 RGB.

        Raises:
            ImageError: missing or unreadable.
        """
        ...

    def select(self, rows: NDArray[np.int64]) -> ImageSource:
        """These images, in this order."""
        ...


@dataclass(frozen=True)
class StoredImages:
    """Image files in a folder or a zip file."""

    store: Store
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def file(self, row: int) -> str:
        return f"{self.store.path / self.names[row]}"

    def read(self, row: int) -> Images:
        return decode_image(self.store.read(self.names[row]), self.file(row))

    def read_bytes(self, row: int) -> bytes:
        """The file as it is.

        Raises:
            ImageError: missing or damaged.
        """
        return self.store.read(self.names[row])

    def select(self, rows: NDArray[np.int64]) -> StoredImages:
        return replace(self, names=[self.names[row] for row in rows.tolist()])


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size in memory: (N, H, W, 3) uint8 RGB."""

    array: Images
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.array)

    def file(self, row: int) -> str:
        return self.names[row]

    def read(self, row: int) -> Images:
        return self.array[row]

    def select(self, rows: NDArray[np.int64]) -> ArrayImages:
        return ArrayImages(self.array[rows], [self.names[row] for row in rows.tolist()])


@dataclass(frozen=True)
class ClassIndex:
    """N images of C classes.

    Attributes:
        names: the C class names.
        source: the images.
        labels: (N,) int64 in 0…C-1.
        ids: (N,) int64, row of each image in the whole split: it stays when a part is selected.
        root: what the data set is called in messages.
        problems: what was dropped while reading; it stays with the whole split's index.

    Raises:
        ValueError: lengths differ, or a label is outside.
    """

    names: list[str]
    source: ImageSource
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    root: str = ""
    problems: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.source) == len(self.labels) == len(self.ids):
            got = f"{len(self.source)} images, {len(self.labels)} labels, {len(self.ids)} ids"
            raise ValueError(f"index: expected as many labels as images, got {got}")
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < len(self.names)):
            low, high = int(self.labels.min()), int(self.labels.max())
            raise ValueError(f"labels: expected 0…{len(self.names) - 1}, got {low}…{high}")

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        source: ImageSource,
        labels: Any,
        root: str = "",
        problems: Sequence[Problem] = (),
    ) -> ClassIndex:
        """An index of a whole split."""
        labels = np.asarray(labels, dtype=np.int64).reshape(-1)
        return cls(list(names), source, labels, np.arange(len(labels), dtype=np.int64), root, tuple(problems))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def array(self) -> Images | None:
        """(N, H, W, 3) uint8 where all images are in memory, else None."""
        return self.source.array if isinstance(self.source, ArrayImages) else None

    @property
    def files(self) -> list[str]:
        """What messages call the images: their paths, where they have some."""
        return [self.source.file(row) for row in range(len(self))]

    def file(self, row: int) -> str:
        """What messages call an image."""
        return self.source.file(row)

    def read(self, row: int) -> Images:
        """(H, W, 3) uint8 RGB of one image.

        Raises:
            ImageError: missing or unreadable.
        """
        return self.source.read(row)

    def counts(self) -> ClassCounts:
        """How many images each class has; an image has one label, so instances are the same."""
        images = torch.from_numpy(np.bincount(self.labels, minlength=len(self.names)))
        return ClassCounts(list(self.names), images, images, num_images=len(self))

    def select(self, rows: Iterable[int] | NDArray[Any]) -> ClassIndex:
        """Keep these images, in this order: row numbers without repeats, or an (N,) bool mask."""
        rows = row_numbers(rows, len(self))
        part = self.source.select(rows)
        return replace(self, source=part, labels=self.labels[rows], ids=self.ids[rows], problems=())

    def holdout(self, share: float, seed: int = 0) -> tuple[ClassIndex, ClassIndex]:
        """Split into (the rest, ``share`` of the images), class by class, each in its old order.

        Of every class ``share`` of its images are held out, rounded, but at least one where it has two or more; one
        always stays. The same seed and data give the same images.

        Raises:
            InputError: share is not between 0 and 1, or nothing can be held out.
        """
        if not 0 < share < 1:
            raise InputError(f"holdout: expected a share above 0 and below 1, got {share}")
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self), dtype=bool)
        for label in range(len(self.names)):
            rows = rng.permutation(np.flatnonzero(self.labels == label))
            held[rows[: min(max(int(share * len(rows) + 0.5), 1), len(rows) - 1)]] = len(rows) > 1
        if not held.any():
            raise InputError(f"holdout: expected a class with two images or more, got {len(self)} images of as many")
        return self.select(~held), self.select(held)

    def in_memory(self) -> ClassIndex:
        """The same with all images read into one (N, H, W, 3) array.

        Raises:
            InputError: an image cannot be read, or has another size than the first one.
        """
        if self.array is not None or not len(self):
            return self
        first = self._read_or_refuse(0)
        array = np.empty((len(self), *first.shape), dtype=np.uint8)

        def fill(row: int) -> None:
            image = self._read_or_refuse(row)
            if image.shape != first.shape:
                expected, got = ("x".join(map(str, i.shape[:2])) for i in (first, image))
                raise InputError(
                    f"{self.file(row)}: expected {expected} pixels as in the first image, got {got}; use cache=false, "
                    "which resizes them (photographs also want imgsz=224 and a model such as se_resnet50)"
                )
            array[row] = image

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(fill, range(len(self))):
                pass
        return replace(self, source=ArrayImages(array, list(self.source.names)))

    def digest(self) -> str:
        """Hash of names, labels and what images are called (not of their pixels): equal data, equal digest."""
        state = hashlib.sha256("\0".join([*self.names, "", *self.source.names]).encode("utf-8", "surrogateescape"))
        state.update(self.labels.tobytes())
        return state.hexdigest()

    def _read_or_refuse(self, row: int) -> Images:
        try:
            return self.read(row)
        except ImageError as error:
            raise InputError(
                f"images: expected readable files, got {error}; repair or remove it, or use cache=false, which lets "
                "max_bad of them be"
            ) from error
