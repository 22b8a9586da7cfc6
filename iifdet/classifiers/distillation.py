"""What a classifier learns from a finished one beside the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_distance(features: Tensor, taught: Tensor) -> Tensor:
    """``1 - cos`` of (B, D) features and a teacher's, their mean over images; scalar from 0 to 2.

    Source: Iscen et al., Class-Balanced Distillation for Long-Tailed Visual Recognition, BMVC 2021, Section 3.

    Example:
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> round(feature_distance(x, 2 * x).item(), 4), round(feature_distance(x, -x).item(), 4)
        (0.0, 2.0)
    """
    return (1 - F.cosine_similarity(features.float(), taught.float(), dim=-1)).mean()


def virtual_examples(logits: Tensor, taught: Tensor, temperature: float = 3.0, power: float = 0.5) -> Tensor:
    """``T² KL(q || softmax(z / T))``, mean over images, of (B, C) logits z; scalar.

    The virtual examples q are a teacher's softened scores, ``softmax(z_t / T)`` to the power of ``power``, over their
    sum: the flatter, the more even are the classes among them. A power of 1 is plain knowledge distillation.

    Source: He et al., Distilling Virtual Examples for Long-tailed Recognition (DiVE), ICCV 2021, Section 3.

    Example:
        >>> z = torch.tensor([[2.0, 0.0, -1.0]])
        >>> round(virtual_examples(z, z, power=1.0).item(), 4), virtual_examples(z, z).item() > 0
        (0.0, True)
    """
    examples = (power * taught.float() / temperature).log_softmax(-1)
    apart = examples.exp() * (examples - (logits.float() / temperature).log_softmax(-1))
    return temperature**2 * apart.sum(-1).mean()


@dataclass(frozen=True)
class Distillation:
    """A teacher and how much of it is learned: ``(1 - share) · labels + share · what the teacher says``.

    Attributes:
        teacher: a Classifier, in eval mode for good; no part of the student's weights.
        kind: ``cbd``, class-balanced distillation: :func:`feature_distance`; ``dive``: :func:`virtual_examples` of its
            adjusted logits.
        share: α.
        scale: β, what the distance of features is multiplied by.
        temperature, power: of virtual examples.
    """

    teacher: Any
    kind: str
    share: float = 0.5
    scale: float = 100.0
    temperature: float = 3.0
    power: float = 0.5

    def losses(self, labels: Tensor, images: Any, features: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """``{"cls": scalar, "distill": scalar}``.

        Args:
            labels: the loss on labels, scalar.
            images, features, logits: what the student saw and made of it; logits as in inference.
        """
        with torch.no_grad():
            taught = self.teacher.features(images) if self.kind == "cbd" else self.teacher(images)
        if self.kind == "cbd":
            distance = self.scale * feature_distance(features, taught)
        else:
            distance = virtual_examples(logits, taught, self.temperature, self.power)
        return {"cls": (1 - self.share) * labels, "distill": self.share * distance}
