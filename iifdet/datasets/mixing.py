"""Samples made of several images: when, and of which ones. Drawn by (seed, epoch, row) like everything else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iifdet.datasets.copy_paste import CopyPaste, Read
from iifdet.datasets.mosaic import mixup, mosaic, others
from iifdet.datasets.pieces import Piece
from iifdet.datasets.resizing import Size, pair
from iifdet.datasets.transforms import EvalTransform, Transformed

#: Sets the draws of this module apart from those of the transform, which starts from the same seed.
_STREAM = 1


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

    def __call__(
        self,
        transform: EvalTransform,
        row: int,
        piece: Piece,
        epoch: int,
        seed: int,
        read: Read,
        length: int,
        size: Size | None = None,
    ) -> Transformed:
        """The sample of a row.

        Args:
            transform: what is done to each picture.
            piece: the row's picture.
            seed: of the sample.
            read: reads other rows, or what stands in for them.
            length: number of rows.
            size: of this sample, where it is not the transform's own.
        """
        shape = pair(transform.size if size is None else size)
        if max(self.mosaic, self.mixup, self.copy_paste) == 0:
            return transform(piece.image, piece.boxes, piece.labels, piece.masks, seed, size=shape)
        rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
        draw = _Draw(self, transform, shape, rng, read, length, self.open(epoch))
        out = draw.sample(row, piece, seed)
        if draw.open and rng.random() < self.mixup:
            other, second = read(int(others(rng, length, row, 1)[0]))
            out = mixup(out, draw.sample(other, second, int(rng.integers(2**32))), rng)
        return out


@dataclass
class _Draw:
    """One call of :class:`Mixing`."""

    mixing: Mixing
    transform: EvalTransform
    size: tuple[int, int]
    rng: np.random.Generator
    read: Read
    length: int
    open: bool

    def sample(self, row: int, piece: Piece, seed: int) -> Transformed:
        """One transformed picture: an image, or a mosaic around it."""
        piece = self._pasted(piece)
        tiled = self.open and self.rng.random() < self.mixing.mosaic
        if tiled:
            rows = others(self.rng, self.length, row, 3).tolist()
            piece = mosaic([piece, *(self._pasted(self.read(r)[1]) for r in rows)], self.size, self.rng)
        return self.transform(piece.image, piece.boxes, piece.labels, piece.masks, seed, size=self.size, centre=tiled)

    def _pasted(self, piece: Piece) -> Piece:
        paste = self.mixing.paste
        if paste is None or self.rng.random() >= self.mixing.copy_paste:
            return piece
        return paste(piece, self.rng, self.read)
