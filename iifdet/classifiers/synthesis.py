"""Features of rare classes without images: drawn around real ones, as near classes spread (TailCalib)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Variance that every number of a drawn direction has at least.
FLOOR = 1e-4
#: Numbers of the roots that are looked up at a time.
AT_ONCE = 2**26


@dataclass(frozen=True)
class Moments:
    """Sums over images of features of length 1, by class, in float64.

    Attributes:
        images: (C,).
        first: (C, D).
        second: (C, D, D), of their outer products.
    """

    images: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, features: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> Moments:
        """Of batches of (B, D) features and their (B,) labels; one at least."""
        images = first = second = torch.zeros(())
        for batch, labels in features:
            unit = F.normalize(batch.double(), dim=-1)
            if not images.ndim:
                width = unit.shape[1]
                images, first, second = (
                    unit.new_zeros(num_classes, *shape) for shape in ((), (width,), (width, width))
                )
            images.index_add_(0, labels, torch.ones_like(labels, dtype=images.dtype))
            first.index_add_(0, labels, unit)
            for c in labels.unique().tolist():  # B outer products would be far larger than their sums
                own = unit[labels == c]
                second[c] += own.T @ own
        return cls(images, first, second)


@dataclass(frozen=True)
class Synthesis:
    """Draws features for classes that have fewer images than the largest, as many as they lack.

    A direction is drawn around that of a real feature x of the class: from a normal distribution whose mean is that of
    x and the means of the ``neighbors`` nearest classes, and whose covariance is the mean of theirs. It gets the length
    of x, since a classifier here sees features as they are; the published one sees directions alone.

    Source: Vigneswaran et al., Feature Generation for Long-tail Classification (TailCalibX), ICVGIP 2021, Section 3.

    Attributes:
        means: (C, D) mean directions of classes.
        roots: (C, D, D) R with R Rᵀ the covariance of each.
        wanted: (C,) features to be drawn for each real one of a class.
        per_image: features to be drawn for each real one of any class.
        neighbors: classes that lend mean and covariance, the nearest first.
        spread: added to every covariance, α.
    """

    means: Tensor
    roots: Tensor
    wanted: Tensor
    per_image: float
    neighbors: int = 3
    spread: float = 0.0

    @classmethod
    def of(cls, moments: Moments, neighbors: int, spread: float) -> Synthesis:
        """From the moments of a training set's features.

        Raises:
            ValueError: a class without an image.
        """
        n = moments.images
        if not bool((n > 0).all()):
            raise ValueError(f"synthesis: expected images of all classes, got none of {int((n <= 0).sum())} of them")
        means = moments.first / n[:, None]
        centred = moments.second / n[:, None, None] - means.unsqueeze(2) * means.unsqueeze(1)
        unbiased = centred * (n / (n - 1).clamp(min=1))[:, None, None]
        values, vectors = torch.linalg.eigh(unbiased)
        roots = vectors * values.clamp(min=0).sqrt().unsqueeze(1)
        wanted, per_image = (n.max() - n) / n, float((n.max() - n).sum() / n.sum())
        return cls(means.float(), roots.float(), wanted.float(), per_image, min(neighbors, len(n)), spread)

    def __call__(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) features and (B,) labels, and those that were drawn after them: B times ``per_image``."""
        with torch.autocast(features.device.type, enabled=False):
            return self._with_drawn(features.float(), labels)

    def _with_drawn(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        number = round(self.per_image * len(labels))
        ends = self.wanted[labels].cumsum(0)
        places = torch.rand(number, device=features.device) * ends[-1]
        rows = torch.searchsorted(ends, places).clamp(max=len(labels) - 1)
        sources = features[rows]
        drawn = F.normalize(self.draw(F.normalize(sources, dim=-1)), dim=-1)
        drawn = drawn * torch.linalg.vector_norm(sources, dim=-1, keepdim=True)
        return torch.cat([features, drawn]), torch.cat([labels, labels[rows]])

    def draw(self, directions: Tensor) -> Tensor:
        """(N, D) of length 1 -> (N, D) drawn around them, of any length."""
        nearest = self.nearest(directions)
        mean = (self.means[nearest].sum(dim=1) + directions) / (self.neighbors + 1)
        noise = torch.randn(*nearest.shape, directions.shape[1], 1, device=directions.device)
        parts = zip(nearest.split(self._at_once()), noise.split(self._at_once()), strict=True)
        lent = torch.cat([(self.roots[near] @ part).squeeze(-1).sum(dim=1) for near, part in parts])
        common = self.spread**0.5 * torch.randn(len(directions), 1, device=directions.device)
        return mean + lent / self.neighbors**0.5 + common + FLOOR**0.5 * torch.randn_like(directions)

    def _at_once(self) -> int:
        """Features whose neighbours' roots fit into AT_ONCE numbers."""
        return max(1, AT_ONCE // (self.neighbors * self.roots[0].numel()))

    def nearest(self, directions: Tensor) -> Tensor:
        """(N, k) classes, the nearest first; one's own may be among them, or not."""
        return torch.cdist(directions, self.means).topk(self.neighbors, largest=False).indices
