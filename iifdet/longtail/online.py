"""Online Inverse Image Frequency: weights from the images of one batch instead of the whole training set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iifdet.longtail.weights import VARIANTS, tempered


def batch_counts(labels: Sequence[Tensor], num_classes: int) -> Tensor:
    """In how many images of a batch each class appears, and how many images there are.

    Args:
        labels: one (n_i,) int64 tensor an image, values 0…C-1; empty ones are images too. All on one device, which is
            not waited for.

    Returns:
        (C + 1,) int64, there: the counts, and the number of images last, so that ranks can add theirs up in one call.

    Example:
        >>> batch_counts([torch.tensor([0, 0, 1]), torch.tensor([0])], 3).tolist()
        [2, 1, 0, 2]
    """
    if not labels:
        return torch.zeros(num_classes + 1, dtype=torch.int64)
    image = torch.arange(len(labels)).repeat_interleave(torch.tensor([len(each) for each in labels]))
    shown = torch.cat(list(labels))
    present = torch.zeros(len(labels), num_classes, dtype=torch.int64, device=shown.device)
    present[image.to(shown.device, non_blocking=True), shown] = 1
    return torch.cat([present.sum(dim=0), present.new_full((1,), len(labels))])


def online_weights(counts: Tensor, temperature: float | str = 1.0) -> Tensor:
    """Smooth weights of one batch, ``ln((B + 1) / (n_c + 1)) + 1`` (Table III with K = B images); (C,) float64.

    Args:
        counts: (C + 1,) from :func:`batch_counts`, summed over ranks where there are several.
        temperature: as in :func:`iifdet.longtail.tempered`.

    A class that no image of the batch shows gets the largest weight, one that all of them show gets 1.

    Example:
        >>> online_weights(torch.tensor([4, 1, 0, 4])).tolist()[0]
        1.0
    """
    counts = counts.double()
    return tempered(VARIANTS["smooth"](counts[:-1], counts[-1]), temperature)
