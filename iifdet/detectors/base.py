"""What every detector is: one seam (raw), one adjustment, one post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iifdet.detectors.batching import Images
from iifdet.detectors.layout import Layout
from iifdet.detectors.postprocess import PostprocessOptions, in_own_pixels, select
from iifdet.longtail import AdjustedModel, ClassLossChoice, class_scores
from iifdet.types import Detection, RawPredictions, Target


class Detector(AdjustedModel):
    """Base of all detectors: named losses in train mode, one Detection an image in eval mode.

    In eval mode ``forward(images) = postprocess(adjusted(raw(images)))``.

    A subclass defines :meth:`raw`, :meth:`losses`, :meth:`classifier_layers` and :meth:`classifier_rows`,
    :meth:`cam_layers`, :meth:`layout`.

    Args:
        num_classes: C, background excluded.
        class_loss: name in CLASS_LOSSES; it also decides what makes scores of logits.
        postprocess: how detections are chosen.
    """

    #: What decides at which size the network sees an image, in a model that resizes each to sizes of its own.
    size_key = ""

    def __init__(
        self, num_classes: int, *, class_loss: ClassLossChoice = "ce", postprocess: PostprocessOptions | None = None
    ) -> None:
        super().__init__(num_classes, class_loss=class_loss)
        self.options = postprocess or PostprocessOptions()

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

    def tensors(self, batch: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to what the last layers say, where shapes follow from the batch's alone: what can be compiled.

        Raises:
            ValueError: this detector has no such part.
        """
        raise ValueError(f"compile: {type(self).__name__} has no part of fixed shapes; leave compile=false")

    def loss_divisor(self, images: Images, targets: Sequence[Target]) -> int | None:
        """What :meth:`losses` divides by (at least 1), where it counts ground truth over the whole batch.

        None where every image has a part of its own: then batches count by their images.
        """
        return None

    def layout(self, size: tuple[int, int]) -> Layout:
        """Where an image of this (height, width) and the rows of its ``raw`` stand, when it is looked at alone."""
        raise NotImplementedError

    # -- shared --------------------------------------------------------------------------------------------------------

    def network(self, batch: Tensor) -> tuple[Tensor, ...]:
        """:meth:`tensors`, in training as :meth:`compile_network` made it."""
        compiled = self.__dict__.get("compiled") if self.training else None
        return self.tensors(batch) if compiled is None else compiled(batch)

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether shapes in the network follow from the batch's alone: there are :meth:`tensors` then."""
        return type(self).tensors is not Detector.tensors

    def compile_network(self, **options: Any) -> None:
        """From now on train with ``torch.compile``'s form of :meth:`tensors`, a program for each shape of a batch.

        Args:
            **options: of ``torch.compile``.

        Raises:
            ValueError: this detector has nothing to compile.
        """
        if not self.has_fixed_shapes:
            self.tensors(torch.empty(0))
        self.__dict__["compiled"] = torch.compile(self.tensors, dynamic=False, **options)

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
        scores = class_scores(raw.class_logits, self.class_activation, raw.background)
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
