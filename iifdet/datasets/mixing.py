"""Samples made of several images: when, and of which ones. Drawn by the sample's seed, from its batch's pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from iifdet.datasets.copy_paste import CopyPaste
from iifdet.datasets.mosaic import mixup, mosaic
from iifdet.datasets.partners import others
from iifdet.datasets.pieces import Piece
from iifdet.datasets.resizing import Size, pair
from iifdet.datasets.transforms import EvalTransform, Transformed

#: Sets the draws of this module apart from those of the transform, which starts from the same seed.
_STREAM = 1


class Pictures(Protocol):
    """A data set's pictures by row. Each comes with the row that was really read: another stands in for a bad one."""

    def __len__(self) -> int: ...

    def piece(self, row: int) -> tuple[int, Piece]:
        """The picture as it is read."""
        ...

    def tile(self, row: int) -> tuple[int, Piece]:
        """The picture at the size that it has in a mosaic."""
        ...


class Mixed(NamedTuple):
    """A sample, and the row and picture that it was made of first."""

    row: int
    piece: Piece
    sample: Transformed


@dataclass(frozen=True)
class Mixing:
    """Mosaic, mixup and copy-paste, each with its probability; by default none of them.

    Attributes:
        mosaic: probability of a mosaic of this image and three others.
        mixup: probability of blending with another sample.
        copy_paste: probability of pasting objects of rare classes onto an image, also onto those of a mosaic.
        paste: what pastes; needed where ``copy_paste`` is above 0.
        epochs: of the run.
        close: so many last epochs go without mosaic and mixup, if there is mosaic at all; 0 keeps them to the end.
    """

    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    paste: CopyPaste | None = None
    epochs: int | None = None
    close: int = 10

    def open(self, epoch: int) -> bool:
        """Whether mosaic and mixup act in this epoch (from 0): a function of the epoch alone, whatever was resumed.

        Example:
            >>> [Mixing(mosaic=1.0, epochs=12, close=10).open(epoch) for epoch in (0, 1, 2, 11)]
            [True, True, False, False]
        """
        if self.mosaic == 0 or self.close == 0 or self.epochs is None:
            return True
        return epoch < self.epochs - self.close

    def tiles(self, epoch: int) -> bool:
        """Whether any sample of this epoch is a mosaic."""
        return self.mosaic > 0 and self.open(epoch)

    def __call__(
        self,
        transform: EvalTransform,
        row: int,
        epoch: int,
        seed: int,
        pictures: Pictures,
        partners: Sequence[int] = (),
        size: Size | None = None,
    ) -> Mixed:
        """The sample of a row.

        Args:
            transform: what is done to each picture.
            row: of the data set.
            epoch: from 0.
            seed: of the sample.
            pictures: all of the data set.
            partners: rows that a mosaic or mixup may take; none of them for any.
            size: of this sample, where it is not the transform's own.
        """
        shape = pair(transform.size if size is None else size)
        if max(self.mosaic, self.mixup, self.copy_paste) == 0:
            row, piece = pictures.piece(row)
            return Mixed(row, piece, transform(piece.image, piece.boxes, piece.labels, piece.masks, seed, size=shape))
        rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
        draw = _Draw(self, transform, shape, rng, pictures, partners, self.open(epoch))
        out = draw.sample(row, seed)
        if draw.open and rng.random() < self.mixup:
            other = draw.others(out.row, 1)[0]
            second = draw.sample(other, int(rng.integers(2**32)))
            out = out._replace(sample=mixup(out.sample, second.sample, rng))
        return out


@dataclass
class _Draw:
    """One call of :class:`Mixing`."""

    mixing: Mixing
    transform: EvalTransform
    size: tuple[int, int]
    rng: np.random.Generator
    pictures: Pictures
    partners: Sequence[int]
    open: bool

    def sample(self, row: int, seed: int) -> Mixed:
        """One transformed picture: an image, or a mosaic around it."""
        tiled = self.open and self.rng.random() < self.mixing.mosaic
        row, first = self.pictures.tile(row) if tiled else self.pictures.piece(row)
        piece = self._pasted(first)
        if tiled:
            tiles = [self._pasted(self.pictures.tile(other)[1]) for other in self.others(row, 3)]
            piece = mosaic([piece, *tiles], self.size, self.rng)
        out = self.transform(piece.image, piece.boxes, piece.labels, piece.masks, seed, size=self.size, centre=tiled)
        return Mixed(row, first, out)

    def others(self, row: int, count: int) -> list[int]:
        """Rows of other pictures."""
        return others(self.rng, self.partners, len(self.pictures), row, count).tolist()

    def _pasted(self, piece: Piece) -> Piece:
        paste = self.mixing.paste
        if paste is None or self.rng.random() >= self.mixing.copy_paste:
            return piece
        return paste(piece, self.rng, self.pictures.piece)
