"""A model over a stream of pictures, batch by batch: the pictures come in and go out, nothing piles up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iifdet.boxes import has_area
from iifdet.datasets import EvalTransform, ImageError
from iifdet.datasets.loader import channels_first
from iifdet.datasets.rect import STRIDE
from iifdet.datasets.resizing import pair
from iifdet.errors import InputError
from iifdet.evaluation.masks import encode_masks
from iifdet.prediction.arrays import Image
from iifdet.prediction.results import Result
from iifdet.prediction.sources import Item
from iifdet.types import Batch, ImageInfo

log = logging.getLogger("iifdet")

_NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


@dataclass
class Predictor:
    """Pictures to Results, prepared as validation prepares them.

    Attributes:
        model: a detector in eval mode, on ``device``, whose options say how detections are chosen.
        transform: the resize.
        device: where the model is.
        amp: type of mixed precision, or None.
        batch: pictures read, and tensors stacked, at once.
        threads: how many files are read at the same time.
        rect: pad each picture no further than it needs instead of to a square; like shapes are stacked.
        labels: (K,) the only classes that count, after NMS; None for all.
        max_det: at most so many detections a picture, after ``labels``.
        mask_threshold: probability above which a pixel belongs to a mask.
        unreadable: paths of the pictures that could not be read so far.
    """

    model: nn.Module
    transform: EvalTransform
    device: torch.device
    amp: torch.dtype | None = None
    batch: int = 8
    threads: int = 2
    rect: bool = False
    labels: Tensor | None = None
    max_det: int = 300
    mask_threshold: float = 0.5
    unreadable: list[str] = field(default_factory=list)

    def __call__(self, items: Iterable[Item]) -> Iterator[Any]:
        """One Result a readable picture, in order; the others are logged in one line each and left out.

        While it waits, no more than the Results of one batch that are still to come hold pixels.
        """
        stream = iter(items)
        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            while chunk := list(islice(stream, self.batch)):
                results = self._results(self._read(chunk, pool))
                chunk.clear()  # its frames live in the results now
                results.reverse()
                while results:
                    yield results.pop()

    def _read(self, chunk: Sequence[Item], pool: ThreadPoolExecutor) -> list[tuple[Item, Image]]:
        readable = []
        for item, image in zip(chunk, pool.map(_read_item, chunk), strict=True):
            if isinstance(image, ImageError):
                log.warning("skipped: %s", image)
                self.unreadable.append(item.path)
            else:
                readable.append((item, image))
        return readable

    def _results(self, pictures: Sequence[tuple[Item, Image]]) -> list[Any]:
        """Stack what has one shape, run the model on each stack, and bring the results back into order."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for place, (_, image) in enumerate(pictures):
            shapes.setdefault(self._shape(image), []).append(place)
        results: dict[int, Result] = {}
        for shape, places in shapes.items():
            batch = self._batch([pictures[p] for p in places], shape)
            for place, info, found in zip(places, batch.infos, self._run(batch), strict=True):
                results[place] = self._result(*pictures[place], info, found)
        return [results[place] for place in range(len(pictures))]

    def _shape(self, image: Image) -> tuple[int, int]:
        """(H, W) of the tensor that a picture goes into."""
        if not self.rect:
            return pair(self.transform.size)
        height, width = self.transform.content_shape(*image.shape[:2])
        return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE

    def _batch(self, pictures: Sequence[tuple[Item, Image]], shape: tuple[int, int]) -> Batch:
        images, infos = [], []
        for item, image in pictures:
            out = self.transform(image, *_NO_BOXES, size=shape)
            images.append(channels_first(out.image).numpy())
            height, width = image.shape[:2]
            infos.append(ImageInfo(0, 0, item.path, (height, width), out.scale, out.offset))
        return Batch(torch.from_numpy(np.stack(images)), [], infos).to(self.device)

    @torch.inference_mode()
    def _run(self, batch: Batch) -> list[dict[str, Tensor]]:
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            detections = self.model(batch.images)
        return [self._chosen(found) for found in detections]

    def _chosen(self, found: Any) -> dict[str, Tensor]:
        if not (found["boxes"].isfinite().all() and found["scores"].isfinite().all()):
            raise InputError(
                "weights: expected finite boxes and scores, got NaN; the model has diverged, or try amp=none"
            )
        if self.labels is None:
            return dict(found)
        rows = torch.isin(found["labels"], self.labels.to(found["labels"].device)).nonzero().flatten()[: self.max_det]
        return {name: value[rows] for name, value in found.items()}

    def _result(self, item: Item, image: Image, info: ImageInfo, found: dict[str, Tensor]) -> Result:
        boxes = info.to_original(found["boxes"].float().cpu().reshape(-1, 4))
        inside = has_area(boxes)  # what lies in the padding is not in the picture
        found = {name: value[inside.to(value.device)] for name, value in found.items()}
        return Result(
            boxes=boxes[inside],
            labels=found["labels"].cpu().clone(),
            scores=found["scores"].float().cpu().clone(),
            names=self.model.names,  # type: ignore[arg-type]
            path=item.path,
            size=info.size,
            stem=item.stem,
            source=item.source,
            frame=item.frame,
            fps=item.fps,
            rles=encode_masks(found["masks"], info, self.mask_threshold) if "masks" in found else None,
            pixels=image,
        )


def _read_item(item: Item) -> Image | ImageError:
    try:
        return item.read()
    except ImageError as error:
        return error
