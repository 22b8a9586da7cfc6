"""What a model says about a split before adjustment, taken once: adjustments can then be tried without the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iifdet.files import atomic_write
from iifdet.types import Batch, ImageInfo, NetworkBoxes, RawPredictions

#: Parts of RawPredictions with a row for each prediction.
COLUMNS = ("boxes", "class_logits", "objectness", "background", "network_boxes")


@dataclass(frozen=True)
class RawCache:
    """Raw predictions of N images, and where the images came from.

    Attributes:
        raw: one RawPredictions an image, on the CPU.
        infos: one ImageInfo an image.
    """

    raw: list[RawPredictions]
    infos: list[ImageInfo]

    @classmethod
    @torch.inference_mode()
    def collect(
        cls, model: Any, batches: Iterable[Batch], device: torch.device, amp: torch.dtype | None = None
    ) -> RawCache:
        """Run a detector once over a split.

        Rows whose objectness alone is not above the model's ``conf`` are left out: no class score can be either.
        """
        raw, infos = [], []
        for batch in batches:
            moved = batch.to(device)
            with torch.autocast(device.type, amp, enabled=amp is not None):
                raw += [_slim(r, model.options.conf) for r in model.raw(moved.images)]
            infos += batch.infos
        return cls(raw, infos)

    def batches(self, size: int) -> Iterator[tuple[list[RawPredictions], Batch]]:
        """Predictions of ``size`` images at a time, with a batch that has their infos and no pixels."""
        for first in range(0, len(self.raw), size):
            part = slice(first, first + size)
            yield self.raw[part], Batch([], [], self.infos[part])

    def save(self, path: Path) -> None:
        """Write one file of tensors and plain values."""
        columns: dict[str, Any] = {name: _joined([_column(r, name) for r in self.raw]) for name in COLUMNS}
        rows = [len(r.class_logits) for r in self.raw]
        images = [(list(r.size), list(r.levels), None if r.network is None else list(r.network.size)) for r in self.raw]
        infos = [(i.image_id, i.index, i.file, *i.size, *i.scale, *i.offset) for i in self.infos]
        with atomic_write(path) as file:
            torch.save({"columns": columns, "rows": rows, "images": images, "infos": infos}, file)

    @classmethod
    def load(cls, path: Path) -> RawCache:
        """Read what :meth:`save` wrote; the system maps the file, so many processes share one copy of it."""
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        rows = content["rows"]
        split: dict[str, Any] = {
            k: [None] * len(rows) if v is None else v.split(rows) for k, v in content["columns"].items()
        }
        raw = []
        for i, (size, levels, network) in enumerate(content["images"]):
            part = {k: v[i] for k, v in split.items()}
            boxes = part.pop("network_boxes")
            inside = None if network is None else NetworkBoxes(boxes, (network[0], network[1]))
            raw.append(RawPredictions(**part, size=(size[0], size[1]), levels=tuple(levels), network=inside))
        infos = [ImageInfo(i, n, f, (h, w), (a, b), (c, d)) for i, n, f, h, w, a, b, c, d in content["infos"]]
        return cls(raw, infos)


def _slim(raw: RawPredictions, conf: float) -> RawPredictions:
    """The rows that may become detections, in float32 on the CPU."""
    keep: Any = slice(None)
    if raw.objectness is not None and not raw.levels:
        keep = raw.objectness.float().sigmoid() > conf
    columns: dict[str, Any] = {name: _cpu(_column(raw, name), keep) for name in COLUMNS}
    boxes = columns.pop("network_boxes")
    network = None if raw.network is None or boxes is None else NetworkBoxes(boxes, raw.network.size)
    return replace(raw, **columns, network=network)


def _column(raw: RawPredictions, name: str) -> Tensor | None:
    if name == "network_boxes":
        return None if raw.network is None else raw.network.boxes
    value: Tensor | None = getattr(raw, name)
    return value


def _cpu(column: Tensor | None, keep: Any) -> Tensor | None:
    return None if column is None else column[keep].float().cpu()


def _joined(columns: list[Tensor | None]) -> Tensor | None:
    present = [c for c in columns if c is not None]
    return torch.cat(present) if present else None
