"""What every classifier is: a network of features, a head of class rows, one adjustment of their logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.classifiers.causal import CausalHead
from iifdet.classifiers.cosine import CosineHead, LearnedCosineHead
from iifdet.classifiers.distillation import Distillation
from iifdet.classifiers.heads import Head, LinearHead, build_head
from iifdet.classifiers.network import Network
from iifdet.classifiers.synthesis import Synthesis
from iifdet.longtail import REFUSE_MIXED, AdjustedModel, ClassifierRows, ClassLossChoice, class_scores
from iifdet.types import ClassTargets, MixedLabels

Images = Tensor | Sequence[Tensor]


class Classifier(AdjustedModel):
    """One label an image: a loss in train mode, adjusted logits (B, C) in eval mode.

    In eval mode ``forward(images) = adjusted(raw(images))``; :meth:`scores` turns these into probabilities. Nothing in
    ``forward`` waits for the device, so that whole steps can be captured as a CUDA graph.

    Args:
        network: makes (B, D) features.
        num_classes: C.
        mean, std: of the channels of images in [0, 1]; subtracted and divided by inside.
        head: name in HEADS.
        scale: of a cosine or causal head; None for its default.
        effect: of a causal head; None for its default.
        trainable_stages: how many of the network's stages, counted from the last, are trained; None for all. In a run
            batch norm of the others keeps its statistics; only ``frozen_bn=train`` lets it go on collecting.
        class_loss: name in CLASS_LOSSES. Those in REFUSE_MIXED take no mixed labels.

    Raises:
        ValueError: an option is out of its range.
    """

    #: The option in ``model_args`` that makes it more than a network and a head; None where none does.
    shape: str | None = None
    #: Whether the class loss is asked for more than one loss an image.
    counts_twice = False
    #: Whether it learns from images that are blended.
    takes_mixed_labels = True
    #: The key ``sampling`` without which training makes no sense; None where any does.
    sampling: str | None = None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Network,
        num_classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        head: str = "linear",
        scale: float | None = None,
        effect: float | None = None,
        trainable_stages: int | None = None,
        class_loss: ClassLossChoice = "ce",
    ) -> None:
        super().__init__(num_classes, class_loss=class_loss)
        self.network = network
        self.head = self.make_head(head, scale=scale, effect=effect)
        self.distillation: Distillation | None = None
        #: Draws features for rare classes in training, where a second stage has it.
        self.synthesis: Synthesis | None = None
        self.register_buffer("mean", _channels("mean", mean), persistent=False)
        self.register_buffer("std", _channels("std", std), persistent=False)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std: expected numbers above 0, got {list(std)}")
        self._freeze_all_but(trainable_stages)

    def make_head(self, name: str, **options: float | None) -> Any:
        """What makes logits of the network's features."""
        return build_head(name, self.network.out_features, self.num_classes, **options)

    def forward(self, images: Images, targets: ClassTargets | None = None) -> Any:
        """Named losses in train mode, (B, C) float32 adjusted logits in eval mode.

        Args:
            images: (B, 3, H, W) float in [0, 1], or a sequence of (3, H, W) of one size.
            targets: (B,) int64 labels, or :class:`iifdet.types.MixedLabels`.
        """
        if self.training:
            if targets is None:
                raise ValueError("targets: expected a label an image in train mode, got None; call eval() to classify")
            if isinstance(targets, MixedLabels) and not self.takes_mixed_labels:
                raise ValueError(f"targets: expected a label an image with model_args.{self.shape}, got mixed ones")
            return self.losses(images, targets)
        return self.adjusted(self.raw(images)).float()

    def raw(self, images: Images) -> Tensor:
        """(B, C) logits before any adjustment; float32 where the network runs in half precision."""
        return self.logits_of(self.features(images))

    def logits_of(self, features: Tensor) -> Tensor:
        """(B, D) features -> (B, C) logits before any adjustment."""
        logits: Tensor = self.head(features)
        return logits if self.align is None else self.align(logits, features)

    def features(self, images: Images) -> Tensor:
        """(B, D) pooled features, what the head sees."""
        return self.network(self.normalized(images))

    def normalized(self, images: Images) -> Tensor:
        """(B, 3, H, W), channels with a mean of 0 and a deviation of 1."""
        batch = images if isinstance(images, Tensor) else torch.stack(list(images))
        return (batch - self.mean) / self.std

    def adjusted(self, logits: Tensor, phase: str = "infer") -> Tensor:
        """(B, C) logits with ``self.adjust`` applied."""
        return self.adjust(logits, phase=phase)

    def scores(self, logits: Tensor) -> Tensor:
        """(B, C) probabilities in [0, 1] of adjusted logits."""
        return class_scores(logits, self.class_activation)

    def losses(self, images: Images, targets: ClassTargets) -> dict[str, Tensor]:
        """``{"cls": scalar}``: the mean over images, each weighed by its class weight where there are some.

        With a teacher also ``distill``; see :class:`iifdet.classifiers.distillation.Distillation`.
        """
        features = self.features(images)
        if self.synthesis is not None and isinstance(targets, Tensor):
            features, targets = self.synthesis(features, targets)
        logits = self.logits_of(features)
        loss = self.label_losses(logits, targets).mean()
        if self.distillation is None:
            return {"cls": loss}
        said = self.adjusted(logits) if self.adjust.acts_in("train") else logits  # training knows no later adjustment
        return self.distillation.losses(loss, images, features, said)

    def label_losses(self, logits: Tensor, targets: ClassTargets) -> Tensor:
        """(..., B, C) raw logits -> (..., B) losses.

        Mixed labels (Mixup, CutMix) cost ``share · L(labels) + (1 - share) · L(others)``.
        """
        if not isinstance(targets, MixedLabels):
            return self.class_losses(logits, targets.expand(logits.shape[:-1]))
        if self.class_loss in REFUSE_MIXED:
            raise ValueError(
                f"class_loss: {self.class_loss} sees a batch as a whole and takes no mixed labels; set mixup=0"
            )
        ours, theirs = (self.label_losses(logits, labels) for labels in (targets.labels, targets.others))
        return targets.share * ours + (1 - targets.share) * theirs

    @property
    def wants_centroids(self) -> str | None:
        """Name of the (C, D) tensor that classes' mean features go to before the next epoch; None for most models."""
        return None

    def learn_from(self, distillation: Distillation) -> None:
        """Train with what a teacher says beside the labels.

        Raises:
            ValueError: the teacher does not fit.
        """
        if self.shape is not None:
            raise ValueError(f"teacher: teaches one classifier by itself, got model_args.{self.shape}; drop one")
        teacher = distillation.teacher
        if teacher.names != self.names:
            raise ValueError(f"teacher: expected the {len(self.names)} classes of the data, got one of others")
        if distillation.kind == "cbd" and teacher.feature_shape != self.feature_shape:
            raise ValueError(
                f"teacher: expected features of shape {self.feature_shape} for distill=cbd, got "
                f"{teacher.feature_shape}; give one of the same model, or use distill=dive"
            )
        teacher.requires_grad_(False).eval().to(self.device)
        self.distillation = distillation

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of an image's features."""
        return (self.network.out_features,)

    def _apply(self, fn: Any, recurse: bool = True) -> Classifier:
        """A teacher, which is no part of the state, goes along to another device."""
        if self.distillation is not None:
            self.distillation.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def alignment_width(self) -> int | None:
        return self.network.out_features

    @property
    def follows_nothing(self) -> bool:
        """Whether a causal head has no direction, and none to come since the features are finished."""
        head = self.first_head()
        return isinstance(head, CausalHead) and not self.trains_features and not bool(head.direction.any())

    @property
    def trains_features(self) -> bool:
        """Whether something of the network is trained."""
        return any(parameter.requires_grad for parameter in self.network.parameters())

    def first_head(self) -> Head:
        """The head, or one of several of its kind."""
        head: Head = self.head
        return head

    def classifier_layers(self) -> list[nn.Module]:
        return [self.head]

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        yield ClassifierRows(self.head.weight, self.head.class_biases())

    @property
    def cosine_scale(self) -> float | None:
        head = self.first_head()
        return head.fixed_scale if isinstance(head, CosineHead) and not isinstance(head, LearnedCosineHead) else None

    @property
    def rows_have_norms(self) -> bool:
        return isinstance(self.first_head(), LinearHead)

    def class_tensors(self) -> dict[str, Tensor]:
        """What a head has beside its rows."""
        return {f"head.{name}": value for name, value in self.first_head().class_tensors().items()}

    def cam_layers(self) -> dict[str, nn.Module]:
        return self.network.last_maps()

    def fold_layers(self) -> None:
        """Each head as it can carry an adjustment."""
        self.head.fold(self.adjust)

    def _freeze_all_but(self, trainable: int | None) -> None:
        stages = list(self.network.stages().values())
        if trainable is None:
            return
        if type(trainable) is not int or not 0 <= trainable <= len(stages):
            raise ValueError(f"trainable_stages: expected 0…{len(stages)}, got {trainable!r}")
        for stage in stages[: len(stages) - trainable]:
            stage.requires_grad_(False)


def _channels(name: str, values: Sequence[float]) -> Tensor:
    """Three numbers as (3, 1, 1)."""
    tensor = torch.tensor(list(values), dtype=torch.float32)
    if tensor.shape != (3,) or not bool(tensor.isfinite().all()):
        raise ValueError(f"{name}: expected three numbers, one a channel, got {list(values)}")
    return tensor.view(3, 1, 1)
