"""Features that are looked up in a memory of class centroids (OLTR)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from iifdet.classifiers.base import Classifier, Images
from iifdet.classifiers.network import Network
from iifdet.classifiers.rivals.attention import ModulatedAttention
from iifdet.longtail import widened
from iifdet.types import ClassTargets

#: How far a feature reaches that is 1 away from its nearest centroid; distance at which centroids repel no longer.
REACH, REPELLED = 10.0, 10.0
#: What the loss on centroids counts, and what repulsion counts in it.
MEMORY_SHARE, REPULSION_SHARE = 0.01, 0.01


class Memory(nn.Module):
    """Features to meta-embeddings: (B, D) -> (B, D), in float32 at least.

    ``v = r (x + tanh(W_s x) · softmax(W_h x) M)``: features x get from the memory M, class centroids, what they are
    thought to lack, and are longer the nearer a centroid is, ``r = 10 / min_c |x - M_c|``.

    Source: Liu et al., Large-Scale Long-Tailed Recognition in an Open World (OLTR), CVPR 2019, Section 3.2.

    Args:
        features: D.
        num_classes: C.

    Attributes:
        centroids: (C, D) M, zeros until the classes' mean features come.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.recall = nn.Linear(features, num_classes)
        self.select = nn.Linear(features, features)
        self.centroids = nn.Parameter(torch.zeros(num_classes, features))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features, centroids = widened(features), widened(self.centroids).detach()
            row = (centroids.square().sum(dim=1) - 2 * features @ centroids.T).argmin(dim=1)
            nearest = torch.linalg.vector_norm(features - centroids[row], dim=1, keepdim=True)
            recalled = self.recall(features).softmax(dim=-1) @ centroids
            whole = features + self.select(features).tanh() * recalled
            return REACH / nearest.clamp(min=1e-6) * whole


def attraction(features: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """What features (B, D) are drawn to their centroids (C, D) by, ``Σ |x - M_y|² / 2 B``; scalar.

    Source: Liu et al. (above), Section 3.3.
    """
    return (features - centroids[labels]).square().sum() / (2 * len(features))


def repulsion(features: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """How much nearer than REPELLED features are to other centroids, ``max(0, 10 - Σ_{c ≠ y} |x - M_c|² / (B C))``;
    scalar.

    Source: Liu et al. (above), Section 3.3, and their program.
    """
    squares = torch.cdist(features, centroids).square()
    others = squares.sum() - squares.gather(1, labels.unsqueeze(1)).sum()
    return (REPELLED - others / squares.numel()).clamp(min=0)


class MemoryClassifier(Classifier):
    """A second stage: attention over the last maps, meta-embeddings, a memory that moves along with the features.

    Centroids begin as the classes' mean features. Their own attraction is that of the published program: to the mean of
    a batch's features of the class, whatever the loss on features counts.

    Source: see :class:`Memory`; open sets are not part of this.

    Args:
        network: makes features; its last maps get the attention.
        num_classes: C.
        keywords: of :class:`Classifier`; the head is on cosines.
    """

    shape = "memory"
    takes_mixed_labels = False

    def __init__(self, network: Network, num_classes: int, *, head: str = "linear", **keywords: Any) -> None:
        if head != "cosine":
            raise ValueError(f"head: expected cosine with a memory, got {head}; add model_args.head=cosine")
        network.attend(ModulatedAttention)
        super().__init__(network, num_classes, head=head, **keywords)
        self.memory = Memory(network.out_features, num_classes)

    def logits_of(self, features: Tensor) -> Tensor:
        """(B, D) features -> (B, C) logits of their meta-embeddings."""
        return super().logits_of(self.memory(features))

    @property
    def wants_centroids(self) -> str | None:
        return None if bool(self.memory.centroids.any()) else "memory.centroids"

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar, "memory": scalar, "centroids": scalar}``; the last moves the centroids alone."""
        assert isinstance(targets, Tensor)
        features = self.features(images)
        cls = self.label_losses(self.logits_of(features), targets).mean()
        return {"cls": cls, **self.memory_losses(widened(features), targets)}

    def memory_losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """(B, D) features, (B,) labels -> two scalars."""
        centroids = self.memory.centroids
        attracted = attraction(features, labels, centroids.detach())
        repelled = repulsion(features, labels, centroids)
        images = torch.zeros(self.num_classes, device=labels.device).index_add_(
            0, labels, torch.ones_like(labels, dtype=torch.float32)
        )
        apart = (centroids[labels] - features.detach()).square().sum(dim=1) / (1 + images[labels])
        return {
            "memory": MEMORY_SHARE * (attracted + REPULSION_SHARE * repelled),
            "centroids": apart.sum() / (2 * len(labels)),
        }

    def class_tensors(self) -> dict[str, Tensor]:
        memory = self.memory
        rows = {"centroids": memory.centroids, "recall.weight": memory.recall.weight, "recall.bias": memory.recall.bias}
        return super().class_tensors() | {f"memory.{name}": value for name, value in rows.items()}
