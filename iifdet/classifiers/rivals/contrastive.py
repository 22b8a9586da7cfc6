"""Features by contrast, a classifier by balanced classes (hybrid networks)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.classifiers.base import Classifier, Images
from iifdet.classifiers.network import Network
from iifdet.longtail import widened
from iifdet.types import ClassTargets

#: Numbers that features are projected to.
PROJECTED = 128


def view_contrast(views: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (SC) of (N, V, D) views of length 1 and their (N,) labels, mean over views; scalar.

    A view shall be nearer to all views of its class than to the others.

    Source: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, Eq. 2; Wang et al. (below), Eq. 3.

    Example:
        >>> apart = torch.eye(2).unsqueeze(1).expand(2, 2, 2)  # two images, either's views the same
        >>> loss = view_contrast(apart, torch.tensor([0, 1]), temperature=0.1)
        >>> round(loss.item(), 4), round(view_contrast(apart, torch.tensor([0, 0]), temperature=0.1).item(), 2)
        (0.0001, 6.67)
    """
    flat, labels = views.flatten(0, 1), labels.repeat_interleave(views.shape[1])
    itself = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    near = (flat @ flat.T / temperature).masked_fill(itself, -torch.inf)
    log_share = near - near.logsumexp(dim=1, keepdim=True)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~itself
    return -(log_share.masked_fill(~same, 0.0).sum(dim=1) / same.sum(dim=1)).mean()


def prototype_contrast(features: Tensor, labels: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Prototypical supervised contrastive loss (PSC) of (N, D) features and (C, D) prototypes of length 1, mean over
    images; scalar.

    Features shall be nearer to their class's prototype than to the others, which alone stand below the fraction: the
    loss has no lower bound.

    Source: Wang et al. (below), Eq. 6.

    Example:
        >>> p = torch.eye(3)
        >>> y = torch.tensor([0, 1])
        >>> round(prototype_contrast(p[y], y, p, temperature=1.0).item(), 4)  # ln 2 - 1
        -0.3069
    """
    near = features @ prototypes.T / temperature
    own = near.gather(1, labels.unsqueeze(1))
    others = near.scatter(1, labels.unsqueeze(1), -torch.inf).logsumexp(dim=1, keepdim=True)
    return (others - own).mean()


class Contrast(nn.Module):
    """(N, V, D) features of V views of N images and their (N,) labels -> the loss of one of the two contrasts, scalar.

    Args:
        features: D.
        num_classes: how many prototypes are learned; None contrasts views.
        temperature: τ.
    """

    def __init__(self, features: int, num_classes: int | None, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTED))
        rows = None if num_classes is None else torch.randn(num_classes, PROJECTED) / PROJECTED**0.5
        self.prototypes = None if rows is None else nn.Parameter(rows)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            projected = F.normalize(self.projection(widened(features)), dim=-1)
            if self.prototypes is None:
                return view_contrast(projected, labels, self.temperature)
            prototypes = F.normalize(self.prototypes, dim=-1)
            return prototype_contrast(projected[:, 0], labels, prototypes, self.temperature)


class ContrastiveClassifier(Classifier):
    """Images as they come teach features by contrast, on a projection that inference leaves away; images of balanced
    classes teach the classifier. The first counts ``share``, which falls from 1 to 0 over the run
    (:class:`iifdet.curriculum.CumulativeShare`).

    Source: Wang et al., Contrastive Learning Based Hybrid Networks for Long-Tailed Image Classification, CVPR 2021,
    Section 3. Both kinds of images pass the network in one batch here.

    Args:
        network: makes features.
        num_classes: C, at least 2.
        contrast: ``views``, :func:`view_contrast` of two views of an image; or ``prototypes``,
            :func:`prototype_contrast` with a learned one for each class. ``sampling`` has the same name.
        contrast_temperature: τ.
        keywords: of :class:`Classifier`.

    Raises:
        ValueError: an option is out of its range.
    """

    shape = "contrast"
    takes_mixed_labels = False
    share: Tensor

    def __init__(
        self,
        network: Network,
        num_classes: int,
        *,
        contrast: str = "views",
        contrast_temperature: float = 0.1,
        **keywords: Any,
    ) -> None:
        if contrast not in ("views", "prototypes"):
            raise ValueError(f"contrast: expected views or prototypes, got {contrast!r}")
        if isinstance(contrast_temperature, bool | str) or not 1e-3 <= contrast_temperature <= 1e3:
            raise ValueError(f"contrast_temperature: expected a number from 1e-3 to 1e3, got {contrast_temperature!r}")
        if num_classes < 2:
            raise ValueError(f"contrast: expected at least two classes, got {num_classes}")
        super().__init__(network, num_classes, **keywords)
        self.sampling, self.together = contrast, {"views": 3, "prototypes": 2}[contrast]
        prototypes = num_classes if contrast == "prototypes" else None
        self.contrast = Contrast(network.out_features, prototypes, float(contrast_temperature))
        self.register_buffer("share", torch.ones(()))

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar, "contrast": scalar}``; images that are left over at the end have no part.

        Raises:
            ValueError: too few images.
        """
        assert isinstance(targets, Tensor)
        number, each = len(targets) // self.together, self.together
        if not number:
            raise ValueError(f"batch: expected {each} images at least for a contrast, got {len(targets)}")
        features = self.features(images)[: number * each].unflatten(0, (number, each))
        labels = targets[: number * each].view(number, each)
        loss = self.label_losses(self.logits_of(features[:, -1]), labels[:, -1]).mean()
        return {"cls": (1 - self.share) * loss, "contrast": self.share * self.contrast(features[:, :-1], labels[:, 0])}

    def class_tensors(self) -> dict[str, Tensor]:
        rows = self.contrast.prototypes
        return super().class_tensors() | ({} if rows is None else {"contrast.prototypes": rows})
