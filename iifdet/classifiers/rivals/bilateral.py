"""Two branches, one for images as they come and one for images of rare classes first (BBN)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iifdet.classifiers.base import Classifier, Images
from iifdet.classifiers.branches import BilateralNetwork
from iifdet.types import ClassTargets, MixedLabels


class BilateralClassifier(Classifier):
    """A classifier of two branches' features side by side, which training blends in pairs of images.

    Batches are pairs, one image as they come and one drawn by inverse class counts (``sampling=bilateral``). A share l
    of the first one's features from the first branch and 1 - l of the second one's from the second go to one
    classifier, which answers for both labels, ``l L(y) + (1 - l) L(y')``. The share goes from 1 to 0 over the run
    (:class:`iifdet.curriculum.CumulativeShare`).

    Source: Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition, CVPR
    2020, Sections 4.1 to 4.3.

    Args:
        network: gives both branches' features.
        num_classes: C.
        keywords: of :class:`Classifier`.
    """

    shape = "bilateral"
    takes_mixed_labels = False
    counts_twice = True
    sampling = "bilateral"
    together = 2
    share: Tensor

    def __init__(self, network: BilateralNetwork, num_classes: int, **keywords: Any) -> None:
        super().__init__(network, num_classes, **keywords)
        self.register_buffer("share", torch.ones(()))

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar}`` of pairs, image by image; one that is left over at the end has no part.

        Raises:
            ValueError: a single image.
        """
        assert isinstance(targets, Tensor)
        batch, pairs = self.normalized(images), len(targets) // 2
        if not pairs:
            raise ValueError("batch: expected pairs of images for bilateral branches, got one image")
        (ours, theirs), (labels, others) = ((each[: 2 * pairs : 2], each[1::2]) for each in (batch, targets))
        assert isinstance(self.network, BilateralNetwork)
        logits = self.head(self.network.blended(ours, theirs, self.share))
        return {"cls": self.label_losses(logits, MixedLabels(labels, others, self.share)).mean()}
