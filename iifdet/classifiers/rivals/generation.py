"""Maps of rare classes, made in front of the last stage from how images of common ones vary (RSG)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.classifiers.base import Classifier, Images
from iifdet.classifiers.network import Network
from iifdet.longtail import ClassCounts, widened
from iifdet.types import ClassTargets

#: Centres of each class, share of the classes that are common, channels between two maps that are compared.
CENTRES, COMMON, COMPARED = 15, 0.2, 256
#: What the losses on centres and on made variations count beside the classification of maps, real and made.
CENTRE_SHARE, VARIATION_SHARE = 0.1, 0.01


class Comparison(nn.Module):
    """Two maps (B, C, H, W) -> (B, 2) logits: of different classes, of the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(2 * channels, COMPARED, 1)
        self.near = nn.Conv2d(COMPARED, COMPARED, 3, padding=1)
        self.same = nn.Linear(COMPARED, 2)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        mixed = self.near(self.both(torch.cat([one, other], dim=1)).relu())
        return self.same(mixed.mean(dim=(2, 3)))


class Generator(nn.Module):
    """Rare-class sample generator: centres of each class, and variations that are taken from one class to another.

    What a common image's map differs in from its centre is turned into a variation of rare ones. All of it sees maps
    that no gradient leaves through.

    Source: Wang et al., RSG: A Simple but Effective Module for Learning Imbalanced Datasets, CVPR 2021, Section 3.
    Their program compares directions number by number and across the rows of its memory, here it is the cosine at each
    place; and it makes maps of each rare image as often as common ones are more, here one for each common image.

    Args:
        channels: C of the maps.
        num_classes: K.

    Attributes:
        common: (K,) 1 for the fifth of the classes that have most images.
    """

    common: Tensor

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(num_classes, CENTRES, channels))
        self.choice = nn.Parameter(torch.randn(num_classes, CENTRES, channels))
        self.choice_bias = nn.Parameter(torch.ones(num_classes, CENTRES))
        self.turn = nn.Conv2d(channels, channels, 3, padding=1)
        self.compare = Comparison(channels)
        self.register_buffer("common", torch.zeros(num_classes))

    def shares(self, maps: Tensor, labels: Tensor) -> Tensor:
        """(B, CENTRES) how much each centre of its class has of a map."""
        pooled = maps.mean(dim=(2, 3)).unsqueeze(2)
        return ((self.choice[labels] @ pooled).squeeze(2) + self.choice_bias[labels]).softmax(dim=1)

    def centre_loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Mean over images of the squared distance to each centre by its share; scalar."""
        pixels = maps.flatten(2)  # |F - c|² over places = |F|² - 2 c · ΣF + n |c|²
        own = self.centres[labels]
        squares = pixels.square().sum(dim=(1, 2))[:, None] - 2 * (own @ pixels.sum(dim=2).unsqueeze(2)).squeeze(2)
        squares = squares + pixels.shape[2] * own.square().sum(dim=2)
        return (self.shares(maps, labels) * squares).sum(dim=1).mean()

    def comparison_loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        """How well halves of a batch are told to be of one class or of two; scalar, 0 for a single image."""
        half = len(labels) // 2
        if not half:  # but every parameter has a part in every batch
            return torch.stack([p.sum() for p in self.compare.parameters()]).sum() * 0
        logits = self.compare(maps[:half], maps[half : 2 * half])
        return F.cross_entropy(logits, (labels[:half] == labels[half : 2 * half]).long())

    def nearest_centre(self, maps: Tensor, labels: Tensor) -> Tensor:
        """(B, C, 1, 1) the centre of its class that has most of a map."""
        chosen = self.shares(maps, labels).argmax(dim=1)
        return self.centres[labels, chosen][:, :, None, None]

    def made(self, maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A map for each image of a common class, of a rare class that is in the batch.

        Images of rare ones, and all where there is none, get their own map again: shapes are those of the batch.

        Returns:
            (B, C, H, W) maps, their (B,) labels, (B,) 1 where one was made, and the loss on variations, a scalar.
        """
        seen = maps.detach()
        is_common = self.common[labels] > 0
        rare = (~is_common).cumsum(0)
        place = (torch.rand(len(labels), device=maps.device) * rare[-1]).floor().long() + 1
        partner = torch.searchsorted(rare, place).clamp(max=len(labels) - 1)
        valid = is_common & (rare[-1] > 0)
        variation = seen - self.nearest_centre(seen, labels).detach()
        turned = self.turn(variation)
        new = torch.where(valid[:, None, None, None], seen[partner] + turned, maps)
        loss = self._variation_loss(seen, seen[partner], labels[partner], variation, turned)
        loss = (loss * valid).sum() / valid.sum().clamp(min=1)
        return new, torch.where(valid, labels[partner], labels), valid.to(maps.dtype), loss

    def _variation_loss(
        self, common: Tensor, rare: Tensor, rare_labels: Tensor, variation: Tensor, turned: Tensor
    ) -> Tensor:
        """(B,): a turned variation shall not look like the class that it is from, keep its length at each place, and
        point to where the rare map differs from its own centre; summed over places."""
        frozen = {name: value.detach() for name, value in self.compare.named_parameters()}
        logits = torch.func.functional_call(self.compare, frozen, (common, turned))
        apart = -logits.log_softmax(dim=1)[:, 0]
        lengths = [torch.linalg.vector_norm(v, dim=1) for v in (turned, variation)]
        own = rare - self.nearest_centre(rare, rare_labels).detach()
        cosines = F.cosine_similarity(own, turned, dim=1)
        return apart + ((lengths[0] - lengths[1]).abs() + (cosines - 1).abs()).sum(dim=(1, 2))


class GeneratingClassifier(Classifier):
    """Trains with maps of rare classes that a generator makes in the last part of a run, and in inference without any.

    First it learns centres and comparisons, then, where ``generating`` is 1, how to turn variations
    (:class:`iifdet.curriculum.Generating`).

    Source: see :class:`Generator`.

    Args:
        network: makes features.
        num_classes: C.
        keywords: of :class:`Classifier`.
    """

    shape = "generator"
    takes_mixed_labels = False
    counts_twice = True
    generating: Tensor

    def __init__(self, network: Network, num_classes: int, **keywords: Any) -> None:
        super().__init__(network, num_classes, **keywords)
        self.generator = Generator(network.inner_channels(), num_classes)
        self.register_buffer("generating", torch.zeros(()))

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar, "centres": scalar, "variations": scalar}``."""
        assert isinstance(targets, Tensor)
        maps = self.network.inner(self.normalized(images))
        with torch.autocast(maps.device.type, enabled=False):
            own = widened(maps)
            seen, generator = own.detach(), self.generator
            new, labels, valid, variations = generator.made(own, targets)
            compared = (1 - self.generating) * generator.comparison_loss(seen, targets)
            centres = CENTRE_SHARE * (generator.centre_loss(seen, targets) + compared)
        both = torch.cat([own, torch.where(self.generating > 0, new, own)]).to(maps.dtype)
        logits = self.logits_of(self.network.outer(both))
        weights = torch.cat([torch.ones_like(valid), self.generating * valid])
        losses = self.label_losses(logits, torch.cat([targets, torch.where(self.generating > 0, labels, targets)]))
        return {
            "cls": (weights * losses).sum() / weights.sum(),
            "centres": centres,
            "variations": VARIATION_SHARE * self.generating * variations,
        }

    def set_class_statistic(self, counts: ClassCounts | None) -> None:
        """As for every model; counts also say which classes are common."""
        super().set_class_statistic(counts)
        if counts is not None:
            number = max(1, round(COMMON * len(counts)))
            self.generator.common.zero_()
            self.generator.common[counts.images.argsort(descending=True, stable=True)[:number].to(self.device)] = 1

    def class_tensors(self) -> dict[str, Tensor]:
        names = ("centres", "choice", "choice_bias", "common")
        return super().class_tensors() | {f"generator.{name}": getattr(self.generator, name) for name in names}
