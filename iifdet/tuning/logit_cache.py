"""What a classifier says about a split before adjustment, taken once; the counterpart of :class:`RawCache`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iifdet.files import atomic_write
from iifdet.types import Batch


@dataclass(frozen=True)
class LogitCache:
    """Raw logits of a split's N images, in its order, on the CPU.

    Attributes:
        logits: (N, C) float32.
        labels: (N,) int64.
    """

    logits: Tensor
    labels: Tensor

    @classmethod
    @torch.inference_mode()
    def collect(
        cls, model: Any, batches: Iterable[Batch], device: torch.device, amp: torch.dtype | None = None
    ) -> LogitCache:
        """Run a classifier once over a split."""
        logits, labels = [], []
        for batch in batches:
            with torch.autocast(device.type, amp, enabled=amp is not None):
                logits.append(model.raw(batch.to(device).images).float().cpu())
            labels.append(batch.targets)
        return cls(torch.cat(logits), torch.cat(labels))  # type: ignore[arg-type]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Batch]]:
        """Logits of ``size`` images at a time, with a batch that has their labels and no pixels."""
        for logits, labels in zip(self.logits.split(size), self.labels.split(size), strict=True):
            yield logits, Batch([], labels)

    def save(self, path: Path) -> None:
        """Write one file of tensors."""
        with atomic_write(path) as file:
            torch.save({"logits": self.logits, "labels": self.labels}, file)

    @classmethod
    def load(cls, path: Path) -> LogitCache:
        """Read what :meth:`save` wrote; the system maps the file, so many processes share one copy of it."""
        return cls(**torch.load(path, map_location="cpu", weights_only=True, mmap=True))
