"""What every detector is: one seam (raw), one adjustment, one post-processing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.detectors.batching import Images
from iifdet.detectors.layout import Layout
from iifdet.detectors.postprocess import PostprocessOptions, in_own_pixels, select
from iifdet.longtail import ACTIVATIONS, CLASS_LOSSES, ClassCounts, LogitAdjustment
from iifdet.types import Detection, RawPredictions, Target


@dataclass(frozen=True)
class ClassifierRows:
    """Views into one classifier layer: what a fold rewrites and a decoupled second stage trains.

    Attributes:
        weight: (C, ...) class rows.
        bias: (C,) class biases.
        background: ((...,) row, () bias), where there is one.
    """

    weight: Tensor
    bias: Tensor
    background: tuple[Tensor, Tensor] | None = None


class Detector(nn.Module):
    """Base of all detectors: named losses in train mode, one Detection an image in eval mode.

    In eval mode ``forward(images) = postprocess(adjusted(raw(images)))``.

    A subclass defines :meth:`raw`, :meth:`losses`, :meth:`classifier_layers` and :meth:`classifier_rows`,
    :meth:`cam_layers`, :meth:`layout`.

    Args:
        num_classes: C, background excluded.
        class_loss: name in CLASS_LOSSES; it also decides whether scores are softmax or sigmoid.
        postprocess: how detections are chosen.
    """

    #: Whether the class logits come with a background logit.
    has_background = False
    #: Whether training needs masks beside the boxes; detections then have them too.
    wants_masks = False
    #: What decides at which size the network sees an image, in a model that resizes each to sizes of its own.
    size_key = ""

    def __init__(
        self, num_classes: int, *, class_loss: str = "ce", postprocess: PostprocessOptions | None = None
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.options = postprocess or PostprocessOptions()
        self.adjust = LogitAdjustment(num_classes)
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", None)
        self.class_loss = self.class_activation = ""
        self.set_class_loss(class_loss)
        self.names: list[str] = [str(c) for c in range(num_classes)]
        self.counts: ClassCounts | None = None
        #: Factory name and keywords, so that a checkpoint can build this model again; set by create_model.
        self.spec: dict[str, Any] = {}
        #: The keys of the run that trained it, from its checkpoint: how it is used to seeing images.
        self.recipe: dict[str, Any] = {}

    # -- what a subclass provides ------------------------------------------------------------------------------------

    def raw(self, images: Images) -> list[RawPredictions]:
        """Everything the network says, one RawPredictions an image: before adjustment, activation and NMS."""
        raise NotImplementedError

    def dense(self, images: Tensor) -> RawPredictions:
        """:meth:`raw` of a whole batch (B, 3, H, W) at once: its fields with B in front, no loop over images.

        This is what an exported graph holds. Only a network that says the same number of things about every image has
        it; proposals are as many as there are.
        """
        raise NotImplementedError

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named scalar losses; their sum is minimised."""
        raise NotImplementedError

    def loss_divisor(self, images: Images, targets: Sequence[Target]) -> int | None:
        """What :meth:`losses` divides by (at least 1), where it counts ground truth over the whole batch.

        None where every image has a part of its own: then batches count by their images.
        """
        return None

    def classifier_layers(self) -> list[nn.Module]:
        """The layers that hold class rows and nothing else: all that the decoupled second stage trains."""
        raise NotImplementedError

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        """Views of (C, ...) class rows, one for each anchor of each layer."""
        raise NotImplementedError

    def class_tensors(self) -> dict[str, Tensor]:
        """What else has a part for each class, boxes or masks: name in the state dict -> (C, ...) view."""
        return {}

    def cam_layers(self) -> dict[str, nn.Module]:
        """The last feature layers before the prediction convolutions, by name."""
        raise NotImplementedError

    def layout(self, size: tuple[int, int]) -> Layout:
        """Where an image of this (height, width) and the rows of its ``raw`` stand, when it is looked at alone."""
        raise NotImplementedError

    # -- shared --------------------------------------------------------------------------------------------------------

    def forward(self, images: Images, targets: Sequence[Target] | None = None) -> Any:
        if self.training:
            if targets is None:
                raise ValueError("targets: expected one target an image in train mode, got None; call eval() to detect")
            return self.losses(images, targets)
        return self.postprocess(self.adjusted(self.raw(images)))[0]

    def adjusted(self, raw: Sequence[RawPredictions], phase: str = "infer") -> list[RawPredictions]:
        """Apply ``self.adjust`` to class logits and background; boxes and objectness pass through untouched."""
        return [
            replace(
                r,
                class_logits=self.adjust(r.class_logits, phase=phase, background=r.background),
                background=None
                if r.background is None
                else self.adjust.adjust_background(r.background, r.class_logits, phase=phase),
            )
            for r in raw
        ]

    def scores(self, raw: RawPredictions) -> Tensor:
        """(…, N, C) scores in [0, 1] of adjusted predictions: objectness x class."""
        logits = raw.class_logits.float()
        if self.class_activation == "sigmoid":
            scores = logits.sigmoid()
        elif raw.background is None:
            scores = logits.softmax(dim=-1)
        else:
            scores = torch.cat((raw.background.float().unsqueeze(-1), logits), dim=-1).softmax(dim=-1)[..., 1:]
        return scores if raw.objectness is None else scores * raw.objectness.float().sigmoid().unsqueeze(-1)

    def postprocess(
        self, raw: Sequence[RawPredictions], options: PostprocessOptions | None = None
    ) -> tuple[list[Detection], list[Tensor]]:
        """Adjusted predictions to detections, and for each detection the row of ``raw`` that it came from."""
        chosen = self.choose(raw, options)
        found = [in_own_pixels(detection, r) for (detection, _), r in zip(chosen, raw, strict=True)]
        return found, [rows for _, rows in chosen]

    def choose(
        self, raw: Sequence[RawPredictions], options: PostprocessOptions | None = None
    ) -> list[tuple[Detection, Tensor]]:
        """Detections where the network has them (``RawPredictions.network``), and their rows, image by image."""
        found = []
        for r in raw:
            boxes, size = (r.boxes, r.size) if r.network is None else (r.network.boxes, r.network.size)
            found.append(select(boxes, self.scores(r), size, options or self.options, r.levels))
        return found

    def class_losses(self, logits: Tensor, labels: Tensor, background: Tensor | None = None) -> Tensor:
        """(..., C) raw class logits and (...) labels -> (...) adjusted classification losses.

        Args:
            labels: 0…C-1, or -1 for background where there is a background logit.
            background: (...) raw background logits. Softmax puts them beside the classes, with class weight 1; under
                sigmoid losses each class decides for itself and they play no part.
        """
        adjusted, weight = self.adjust(logits, phase="train", background=background), self.class_weight
        if background is not None and self.class_activation == "softmax":
            first = self.adjust.adjust_background(background, logits, phase="train")
            adjusted, labels = torch.cat((first.unsqueeze(-1), adjusted), dim=-1), labels + 1
            weight = None if weight is None else torch.cat((weight.new_ones(1), weight))
        loss = CLASS_LOSSES[self.class_loss](adjusted.flatten(0, -2), labels.flatten(), weight)
        return loss.view(labels.shape)

    def set_class_loss(self, name: str) -> None:
        """Choose the classification loss, and with it softmax or sigmoid scores."""
        if name not in CLASS_LOSSES:
            raise ValueError(f"class_loss: expected one of {', '.join(CLASS_LOSSES)}, got '{name}'")
        self.class_loss, self.class_activation = name, ACTIVATIONS[name]

    def set_class_weight(self, weight: Tensor | None) -> None:
        """Weigh each sample's classification loss by its true class (C,); None weighs all alike."""
        device = next(self.parameters()).device
        self.class_weight = None if weight is None else weight.float().to(device)

    def set_adjustment(
        self,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        when: str = "both",
        center: str = "none",
        bg_scale: float = 1.0,
        bg_shift: float = 0.0,
    ) -> None:
        """Replace the adjustment; see :class:`iifdet.longtail.LogitAdjustment`. No arguments: the identity.

        Raises:
            ValueError: bad values; ``center="bg"`` on a model without a background logit, or one that no loss trains.
            RuntimeError: the model was folded.
        """
        if self.adjust.folded:
            raise RuntimeError("this model was folded: its rows carry an adjustment; load the unfolded checkpoint")
        missing = self._why_no_background()
        if center == "bg" and missing:
            raise ValueError(f"center: {missing}; use 'none' or 'mean'")
        if (bg_scale, bg_shift) != (1.0, 0.0) and missing:
            raise ValueError(f"bg_scale, bg_shift: {missing}; leave them at 1 and 0")
        self.adjust.set(scale, shift, when=when, center=center, bg_scale=bg_scale, bg_shift=bg_shift)

    def _why_no_background(self) -> str:
        """What to say about a background logit that means nothing; empty where there is one that does."""
        if not self.has_background:
            return f"{type(self).__name__} has no background logit"
        if self.class_activation == "sigmoid":  # its row keeps the values it was born with
            return f"class_loss={self.class_loss} decides each class for itself and trains no background logit"
        return ""

    def fold(self) -> None:
        """Bake what inference applies into the classifier's rows: the same detections at no cost. No training after."""
        for rows in self.classifier_rows():
            self.adjust.fold_rows(rows.weight, rows.bias, rows.background)
        self.adjust.mark_folded()
