"""Several experts that share their first stages and are told apart (RIDE)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from iifdet.classifiers.base import Classifier, Images
from iifdet.classifiers.branches import ExpertNetwork
from iifdet.classifiers.heads import Head, build_head
from iifdet.longtail import ClassCounts, ClassifierRows, LogitAdjustment, class_temperatures
from iifdet.types import ClassTargets


class ExpertHeads(nn.ModuleList):
    """A head for each expert: (B, E, D) features -> (B, E, C) logits."""

    @property
    def each(self) -> list[Head]:
        """The heads, in order."""
        return [cast(Head, head) for head in self]

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([head(own) for head, own in zip(self.each, features.unbind(1), strict=True)], dim=1)

    def fold(self, adjust: LogitAdjustment) -> None:
        """Bake what ``adjust`` does in inference into the rows of each: their mean is adjusted then, too."""
        for head in self.each:
            head.fold(adjust)


class ExpertClassifier(Classifier):
    """Experts learn alone, each with the whole loss, and are rewarded for differing from their mean; in inference the
    mean of their logits counts.

    The reward is ``diversity · T̄² · KL(mean || expert)`` of softened scores, with a lower temperature for rare classes.
    The published program softens classes unequally from its re-weighting epoch on alone, and for ImageNet-LT less so.
    What routes easy images past some of the experts is not part of this.

    Source: Wang et al., Long-tailed Recognition by Routing Diverse Distribution-Aware Experts (RIDE), ICLR 2021,
    Section 3; its loss is LDAM with deferred Class-Balanced weights, which are keys of their own here.

    Args:
        network: gives each expert's features.
        num_classes: C.
        diversity: strength of the reward.
        keywords: of :class:`Classifier`.

    Raises:
        ValueError: an option is out of its range.
    """

    shape = "experts"
    head: ExpertHeads
    temperature: Tensor

    def __init__(self, network: ExpertNetwork, num_classes: int, *, diversity: float = 0.2, **keywords: Any) -> None:
        if isinstance(diversity, bool | str) or not 0 <= diversity <= 10:
            raise ValueError(f"diversity: expected a number from 0 to 10, got {diversity!r}")
        super().__init__(network, num_classes, **keywords)
        if diversity and self.class_activation != "softmax":
            raise ValueError(
                f"diversity: compares scores of a softmax, got class_loss={self.class_loss} without one; "
                "give model_args.diversity=0"
            )
        self.diversity = float(diversity)
        self.register_buffer("temperature", torch.ones(num_classes))

    def make_head(self, name: str, **options: float | None) -> ExpertHeads:
        """One for each expert."""
        network = self.network
        assert isinstance(network, ExpertNetwork)
        return ExpertHeads(build_head(name, network.out_features, self.num_classes, **options) for _ in network.experts)

    def raw(self, images: Images) -> Tensor:
        """(B, C) mean of the experts' logits."""
        return super().raw(images).mean(dim=1)

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar, "diversity": scalar}``, each the sum over experts of means over images."""
        each = super().raw(images)
        losses = self.label_losses(each.transpose(0, 1), targets).mean(dim=-1)
        return {"cls": losses.sum(), "diversity": -self.diversity * divergence(each, self.temperature)}

    def set_class_statistic(self, counts: ClassCounts | None) -> None:
        """As for every model; counts also decide the temperatures."""
        super().set_class_statistic(counts)
        if counts is not None:
            self.temperature.copy_(class_temperatures(counts))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of an image's features."""
        return (len(self.head), self.network.out_features)

    @property
    def alignment_width(self) -> int | None:
        """None: there are several classifiers to align."""
        return None

    def classifier_layers(self) -> list[nn.Module]:
        return list(self.head.each)

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        for number, head in enumerate(self.head.each):
            yield ClassifierRows(head.weight, head.class_biases(), layer=number)

    def class_tensors(self) -> dict[str, Tensor]:
        heads = enumerate(self.head.each)
        return {f"head.{i}.{name}": value for i, head in heads for name, value in head.class_tensors().items()}

    def first_head(self) -> Head:
        return self.head.each[0]


def divergence(each: Tensor, temperature: Tensor) -> Tensor:
    """``T̄² Σ_e KL(p || q_e)``, mean over images, of softmax scores p of the experts' mean and q of each; scalar.

    No gradient flows through the mean.

    Args:
        each: (B, E, C) logits.
        temperature: (C,) what they are divided by; T̄ is its mean.

    Example:
        >>> same = torch.ones(2, 3, 4)
        >>> divergence(same, torch.ones(4)).item()
        0.0
    """
    each = each.float()
    mean = (each.mean(dim=1, keepdim=True).detach() / temperature).log_softmax(-1)
    apart = mean.exp() * (mean - (each / temperature).log_softmax(-1))
    return temperature.mean() ** 2 * apart.sum(dim=(1, 2)).mean()
