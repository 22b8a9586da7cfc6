"""What losses that treat classes differently have to know of each: made from the training set's counts, once."""

from __future__ import annotations

import math

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


def label_smoothing(counts: ClassCounts, head: float = 0.3, tail: float = 0.0) -> Tensor:
    """How much of a label is spread over all classes: from ``tail``, for the rarest class, to ``head``, for the most
    common one, along the first quarter of a sine of the image counts; (C,) float32.

    Source: Zhong et al., Improving Calibration for Long-Tailed Recognition, CVPR 2021, Section 3.2 (*concave*).

    Raises:
        ValueError: ``head`` or ``tail`` outside 0…1.

    Example:
        >>> n = torch.tensor([500, 250, 0])
        >>> [round(v, 2) for v in label_smoothing(ClassCounts(["a", "b", "c"], n, n, num_images=750)).tolist()]
        [0.3, 0.21, 0.0]
    """
    for name, share in (("head", head), ("tail", tail)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a share from 0 to 1, got {share}")
    n = counts.images.double()
    place = (n - n.min()) / (n.max() - n.min()).clamp(min=1)
    return (tail + (head - tail) * (place * math.pi / 2).sin()).float()


def rare_classes(counts: ClassCounts, share: float = 5e-3) -> Tensor:
    """1 for classes with less than ``share`` of all image counts, 0 for the others; (C,) float32.

    Source: λ of Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020, Section 3.3.

    Raises:
        ValueError: ``share`` outside 0…1.

    Example:
        >>> n = torch.tensor([80, 15, 5])
        >>> rare_classes(ClassCounts(["car", "bus", "tram"], n, n, num_images=100), share=0.1).tolist()
        [0.0, 0.0, 1.0]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a share from 0 to 1, got {share}")
    n = counts.images.double()
    return (n < share * n.sum()).float()


def class_temperatures(counts: ClassCounts, spread: float = 0.05) -> Tensor:
    """What logits of each class are divided by where experts are compared: at most 1, less for rarer classes; (C,)
    float32.

    ``1 - spread + spread · C p_c`` over its largest value, with p the shares of the images.

    Source: Wang et al., Long-tailed Recognition by Routing Diverse Distribution-Aware Experts, ICLR 2021, Section 3.2,
    with the published program's ``spread`` for CIFAR-LT (0.02 for ImageNet-LT).

    Example:
        >>> n = torch.tensor([100, 30, 5])
        >>> found = class_temperatures(ClassCounts(["a", "b", "c"], n, n, num_images=135))
        >>> [round(v, 4) for v in found.tolist()]
        [1.0, 0.9267, 0.9005]
    """
    n = counts.images.double()
    temperature = 1 - spread + spread * len(n) * n / n.sum().clamp(min=1)
    return (temperature / temperature.max()).float()


def class_share(counts: ClassCounts) -> Tensor:
    """Each class's share of the image counts, which LADE takes for its prior; (C,) float32.

    Raises:
        ValueError: a class without a training image.

    Example:
        >>> n = torch.tensor([75, 25])
        >>> class_share(ClassCounts(["car", "bus"], n, n, num_images=100)).tolist()
        [0.75, 0.25]
    """
    refuse_zero_counts(counts, "image", "a log prior", "model_args.class_loss=ce")
    n = counts.images.double()
    return (n / n.sum()).float()


def background_share(counts: ClassCounts, rare: int = 10, common: int = 100) -> Tensor:
    """Share of background samples that are negatives to a class: 0.01 up to ``rare`` training images, 0.1 up to
    ``common``, LVIS's limits, and 1 above; (C,) float32.

    Source: Wang et al., Adaptive Class Suppression Loss for Long-Tail Object Detection, CVPR 2021, Section 3 and the
    published program.

    Raises:
        ValueError: ``rare`` above ``common``.

    Example:
        >>> n = torch.tensor([101, 100, 10])
        >>> [round(v, 2) for v in background_share(ClassCounts(["a", "b", "c"], n, n, num_images=200)).tolist()]
        [1.0, 0.1, 0.01]
    """
    if not rare <= common:
        raise ValueError(f"rare, common: expected rare to be at most common, got {rare} and {common}")
    n = counts.images
    return torch.where(n <= rare, 0.01, torch.where(n <= common, 0.1, 1.0)).float()


def sample_share(counts: ClassCounts, background: float = 6.3313) -> Tensor:
    """Each class's share of all samples by image counts, of which background has ``background`` for each of all classes
    together; (C,) float32.

    Source: Cho and Krähenbühl, Long-tail Detection with Effective Class-Margins, ECCV 2022; the ratio is that of Mask
    R-CNN's samples in the published program.

    Raises:
        ValueError: a class without a training image, or one that all samples are of; ``background`` below 0.

    Example:
        >>> n = torch.tensor([75, 25])
        >>> sample_share(ClassCounts(["car", "bus"], n, n, num_images=100), background=1.0).tolist()
        [0.375, 0.125]
    """
    if not background >= 0:
        raise ValueError(f"background: expected a number from 0, got {background}")
    refuse_zero_counts(counts, "image", "a margin", "model_args.class_loss=bce")
    n = counts.images.double()
    share = n / n.sum() / (1 + background)
    if not (share < 1).all():
        raise ValueError("background: expected more than 0 for a single class, which is nowhere a negative otherwise")
    return share.float()
