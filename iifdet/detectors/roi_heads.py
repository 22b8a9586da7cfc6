"""torchvision's RoI heads step by step, told what to do instead of asking their mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss

from iifdet.detectors.cosine import CosineLinear

Features = dict[str, Tensor]
Sizes = list[tuple[int, int]]
#: Up to which torchvision's box loss is squared.
BETA = 1 / 9


@dataclass(frozen=True)
class Said:
    """What the second stage says of R proposals.

    Attributes:
        logits: (R, 1 + C), background first.
        offsets: (R, 4·(1 + C)) of boxes, or (R, 4) where these are one for all classes.
        seen: (R, D) the features that both come from.
    """

    logits: Tensor
    offsets: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Sample:
    """Proposals that are trained on, R in all.

    Attributes:
        proposals: (R_i, 4) xyxy of each image, in network pixels.
        matched: (R_i,) rows of each image's ground truth.
        labels: (R,), -1 for background.
        wanted: (R, 4) offsets of the ground truth.
    """

    proposals: list[Tensor]
    matched: list[Tensor]
    labels: Tensor
    wanted: Tensor


class PhasedRoIHeads(RoIHeads):
    """RoIHeads whose caller says what it wants: :meth:`sample` to train, :meth:`predict`, and :meth:`masks` to infer.

    Sampling, box head, box loss and mask branch are torchvision's own. Labels that come in, with targets and to
    :meth:`masks`, are torchvision's: 0 is background.
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

    def predict(self, features: Features, proposals: list[Tensor], sizes: Sizes) -> Said:
        """Of all proposals of the batch."""
        seen = self.box_head(self.box_roi_pool(features, proposals, sizes))
        logits, offsets = self.box_predictor(seen)
        return Said(logits, offsets, seen)

    def sample(self, proposals: list[Tensor], targets: Sequence[dict[str, Any]]) -> Sample:
        """Draw the proposals that are trained on; ground truth is among them."""
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        return Sample(proposals, matched, torch.cat(labels) - 1, torch.cat(wanted))

    def mask_loss(self, features: Features, sample: Sample, sizes: Sizes, targets: Sequence[dict[str, Any]]) -> Tensor:
        """A scalar, of the masks of proposals that stand for an object."""
        positive = (sample.labels >= 0).split([len(p) for p in sample.proposals])
        boxes = [p[keep] for p, keep in zip(sample.proposals, positive, strict=True)]
        rows = [m[keep] for m, keep in zip(sample.matched, positive, strict=True)]
        logits = self._mask_logits(features, boxes, sizes)
        return maskrcnn_loss(logits, boxes, [t["masks"] for t in targets], [t["labels"] for t in targets], rows)

    def class_tensors(self) -> dict[str, Tensor]:
        """Views of what has a part for each class, background excluded, beside the class rows; by name."""
        predictor, found = self.box_predictor, {}
        if isinstance(predictor.cls_score, CosineLinear):
            found["box_predictor.cls_score.class_scale"] = predictor.cls_score.class_scale[1:]
        columns = predictor.cls_score.out_features
        if predictor.bbox_pred.out_features == 4 * columns:  # else one box for all
            found["box_predictor.bbox_pred.weight"] = predictor.bbox_pred.weight.view(columns, 4, -1)[1:]
            found["box_predictor.bbox_pred.bias"] = predictor.bbox_pred.bias.view(columns, 4)[1:]
        if self.has_mask():
            layer = self.mask_predictor.mask_fcn_logits
            found["mask_predictor.mask_fcn_logits.weight"] = layer.weight[1:]
            found["mask_predictor.mask_fcn_logits.bias"] = layer.bias[1:]
        return found

    def masks(self, features: Features, boxes: list[Tensor], labels: list[Tensor], sizes: Sizes) -> list[Tensor]:
        """(N, 1, 28, 28) probabilities in each of an image's boxes, of the class that ``labels`` names."""
        return list(maskrcnn_inference(self._mask_logits(features, boxes, sizes), labels))

    def _mask_logits(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes, sizes)
        return self.mask_predictor(self.mask_head(pooled))


def box_loss(offsets: Tensor, sample: Sample, beta: float = BETA) -> Tensor:
    """The half of torchvision's ``fastrcnn_loss`` that is about boxes, a scalar, of (R, 4·(1 + C)) offsets, or (R, 4)
    for all classes; squared up to ``beta``.
    """
    rows = (sample.labels >= 0).nonzero().flatten()
    columns = sample.labels[rows] + 1 if offsets.shape[1] > 4 else torch.zeros_like(rows)
    chosen = offsets.view(len(offsets), -1, 4)[rows, columns]
    return F.smooth_l1_loss(chosen, sample.wanted[rows], beta=beta, reduction="sum") / sample.labels.numel()


def mean_loss(losses: Tensor) -> Tensor:
    """Mean of (R,) losses, added up in the order of ``F.cross_entropy``: so the identity is torchvision to the bit."""
    return F.nll_loss(-losses[:, None], torch.zeros_like(losses, dtype=torch.int64))
