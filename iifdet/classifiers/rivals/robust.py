"""Features that stay with their class's centroid even if it lies elsewhere than the few images say (DRO-LT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from iifdet.classifiers.base import Classifier, Images
from iifdet.classifiers.network import Network
from iifdet.longtail import ClassCounts, widened
from iifdet.longtail.losses import one_hot
from iifdet.types import ClassTargets


def centroid_loss(features: Tensor, labels: Tensor, centroids: Tensor, margins: Tensor) -> Tensor:
    """Robust metric loss of (B, D) features, (B,) labels, (C, D) centroids and (C,) margins, mean over the classes that
    are there; scalar.

    For a class c, each of its features shall be nearer to the centroid than the other images of the batch are, though
    it counts as further away by ε_c: ``-log softmax_j(-|μ_c - z_j| - ε_c [y_j = c])``, at a temperature of 1, as their
    command for CIFAR100-LT has it.

    Source: Samuel and Chechik, Distributional Robustness Loss for Long-tail Learning (DRO-LT), ICCV 2021, Section 4.

    Example:
        >>> z, y = torch.tensor([[0.0], [9.0]]), torch.tensor([0, 1])
        >>> [round(centroid_loss(z, y, z, torch.full((2,), e)).item(), 4) for e in (0.0, 1.0)]
        [0.0001, 0.0003]
    """
    own = one_hot(centroids.new_zeros(len(labels), len(centroids)), labels).T  # (C, B)
    near = -torch.cdist(centroids, features) - margins.unsqueeze(1) * own
    log_share = near.log_softmax(dim=1)
    images = own.sum(dim=1)
    each = -(log_share * own).sum(dim=1) / images.clamp(min=1)
    return each.sum() / (images > 0).sum()


class RobustFeatures(nn.Module):
    """(B, D) features, (B,) labels -> :func:`centroid_loss` with learned margins around the epoch's centroids.

    Attributes:
        margins: (C,) ε, which begin at 1.
        centroids: (C, D) mean features of the training images of each class, made anew before each epoch.
        frequency: (C,) training images of each class over those of the largest.
    """

    centroids: Tensor
    frequency: Tensor

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.margins = nn.Parameter(torch.ones(num_classes))
        self.register_buffer("centroids", torch.zeros(num_classes, features))
        self.register_buffer("frequency", torch.ones(num_classes))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return centroid_loss(widened(features), labels, self.centroids, self.margins)


class RobustClassifier(Classifier):
    """Trains features around centroids under class rows that stay as they are; a second stage trains the rows.

    The loss on labels stands beside, a mean weighed by the frequencies of classes: batches have all classes alike, and
    it shall see them as they come.

    Source: see :func:`centroid_loss`.

    Args:
        network: makes features.
        num_classes: C.
        keywords: of :class:`Classifier`.
    """

    shape = "robust"
    takes_mixed_labels = False

    def __init__(self, network: Network, num_classes: int, **keywords: Any) -> None:
        super().__init__(network, num_classes, **keywords)
        self.robust = RobustFeatures(network.out_features, num_classes)
        for parameter in self.head.parameters():
            parameter.requires_grad_(False)

    @property
    def wants_centroids(self) -> str | None:
        return "robust.centroids" if self.trains_features else None

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar, "robust": scalar}``, or the first alone where the features are finished."""
        assert isinstance(targets, Tensor)
        features = self.features(images)
        losses = self.label_losses(self.logits_of(features), targets)
        if not self.trains_features:
            return {"cls": losses.mean()}
        frequency = self.robust.frequency[targets]
        labels = (frequency * losses).sum() / frequency.sum()
        return {"cls": labels, "robust": self.robust(features, targets)}

    def set_class_statistic(self, counts: ClassCounts | None) -> None:
        """As for every model; counts are also the classes' frequencies."""
        super().set_class_statistic(counts)
        if counts is not None:
            self.robust.frequency.copy_(counts.images / counts.images.max().clamp(min=1))

    def class_tensors(self) -> dict[str, Tensor]:
        own = {f"robust.{name}": getattr(self.robust, name) for name in ("margins", "centroids", "frequency")}
        return super().class_tensors() | own
