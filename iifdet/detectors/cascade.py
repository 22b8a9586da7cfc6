"""Cascade R-CNN (Cai and Vasconcelos, CVPR 2018): second stages in a row, each on the boxes of the one before.

Numbers are those of MMDetection, with which the IIF paper trains its cascades.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image

from iifdet.detectors.batching import Images
from iifdet.detectors.cosine import CosineConv, CosineLinear
from iifdet.detectors.rcnn import FasterRCNN, MaskRCNN, Scene
from iifdet.detectors.roi_heads import Features, PhasedRoIHeads, Sample, Sizes
from iifdet.longtail import widened
from iifdet.types import Target

#: Of each stage: the overlap from which a proposal is an object, the weights of its box coder, what its losses count.
OVERLAPS = (0.5, 0.6, 0.7)
CODES = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
SHARES = (1.0, 0.5, 0.25)


class CascadeHeads(nn.Module):
    """The stages in place of one network's RoI heads.

    Args:
        stages: each with a box head, and where there are masks a mask head, of its own; boxes are one for all classes.
    """

    def __init__(self, stages: Sequence[PhasedRoIHeads]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @classmethod
    def over(cls, heads: RoIHeads) -> CascadeHeads:
        """Stages like these heads, which are the first one's, with weights of their own."""
        first = PhasedRoIHeads.over(heads)
        later = [(redrawn(first), *settings) for settings in zip(OVERLAPS[1:], CODES[1:], strict=True)]
        return cls([for_all_classes(*each) for each in ((first, OVERLAPS[0], CODES[0]), *later)])

    def masks(self, features: Features, boxes: list[Tensor], labels: list[Tensor], sizes: Sizes) -> list[Tensor]:
        """(N, 1, 28, 28) probabilities in each of an image's boxes: the mean over the stages."""
        stages: Any = self.stages
        each = zip(*(stage.masks(features, boxes, labels, sizes) for stage in stages), strict=True)
        return [torch.stack(of_image).mean(dim=0) for of_image in each]


def redrawn(heads: PhasedRoIHeads) -> PhasedRoIHeads:
    """A copy with other random weights, drawn as torchvision draws them."""
    twin = copy.deepcopy(heads)
    module: Any
    for module in twin.modules():
        if isinstance(module, nn.Linear | CosineLinear | CosineConv):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return twin


def for_all_classes(heads: PhasedRoIHeads, overlap: float, codes: tuple[float, ...]) -> PhasedRoIHeads:
    """The heads with one box for all classes, and a stage's matcher and coder."""
    predictor = heads.box_predictor
    predictor.bbox_pred = nn.Linear(predictor.bbox_pred.in_features, 4)
    heads.proposal_matcher.high_threshold = heads.proposal_matcher.low_threshold = overlap
    heads.box_coder.weights = codes
    return heads


class CascadeRCNN(FasterRCNN):
    """Three second stages, each trained on the boxes of the one before at a higher overlap.

    Class logits are the mean of the stages', which the adjustment acts on; boxes are the last stage's, one for all
    classes. Losses that count gradients (``eqlv2``, ``efl``) count those of all stages together.
    """

    def make_heads(self, heads: RoIHeads) -> nn.Module:
        return CascadeHeads.over(heads)

    @property
    def stages(self) -> list[Any]:
        """The second stages, in order."""
        return list(self.net.roi_heads.stages)

    def second_stages(self) -> dict[str, Any]:
        return {f"net.roi_heads.stages.{number}": stage for number, stage in enumerate(self.stages)}

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``cls``, ``box`` and with masks ``mask``, weighed sums over the stages, and ``rpn_cls``, ``rpn_box``."""
        self.adjust.acts_in("train")  # a folded model refuses before anything is computed
        scene = self._encode(images, targets)
        assert scene.targets is not None
        named, proposals = self._proposal_losses(scene), scene.proposals
        for stage, share in zip(self.stages, SHARES, strict=True):
            # 1. sample
            sample = stage.sample(proposals, scene.targets)
            # 2. predict
            said = stage.predict(scene.features, sample.proposals, scene.sizes)
            # 3. supervise
            parts = self._stage_losses(stage, scene, sample, said, beta=1.0)
            named = {**named, **{key: named.get(key, 0.0) + share * value for key, value in parts.items()}}
            if stage is not self.stages[-1]:
                proposals = without_truth(refined(stage, said.offsets, sample.proposals, scene.sizes), sample, scene)
        return named

    def _second_stage(self, scene: Scene) -> tuple[Tensor, Tensor]:
        boxes, logits = scene.proposals, []
        for number, stage in enumerate(self.stages, start=1):
            said = stage.predict(scene.features, boxes, scene.sizes)
            logits.append(widened(said.logits))
            boxes = refined(stage, said.offsets, boxes, scene.sizes, inside=number < len(self.stages))
        return torch.cat(boxes).unsqueeze(1).expand(-1, self.num_classes, -1), torch.stack(logits).mean(dim=0)


class CascadeMaskRCNN(CascadeRCNN, MaskRCNN):
    """Cascade R-CNN with a mask for each detection it keeps: the mean of the stages'."""


@torch.no_grad()
def refined(
    stage: PhasedRoIHeads, offsets: Tensor, proposals: list[Tensor], sizes: Sizes, inside: bool = True
) -> list[Tensor]:
    """(N, 4) boxes of each image that (R, 4) offsets make of its proposals, clipped to the image where ``inside``."""
    whole = stage.box_coder.decode(widened(offsets), proposals).reshape(-1, 4)
    # of one image alone there is nothing to split: a traced graph would keep its number of proposals
    boxes = [whole] if len(proposals) == 1 else list(whole.split([len(p) for p in proposals]))
    if not inside:
        return boxes
    return [clip_boxes_to_image(b, size) for b, size in zip(boxes, sizes, strict=True)]


def without_truth(boxes: list[Tensor], sample: Sample, scene: Scene) -> list[Tensor]:
    """Refined boxes but for those of the ground truth that was among the sample: each stage adds it anew."""
    assert scene.targets is not None
    kept = []
    for refined_boxes, proposals, target in zip(boxes, sample.proposals, scene.targets, strict=True):
        is_truth = (proposals[:, None] == target["boxes"][None].to(proposals)).all(dim=-1).any(dim=-1)
        kept.append(refined_boxes[~is_truth])
    return kept
