"""What every task's result has: the picture it is about, and a copy with the finding on it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Self

from torch import Tensor

from iifdet.datasets import ImageError
from iifdet.errors import InputError
from iifdet.files import write_image
from iifdet.prediction.arrays import Image, read_picture


class Shown:
    """A result of one picture; a subclass is a dataclass with these fields, and draws itself in :meth:`plot`."""

    labels: Tensor
    names: list[str]
    path: str
    size: tuple[int, int]
    stem: str
    source: int
    frame: int | None
    fps: float
    pixels: Image | None
    saved: Path | None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    @property
    def classes(self) -> list[str]:
        """The names of ``labels``."""
        return [self.names[label] for label in self.labels.tolist()]

    @property
    def found(self) -> list[str]:
        """Class names that the picture counts for."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line."""
        raise NotImplementedError

    def plot(self, image: Image | None = None) -> Image:
        """(H, W, 3) uint8 RGB copy of the picture with what was found.

        Args:
            image: the picture, where it was not kept and is not in a file.
        """
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Which picture: ``photo.jpg 480x640``."""
        name = self.path if self.frame is None else f"{self.path} frame {self.frame}"
        return f"{name} {self.size[0]}x{self.size[1]}"

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 RGB.

        Raises:
            InputError: the pixels were not kept, as those of videos outside ``stream=True``, and there is no file.
        """
        if self.pixels is not None:
            return self.pixels
        if self.frame is not None:
            raise InputError(f"image: expected the pixels of {self.path}, which were not kept; use stream=True")
        try:
            return read_picture(self.path)
        except ImageError as error:
            raise InputError(f"image: expected the picture to be there still: {error}") from error

    def without_pixels(self) -> Self:
        """The same without the picture itself."""
        light = copy.copy(self)
        light.pixels = None
        return light

    def save(self, path: str | Path, image: Image | None = None) -> Path:
        """Write :meth:`plot` as a picture; the suffix names the format.

        Raises:
            InputError: an unknown suffix, or the path of the source itself, which is never written over.
        """
        path = Path(path)
        if self.frame is None and path.exists() and path.resolve() == Path(self.path).resolve():
            raise InputError(f"save: expected another path than that of the source, got {path}")
        return write_image(path, self.plot(image))
