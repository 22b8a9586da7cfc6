"""An exported file as a model: it detects or classifies as the one it was made of, and can do nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from iifdet.detectors import Detector
from iifdet.detectors.batching import image_size
from iifdet.detectors.postprocess import select
from iifdet.errors import InputError
from iifdet.exporting.card import Card
from iifdet.longtail import AdjustedModel, ClassifierRows, class_scores
from iifdet.types import Detection, Target

#: Images to what the graph gives, on the CPU.
Run = Callable[[Tensor], Sequence[Tensor]]


class Exported(AdjustedModel):
    """What the models of exported files share: they are as the card says, and have no rows that could be looked at."""

    card: Card

    def become(self, card: Card, run: Run) -> None:
        """Take over what the file says about itself, and what it runs on."""
        self.card, self.names, self.counts = card, card.names, card.counts
        self.class_activation = card.class_activation
        self.recipe = card.habits()
        self.adjust.mark_folded()
        self._run = _Shared(run)
        self.eval()

    @property
    def told_weights(self) -> Tensor:
        return torch.tensor(self.card.adjustment["scale"], dtype=torch.float64)

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        """None that could be looked at."""
        return iter(())

    def check(self, config: Any) -> None:
        """Refuse keys that the file has settled otherwise.

        Raises:
            InputError: another image size, or another choice of detections.
        """
        raise NotImplementedError


class ExportedDetector(Exported, Detector):
    """The graph of an exported file under the detector's contract, as far as it goes: ``forward`` in eval mode.

    Images are (B, 3, H, W) of the exported size, which a graph of one image sees one after the other. ``raw`` is not in
    the file, and the adjustment is in its rows, so neither explanations nor other adjustments are to be had.

    Args:
        card: what the file says about itself.
        run: images to boxes and scores, or with NMS inside to boxes, scores and labels, and masks where there are some.
    """

    def __init__(self, card: Card, run: Run) -> None:
        super().__init__(len(card.names), postprocess=card.options)
        self.wants_masks = card.masks
        self.become(card, run)

    def forward(self, images: Any, targets: Sequence[Target] | None = None) -> list[Detection]:
        size = self.card.preprocessing.size
        if not isinstance(images, Tensor) or images.ndim != 4 or image_size(images) != size:
            got = tuple(images.shape) if isinstance(images, Tensor) else "a list"
            raise InputError(f"imgsz: expected (B, 3, {size[0]}, {size[1]}), the size of the export, got {got}")
        found: list[Detection] = []
        batch = images.detach().float().cpu()
        step = self.card.batch or max(len(batch), 1)
        for start in range(0, len(batch), step):
            given = [value.to(images.device) for value in self._run(batch[start : start + step])]
            if self.card.nms:
                found += [self._chosen(size, *values) for values in zip(*given, strict=True)]
            else:
                found += [select(b, s, size, self.options, self.card.levels)[0] for b, s in zip(*given, strict=True)]
        return found

    def _chosen(
        self, size: tuple[int, int], boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> Detection:
        rows = (scores > self.options.conf).nonzero().flatten()[: self.options.max_det]
        found = Detection(boxes=boxes[rows], labels=labels[rows], scores=scores[rows])
        if masks is None:
            return found
        return Detection(**found, masks=paste_masks_in_image(masks[rows, None], found["boxes"], size)[:, 0])

    def check(self, config: Any) -> None:
        """Also, with NMS inside, a choice of detections that it has not made."""
        size, own, options = self.card.preprocessing.size, self.card.options, self.options
        if (config.imgsz, config.imgsz) != size or config.rect:
            got = "rect=true" if config.rect else config.imgsz
            raise InputError(f"imgsz: expected {size[0]}, the size of the export, got {got}; export anew for another")
        if not self.card.nms:
            return
        for key in ("iou", "nms", "multi_label"):
            if getattr(options, key) != getattr(own, key):
                raise InputError(
                    f"{key}: expected {getattr(own, key)}, as NMS inside the file has it, got {getattr(options, key)}; "
                    "export with nms_inside=false to choose"
                )
        if options.conf < own.conf or options.max_det > own.max_det:
            raise InputError(
                f"conf, max_det: expected at least {own.conf} and at most {own.max_det}, as NMS inside the file has "
                f"them, got {options.conf} and {options.max_det}; export anew with those"
            )


class ExportedClassifier(Exported):
    """The graph of an exported classifier under its contract, as far as it goes: ``forward`` in eval mode, and scores.

    Args:
        card: what the file says about itself.
        run: images to scores and logits.
    """

    def __init__(self, card: Card, run: Run) -> None:
        super().__init__(len(card.names))
        self.become(card, run)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) of the exported size -> (B, C) logits."""
        if not isinstance(images, Tensor) or images.ndim != 4:
            got = tuple(images.shape) if isinstance(images, Tensor) else "a list"
            raise InputError(f"imgsz: expected (B, 3, H, W) of the size of the export, got {got}")
        self._check_size(image_size(images))
        _, logits = self._run(images.detach().float().cpu())
        return logits.to(images.device)

    def scores(self, logits: Tensor) -> Tensor:
        """(B, C) probabilities in [0, 1] of logits."""
        return class_scores(logits, self.class_activation)

    def check(self, config: Any) -> None:
        self._check_size((config.imgsz, config.imgsz))

    def _check_size(self, size: tuple[int, int]) -> None:
        if size != self.card.preprocessing.size:
            raise InputError(
                f"imgsz: expected {self.card.preprocessing.size[0]}, the size of the export, got {size[0]}; export "
                "anew for another"
            )


class _Shared:
    """A session, which copies of the detector share."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        return self.run(images)

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self
