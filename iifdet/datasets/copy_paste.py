"""Copy-paste of rare classes: objects cut from other images of the split, put onto this one.

After "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (Ghiasi et al. 2021), except
that what is pasted is drawn by class first, with a probability proportional to 1/sqrt(images of the class). The root is
that of square-root sampling (Mahajan et al. 2018): rare classes come first, and yet the one image of the rarest is not
pasted everywhere. An object without a mask in the data is cut out as a rectangle, and what else lies on that rectangle
comes along as objects of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.index import DatasetIndex
from iifdet.datasets.pasting import Patch, paste, place
from iifdet.datasets.pieces import MIN_SIDE, Piece, clip_boxes, mask_extents, short_sides, still_count
from iifdet.datasets.resizing import resize_masks

#: At most so many objects are pasted onto one image.
MOST = 3

#: Reads a row: the row that was really read (another stands in for an unreadable one) and its piece.
Read = Callable[[int], tuple[int, Piece]]


class CopyPaste:
    """Pastes objects of an index onto its images.

    Args:
        index: where the objects come from; crowds are never pasted.
    """

    def __init__(self, index: DatasetIndex) -> None:
        self.index = index
        usable = np.flatnonzero(~index.crowd & (short_sides(index.boxes) >= MIN_SIDE))
        self._boxes = usable[np.argsort(index.labels[usable], kind="stable")]
        classes = len(index.names)
        self._starts = np.searchsorted(index.labels[self._boxes], np.arange(classes + 1))
        self.probabilities = class_probabilities(index)

    def __call__(self, piece: Piece, rng: np.random.Generator, read: Read) -> Piece:
        """``piece`` with one to MOST objects on it; what they cover, objects beneath lose."""
        patches = []
        for _ in range(int(rng.integers(1, MOST + 1))):
            box, draws = self.draw(rng), rng.random(4)
            patch = None if box is None else self._patch(box, piece.image.shape[:2], draws, read)
            patches += [] if patch is None else [patch]
        return paste(piece, patches) if patches else piece

    def draw(self, rng: np.random.Generator) -> int | None:
        """A box: the class by its rarity, then evenly within the class. None where there is no object at all."""
        if not len(self._boxes):
            return None
        label = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return int(self._boxes[rng.integers(self._starts[label], self._starts[label + 1])])

    def _patch(self, box: int, shape: tuple[int, int], draws: NDArray[np.float64], read: Read) -> Patch | None:
        wanted = int(self.index.box_image[box])
        row, source = read(wanted)
        if row != wanted:  # its image cannot be read, and another stands in for it
            return None
        cut = self._cut(source, box)
        to_shape = min(shape[0] / source.image.shape[0], shape[1] / source.image.shape[1])
        return None if cut is None else place(cut, to_shape, shape, draws)

    def _cut(self, source: Piece, box: int) -> Piece | None:
        """A box of the index out of its piece, which a cache may have resized; first mask: which pixels are it."""
        height, width = self.index.sizes[self.index.box_image[box]].tolist()
        ratio = np.array([source.image.shape[1] / width, source.image.shape[0] / height] * 2, dtype=np.float32)
        x1, y1, x2, y2 = np.round(self.index.boxes[box] * ratio).astype(int).tolist()
        if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
            return None
        window = (slice(y1, y2), slice(x1, x2))
        own = None if self.index.segments is None else self.index.segments.mask(box, height, width)
        if own is not None:
            mask = resize_masks(own[None], source.image.shape[:2])[:, y1:y2, x1:x2]
            extent, some = mask_extents(mask)
            return Piece(source.image[window], extent, self.index.labels[box : box + 1], mask) if some[0] else None
        before = source.boxes - np.array([x1, y1, x1, y1], dtype=np.float32)
        after = clip_boxes(before, y2 - y1, x2 - x1)
        rows = np.flatnonzero(still_count(before, after))
        masks = None if source.masks is None else source.masks[rows][:, y1:y2, x1:x2]
        return Piece(source.image[window], after[rows], source.labels[rows], masks)


def class_probabilities(index: DatasetIndex) -> NDArray[np.float64]:
    """(C,) how likely each class is drawn: proportional to 1/sqrt(images with an object of it), 0 without one."""
    usable = ~index.crowd & (short_sides(index.boxes) >= MIN_SIDE)
    pairs = np.unique(np.stack([index.box_image[usable], index.labels[usable]]), axis=1)
    images = np.bincount(pairs[1], minlength=len(index.names))
    weights = np.where(images > 0, 1 / np.sqrt(np.maximum(images, 1)), 0.0)
    return np.asarray(weights / max(weights.sum(), 1e-300))
