"""What training does otherwise from epoch to epoch: weights of the loss that act later, a share that falls, and what it
looks at before an epoch.

What acts follows from the epoch alone, so that a resumed run, or one that went back to a checkpoint, has the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.detectors.augmentation import like_classes
from iifdet.distributed import World
from iifdet.training import Callback, TrainState, to_device
from iifdet.types import Batch


@torch.no_grad()
def _put(state: TrainState, name: str, value: Tensor) -> None:
    """Into the model's tensor of this name, in place since a recorded step reads it, and into that of its average."""
    state.model.state_dict()[name].copy_(value)
    if state.average is not None:
        state.average.weights[name].copy_(value)


class _Buffer(Callback):
    """A buffer of the model, by name, that holds what :meth:`value` says of the epoch."""

    name: str

    def __init__(self) -> None:
        self.epoch = -1

    def value(self, epoch: int) -> Tensor:
        raise NotImplementedError

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        if state.epoch == self.epoch and state.batch:
            return
        self.epoch = state.epoch
        _put(state, self.name, self.value(state.epoch))


class DeferredWeights(_Buffer):
    """Class weights of 1 in the loss before an epoch, and the weights from then on: features form first.

    Source: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019, Section 3
    (DRW: the last 40 of 200 epochs).

    Args:
        weights: (C,).
        first: epoch in which they begin to act, counted from 0.
    """

    name = "class_weight"

    def __init__(self, weights: Tensor, first: int) -> None:
        super().__init__()
        self.weights, self.first = weights, first

    def value(self, epoch: int) -> Tensor:
        return self.weights if epoch >= self.first else torch.ones_like(self.weights)


class CumulativeShare(_Buffer):
    """Cumulative learning: the share of what is learned first, ``1 - (epoch / epochs)²``.

    Source: Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition, CVPR
    2020, Section 4.3.

    Args:
        epochs: of the whole run.
    """

    name = "share"

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def value(self, epoch: int) -> Tensor:
        return torch.tensor(1 - (epoch / self.epochs) ** 2)


class Generating(_Buffer):
    """0 while a model learns what classes look like, and 1 from then on, while it makes maps or features of rare ones.

    Source: Wang et al., RSG: A Simple but Effective Module for Learning Imbalanced Datasets, CVPR 2021 (from the 160th
    of 200 epochs on); Zang et al., FASA, ICCV 2021 (from the second on).

    Args:
        first: epoch in which it begins, counted from 0.
    """

    name = "generating"

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def value(self, epoch: int) -> Tensor:
        return torch.tensor(float(epoch >= self.first))


def features_of(model: Any, batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, D) features and (B,) labels of each batch, by a classifier as it is."""
    for batch in batches:
        moved = to_device(batch, device)
        assert isinstance(moved.targets, Tensor)
        yield model.features(moved.images), moved.targets


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module has the mode again that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Centroids(Callback):
    """The mean features of each class, for a model that wants them before an epoch's first step.

    A run that is resumed within an epoch has them in its checkpoint.

    Args:
        batches: the training images, of which each process has a part.
        world: the processes.
    """

    def __init__(self, batches: Any, device: torch.device, world: World) -> None:
        self.batches, self.device, self.world = batches, device, world

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        model: Any = state.model
        name = None if state.batch else model.wants_centroids
        if name is None:
            return
        with _in_eval_mode(model):
            found = self._means(model)
        _put(state, name, found)

    @torch.no_grad()
    def _means(self, model: Any) -> Tensor:
        """(C, D) of what the model makes of the images now."""
        images = torch.zeros(model.num_classes, 1, device=self.device)
        sums = torch.zeros(model.num_classes, *model.feature_shape, device=self.device)
        for features, labels in features_of(model, self.batches, self.device):
            images.index_add_(0, labels, images.new_ones(len(labels), 1))
            sums.index_add_(0, labels, features.float())
        self.world.average_((images, sums))
        return sums / images.clamp(min=torch.finfo(images.dtype).tiny)


class AdaptedChances(Callback):
    """Before each epoch but the first, classes whose losses on held-out images fall are drawn more often.

    Source: Zang et al., FASA, ICCV 2021, Section 3.3.

    Args:
        batches: images that are not trained on, of which each process has a part.
        world: the processes.
    """

    def __init__(self, batches: Any, device: torch.device, world: World) -> None:
        self.batches, self.device, self.world = batches, device, world

    @torch.no_grad()
    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        if state.batch or not state.epoch:
            return
        model: Any = state.model
        with _in_eval_mode(model):
            losses = self._losses(model)
        augmentation = model.augmentation
        augmentation.adapt(losses, like_classes(augmentation.means()))
        for name in ("chance", "before"):
            _put(state, f"augmentation.{name}", getattr(augmentation, name))

    def _losses(self, model: Any) -> Tensor:
        """(C,) sums over the proposals of each class, divided by the number of all."""
        sums, number = torch.zeros(model.num_classes, device=self.device), torch.zeros((), device=self.device)
        for batch in self.batches:
            moved = to_device(batch, self.device)
            of_batch, proposals = model.losses_by_class(moved.images, moved.targets)
            sums += of_batch
            number += proposals
        self.world.average_((sums, number))
        return sums / number.clamp(min=1)
