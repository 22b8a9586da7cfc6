"""Online Inverse Image Frequency: weights from the images of one batch instead of the whole training set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iifdet.longtail.weights import VARIANTS


def batch_counts(labels: Sequence[Tensor], num_classes: int) -> Tensor:
    """In how many images of a batch each class appears, and how many images there are.

    Args:
        labels: one (n_i,) int64 tensor an image, values 0…C-1; empty ones are images too.

    Returns:
        (C + 1,) int64: the counts, and the number of images last, so that ranks can add theirs up in one call.

    Example:
        >>> batch_counts([torch.tensor([0, 0, 1]), torch.tensor([0])], 3).tolist()
        [2, 1, 0, 2]
    """
    counts = torch.zeros(num_classes + 1, dtype=torch.int64)
    for image in labels:
        counts[image.unique().cpu()] += 1
    counts[-1] = len(labels)
    return counts


def online_weights(counts: Tensor) -> Tensor:
    """Smooth weights of one batch, ``ln((B + 1) / (n_c + 1)) + 1`` (Table III with K = B images); (C,) float64.

    Args:
        counts: (C + 1,) from :func:`batch_counts`, summed over ranks where there are several.

    A class that no image of the batch shows gets the largest weight, one that all of them show gets 1.

    Example:
        >>> online_weights(torch.tensor([4, 1, 0, 4])).tolist()[0]
        1.0
    """
    return VARIANTS["smooth"](counts[:-1].double(), float(counts[-1]))
