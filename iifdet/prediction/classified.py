"""A classifier over a stream of pictures, and what is written about them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from iifdet import plots
from iifdet.datasets.loader import channels_first
from iifdet.errors import InputError
from iifdet.plots.classification import NEUTRAL
from iifdet.prediction.arrays import Image
from iifdet.prediction.output import Writer, about_image, append
from iifdet.prediction.predictor import Predictor
from iifdet.prediction.shown import Shown
from iifdet.prediction.sources import Item

#: Side to which smaller pictures are enlarged where their classes are written below them.
MIN_SIDE = 256


@dataclass(eq=False, repr=False)
class Classified(Shown):
    """The likeliest classes of one picture, best first.

    Attributes:
        labels: (K,) int64, 0…C-1.
        scores: (K,) float32 in [0, 1].
        names: the C class names.
        path, size, stem, source, frame, fps, pixels, saved: as of :class:`iifdet.prediction.Result`.
    """

    labels: Tensor
    scores: Tensor
    names: list[str]
    path: str
    size: tuple[int, int]
    stem: str = "image"
    source: int = 0
    frame: int | None = None
    fps: float = 0.0
    pixels: Image | None = None
    saved: Path | None = None

    @property
    def found(self) -> list[str]:
        """The likeliest class."""
        return self.classes[:1]

    def describe(self) -> str:
        """One line: ``photo.jpg 480x640: cat 0.93, dog 0.04``."""
        return f"{self.place}: {', '.join(self.captions())}"

    def captions(self) -> list[str]:
        """``cat 0.93`` for each of the classes."""
        return [f"{name} {score:.2f}" for name, score in zip(self.classes, self.scores.tolist(), strict=True)]

    def plot(self, image: Image | None = None) -> Image:
        """The picture with the classes below it, (H', W', 3) uint8 RGB; small ones are enlarged.

        A frame of a video keeps its size, and has the likeliest class in its corner.
        """
        pixels = self.image if image is None else image
        if self.frame is not None:
            return plots.write_note(pixels, self.captions()[0])
        picture = plots.enlarged(pixels, max(1, MIN_SIDE // max(pixels.shape[:2])))
        return plots.add_caption(picture, [(text, NEUTRAL) for text in self.captions()])


@dataclass
class ClassPredictor(Predictor):
    """Pictures to Classified, prepared as validation prepares them.

    Attributes:
        transform: (3, H, W) uint8 and a seed -> (3, S, S) uint8.
        top: how many classes a picture gets.
    """

    transform: Any
    top: int = 5

    def _results(self, pictures: Sequence[tuple[Item, Image]]) -> list[Any]:
        if not pictures:
            return []
        images = torch.stack([self.transform(channels_first(image), 0) for _, image in pictures])
        scores = self._scores(images.to(self.device).float().div_(255))
        best = scores.sort(dim=1, descending=True, stable=True)
        k = min(self.top, int((scores[0] >= 0).sum()))
        return [
            Classified(
                labels=labels[:k].clone(),
                scores=row[:k].clone(),
                names=self.model.names,  # type: ignore[arg-type]
                path=item.path,
                size=(image.shape[0], image.shape[1]),
                stem=item.stem,
                source=item.source,
                frame=item.frame,
                fps=item.fps,
                pixels=image,
            )
            for (item, image), labels, row in zip(pictures, best.indices, best.values, strict=True)
        ]

    @torch.inference_mode()
    def _scores(self, images: Tensor) -> Tensor:
        """(B, C) on the CPU; classes that do not count have -1."""
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            scores = self.model.scores(self.model(images)).float().cpu()  # type: ignore[operator]
        if not scores.isfinite().all():
            raise InputError("weights: expected finite scores, got NaN; the model has diverged, or try amp=none")
        if self.labels is not None:
            other = torch.ones(scores.shape[1], dtype=torch.bool)
            other[self.labels] = False
            scores[:, other] = -1
        return scores


class ClassWriter(Writer):
    """predictions.json, predictions.csv and text files of classes."""

    columns = ("path", "frame", "rank", "class", "name", "score")

    def open_json(self, file: IO[bytes], names: Sequence[str]) -> ClassStream:
        return ClassStream(file, names)

    def lines(self, result: Any) -> list[str]:
        """``score name``, best first."""
        return [f"{s:.6f} {name}" for s, name in zip(result.scores.tolist(), result.classes, strict=True)]

    def rows(self, result: Any) -> Iterator[Sequence[Any]]:
        found = zip(result.labels.tolist(), result.classes, result.scores.tolist(), strict=True)
        for rank, (label, name, score) in enumerate(found, start=1):
            yield rank, label, name, f"{score:.6f}"


class ClassStream:
    """A JSON file that grows: ``images``, each with its classes and scores, best first, and ``names``."""

    def __init__(self, file: IO[bytes], names: Sequence[str]) -> None:
        self.file, self.names, self.number = file, names, 0
        file.write(b'{"images": [')

    def add(self, result: Any, folder: Path) -> None:
        """Append one image."""
        self.number += 1
        scores = [round(score, 6) for score in result.scores.tolist()]
        found = {"labels": result.labels.tolist(), "classes": result.classes, "scores": scores}
        append(self.file, {"id": self.number, **about_image(result, folder), **found}, first=self.number == 1)

    def close(self) -> None:
        """Write what follows the images."""
        self.file.write(b'],\n"names": ' + json.dumps(list(self.names)).encode() + b"}\n")
