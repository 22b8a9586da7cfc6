"""torchvision's RoI heads with the classification loss handed in, and told what to do instead of asking its mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss

Features = dict[str, Tensor]
Sizes = list[tuple[int, int]]
#: (R, C) class logits, (R,) labels with -1 for background, (R,) background logits -> (R,) losses
ClassLosses = Callable[[Tensor, Tensor, Tensor], Tensor]


class PhasedRoIHeads(RoIHeads):
    """RoIHeads whose caller says what it wants: :meth:`losses` to train, :meth:`predict` and :meth:`masks` to infer.

    Sampling, box head, box loss and mask branch are torchvision's own. Labels here are torchvision's: 0 is background.
    """

    @classmethod
    def over(cls, heads: RoIHeads) -> PhasedRoIHeads:
        """The same parts, in the same order, under the same names."""
        return cls(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            heads.proposal_matcher.high_threshold,
            heads.proposal_matcher.low_threshold,
            heads.fg_bg_sampler.batch_size_per_image,
            heads.fg_bg_sampler.positive_fraction,
            heads.box_coder.weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
            heads.mask_roi_pool,
            heads.mask_head,
            heads.mask_predictor,
        )

    def predict(self, features: Features, proposals: list[Tensor], sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Logits (R, 1 + C), background first, and box offsets (R, 4·(1 + C)) of all proposals of the batch."""
        pooled = self.box_roi_pool(features, proposals, sizes)
        logits, offsets = self.box_predictor(self.box_head(pooled))
        return logits, offsets

    def losses(
        self,
        features: Features,
        proposals: list[Tensor],
        sizes: Sizes,
        targets: Sequence[dict[str, Any]],
        class_losses: ClassLosses,
    ) -> dict[str, Tensor]:
        """``cls``, ``box`` and, with a mask branch, ``mask``.

        ``cls`` is the mean over the sampled proposals; the one-vs-rest losses are sums over classes before it.
        """
        # 1. sample
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        # 2. predict
        logits, offsets = self.predict(features, proposals, sizes)
        # 3. supervise
        joined = torch.cat(labels)
        cls = _mean(class_losses(logits[:, 1:], joined - 1, logits[:, 0]))
        named = {"cls": cls, "box": _box_loss(offsets, joined, torch.cat(wanted))}
        if self.has_mask():
            named["mask"] = self._mask_loss(features, proposals, sizes, targets, matched, labels)
        return named

    def _mask_loss(
        self,
        features: Features,
        proposals: list[Tensor],
        sizes: Sizes,
        targets: Sequence[dict[str, Any]],
        matched: list[Tensor],
        labels: list[Tensor],
    ) -> Tensor:
        positive = [label > 0 for label in labels]
        boxes = [p[keep] for p, keep in zip(proposals, positive, strict=True)]
        rows = [m[keep] for m, keep in zip(matched, positive, strict=True)]
        logits = self._mask_logits(features, boxes, sizes)
        return maskrcnn_loss(logits, boxes, [t["masks"] for t in targets], [t["labels"] for t in targets], rows)

    def masks(self, features: Features, boxes: list[Tensor], labels: list[Tensor], sizes: Sizes) -> list[Tensor]:
        """(N, 1, 28, 28) probabilities in each of an image's boxes, of the class that ``labels`` names."""
        return list(maskrcnn_inference(self._mask_logits(features, boxes, sizes), labels))

    def _mask_logits(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes, sizes)
        return self.mask_predictor(self.mask_head(pooled))


def _box_loss(offsets: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """The half of torchvision's ``fastrcnn_loss`` that is about boxes: (R, 4·(1 + C)) offsets, (R, 4) wanted ones."""
    rows = (labels > 0).nonzero().flatten()
    chosen = offsets.view(len(labels), -1, 4)[rows, labels[rows]]
    return F.smooth_l1_loss(chosen, wanted[rows], beta=1 / 9, reduction="sum") / labels.numel()


def _mean(losses: Tensor) -> Tensor:
    """Mean of (R,) losses, added up in the order of ``F.cross_entropy``: so the identity is torchvision to the bit."""
    return F.nll_loss(-losses[:, None], torch.zeros_like(losses, dtype=torch.int64))
