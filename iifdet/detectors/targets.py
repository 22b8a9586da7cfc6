"""Targets that no loss can use are refused by name. Readers drop and count such boxes before."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
    solid = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    bad = ~(solid & (labels >= 0) & (labels < num_classes))
    if bad.any():  # the one question for the whole batch, since it waits for the device
        row = int(bad.nonzero()[0])
        image = torch.arange(len(targets)).repeat_interleave(torch.tensor([len(t["labels"]) for t in targets]))[row]
        raise InputError(
            f"targets: expected finite boxes with x1 < x2, y1 < y2 and labels 0…{num_classes - 1}, "
            f"got {boxes[row].tolist()} with label {int(labels[row])} in image {int(image)}; run check on the data"
        )
