"""What losses that treat classes differently have to know of each: made from the training set's counts, once."""

from __future__ import annotations

import torch
from torch import Tensor

from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.weights import refuse_zero_counts


def tail_classes(counts: ClassCounts, tail_ratio: float = 0.05) -> Tensor:
    """1 for the rarest classes, 0 for the others; (C,) float32.

    The rarest are as many as have, image counts added up, at most ``tail_ratio`` of all; classes of one count go
    together. That is the *tail ratio* by which Equalization Loss chooses its threshold λ (Tan et al., CVPR 2020,
    Section 3): λ itself, a share of the images, means something else in every data set.

    Raises:
        ValueError: ``tail_ratio`` outside 0…1.

    Example:
        >>> n = torch.tensor([80, 15, 3, 2])
        >>> tail_classes(ClassCounts(["car", "bus", "tram", "ferry"], n, n, num_images=100)).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    if not 0 <= tail_ratio <= 1:
        raise ValueError(f"tail_ratio: expected a share from 0 to 1, got {tail_ratio}")
    n = counts.images
    up_to = torch.stack([n[n <= own].sum() for own in n])  # by all classes that are as rare or rarer
    return (up_to <= tail_ratio * n.sum()).float()


def ldam_margins(counts: ClassCounts, cosine_scale: float, largest: float = 0.5) -> Tensor:
    """``s Δ_c`` with ``Δ_c = largest · (n_c / min n)^(-1/4)``: wider for rare classes; (C,) float32.

    Source: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019, Section 3.

    Args:
        counts: instances are counted.
        cosine_scale: s, what a cosine of 1 comes to in the logits.
        largest: margin of the rarest class, as a cosine.

    Raises:
        ValueError: a class without a training instance.

    Example:
        >>> n = torch.tensor([1600, 100])
        >>> ldam_margins(ClassCounts(["car", "bus"], n, n, num_images=1700), cosine_scale=30).tolist()
        [7.5, 15.0]
    """
    refuse_zero_counts(counts, "instance", "a margin", "model_args.class_loss=ce")
    n = counts.instances.double()
    return (cosine_scale * largest * (n / n.min()) ** -0.25).float()
