"""Targets on their way to a loss: those that none can use are refused by name, the others go to its device.

Readers drop and count boxes that cannot be used before. Targets that are still on the CPU are looked at there, so that
a CUDA device need not be waited for; only then are they copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iifdet.boxes import has_area
from iifdet.errors import InputError
from iifdet.types import Target


def check_targets(
    targets: Sequence[Target], sizes: Sequence[tuple[int, int]], num_classes: int, masks: bool = False
) -> None:
    """Refuse a batch's targets unless every one can be trained on.

    Args:
        sizes: (height, width) of each image.
        masks: whether masks must stand beside the boxes.

    Raises:
        InputError: another number of targets than images; a box without area, or not finite; a label that is not
            0…C-1; tensors that do not fit one another or their image.
    """
    if len(targets) != len(sizes):
        raise InputError(f"targets: expected {len(sizes)}, one an image, got {len(targets)}")
    for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        wanted: dict[str, tuple[int, ...]] = {"boxes": (len(target["labels"]), 4)}
        if masks:
            wanted["masks"] = (len(target["labels"]), *size)
        for name, shape in wanted.items():
            got = tuple(target[name].shape) if name in target else "none"  # type: ignore[literal-required]
            if got != shape:
                raise InputError(f"targets: expected {name} {shape} beside the labels of image {i}, got {got}")
    boxes, labels = torch.cat([t["boxes"] for t in targets]), torch.cat([t["labels"] for t in targets])
    solid = boxes.isfinite().all(dim=1) & has_area(boxes)
    bad = ~(solid & (labels >= 0) & (labels < num_classes))
    if bad.any():  # the one question for the whole batch: of targets on CUDA it waits for the device
        row = int(bad.nonzero()[0])
        image = torch.arange(len(targets)).repeat_interleave(torch.tensor([len(t["labels"]) for t in targets]))[row]
        raise InputError(
            f"targets: expected finite boxes with x1 < x2, y1 < y2 and labels 0…{num_classes - 1}, "
            f"got {boxes[row].tolist()} with label {int(labels[row])} in image {int(image)}; run check on the data"
        )


def joined(targets: Sequence[Target], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (T, 4) float32, labels (T,) and the row in the batch (T,) of all images, on ``device``."""
    counts = torch.tensor([len(target["labels"]) for target in targets])
    image = torch.arange(len(targets)).repeat_interleave(counts)
    boxes, labels = torch.cat([t["boxes"] for t in targets]).float(), torch.cat([t["labels"] for t in targets])
    return moved(boxes, device), moved(labels, device), moved(image, device)


def on_device(target: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """The tensors of one image's target on ``device``."""
    return {name: moved(value, device) for name, value in target.items()}


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on ``device`` that nobody waits for: from pageable memory CUDA might."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
