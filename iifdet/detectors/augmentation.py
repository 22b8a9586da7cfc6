"""Features of rare classes without images, drawn from what training has seen of them (FASA)."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from iifdet.longtail import ClassCounts, widened

#: What a step's features weigh in the running moments, and what drawn ones weigh in the loss.
DECAY, SHARE = 0.1, 0.1
#: What a group's chance is multiplied by where its losses rise, and where they fall.
DOWN, UP = 0.9, 1.1


class FeatureAugmentation(nn.Module):
    """Draws a feature of some classes in each step, rare ones more often: ``mean + deviation · noise``.

    Moments of each class are running ones, of the features of its proposals. A class is drawn by lot; its chance begins
    at the share that the inverse of its boxes has of those of all classes, and goes up and down with its losses on
    images that are not trained on (:meth:`adapt`).

    Source: Zang et al., FASA: Feature Augmentation and Sampling Adaptation for Long-Tailed Instance Segmentation, ICCV
    2021, Section 3. Their program watches the losses of the validation images, and groups classes by distances that it
    hands over as likenesses; here images are watched that are held out of training, and likenesses are distances with
    their sign turned.

    Args:
        width: D of the features.
        num_classes: C.

    Attributes:
        weight: (C,) 1 for classes that have been seen; with several processes the share of these that have.
        mean, variance: (C, D), times ``weight``.
        chance: (C,) of being drawn in a step.
        before: (C,) mean losses when chances were last looked at; negative before that.
    """

    #: Averaged over processes after each step.
    running = ("weight", "mean", "variance")
    weight: Tensor
    mean: Tensor
    variance: Tensor
    chance: Tensor
    before: Tensor

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_classes))
        self.register_buffer("mean", torch.zeros(num_classes, width))
        self.register_buffer("variance", torch.zeros(num_classes, width))
        self.register_buffer("chance", torch.zeros(num_classes))
        self.register_buffer("before", torch.full((num_classes,), -1.0))

    def set_counts(self, counts: ClassCounts) -> None:
        """Let chances begin; a class without a box has none."""
        boxes = counts.instances.double()
        inverse = torch.where(boxes > 0, 1 / boxes.clamp(min=1), 0.0)
        self.chance.copy_(inverse / inverse.sum())

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor) -> None:
        """Take (R, D) features of proposals with (R,) labels into the moments; those of background, -1, are left out.

        The first ones of a class are taken as they are.
        """
        number, mean, variance = class_moments(widened(features), labels, len(self.weight))
        now, known = number > 0, self.weight > 0
        keep = torch.where(known, 1 - DECAY, 0.0)
        for buffer, value in ((self.weight, now.float()), (self.mean, mean), (self.variance, variance)):
            shape = (-1, *[1] * (value.ndim - 1))
            mixed = keep.view(shape) * buffer + (1 - keep).view(shape) * value
            buffer.copy_(torch.where(now.view(shape), mixed, buffer))

    def loss(self, losses_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """SHARE times the mean loss of the classes that are drawn, a scalar; 0 where none is.

        Args:
            losses_of: (C, D) features, (C,) labels -> (C,) losses. All classes are asked for, so that shapes are always
                the same, and those that are not drawn do not count.
        """
        mean, deviation = self.means(), (self.variance / self._weights()).sqrt()
        drawn = (torch.rand_like(self.chance) < self.chance) & (self.weight > 0)
        features = mean + deviation * torch.randn_like(mean)
        losses = losses_of(features, torch.arange(len(drawn), device=drawn.device))
        return SHARE * (losses * drawn).sum() / drawn.sum().clamp(min=1)

    def means(self) -> Tensor:
        """(C, D) mean features; zeros of a class that has not been seen."""
        return self.mean / self._weights()

    def _weights(self) -> Tensor:
        return self.weight.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)

    @torch.no_grad()
    def adapt(self, losses: Tensor, groups: Tensor) -> None:
        """Raise the chances of groups of classes whose losses have fallen since the last time, lower those of others.

        A group of one class more often than not has no image held out: then nothing changes.

        Args:
            losses: (C,) of held-out proposals, summed for each class and divided by the number of all, background
                among them.
            groups: (C,) number of the group that each class is in.
        """
        if (self.before >= 0).all():
            sums = [torch.zeros_like(losses).index_add_(0, groups, each) for each in (losses, self.before)]
            change = (sums[0] - sums[1])[groups]
            factor = torch.where(change > 0, DOWN, torch.where(change < 0, UP, 1.0))
            self.chance.mul_(factor).clamp_(max=1)
        self.before.copy_(losses)


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """(C,) numbers, (C, D) means and (C, D) unbiased variances of (R, D) features by (R,) label; -1 is left out.

    A class of one feature has a variance of 0, and of none a mean of 0, too.
    """
    row = torch.where(labels < 0, num_classes, labels)
    number = features.new_zeros(num_classes + 1).index_add_(0, row, features.new_ones(len(row)))
    sums = features.new_zeros(num_classes + 1, features.shape[1])
    mean = sums.index_add(0, row, features) / number.clamp(min=1).unsqueeze(1)
    squares = sums.index_add(0, row, (features - mean[row]).square())
    variance = squares / (number - 1).clamp(min=1).unsqueeze(1)
    return number[:-1], mean[:-1], variance[:-1]


def like_classes(means: Tensor) -> Tensor:
    """(C,) number of the group of each class; classes whose (C, D) mean features lie near one another share one."""
    from sklearn.cluster import AffinityPropagation
    from sklearn.exceptions import ConvergenceWarning

    apart = torch.cdist(means.double().cpu(), means.double().cpu()).square()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two classes have nothing to be grouped by
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            found = AffinityPropagation(affinity="precomputed", random_state=0).fit_predict(-apart.numpy())
            groups = torch.from_numpy(found).long()
        except ConvergenceWarning:
            groups = torch.arange(len(means))  # each for itself
    return groups.to(means.device)
