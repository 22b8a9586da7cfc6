"""RetinaNet (Lin et al., ICCV 2017): torchvision's network under the detector contract, each class for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_iou

from iifdet.detectors.backbones import build_backbone, check_backbone, freeze_stages
from iifdet.detectors.base import Detector
from iifdet.detectors.batching import Images, image_size, pad, stretch
from iifdet.detectors.layout import Grid, Layout
from iifdet.detectors.options import check_sizes
from iifdet.detectors.postprocess import PostprocessOptions
from iifdet.detectors.rcnn import resized, told, with_float_maps
from iifdet.detectors.targets import check_targets, on_device
from iifdet.longtail import ACTIVATIONS, ClassifierRows, ClassLossChoice, read_choice, widened
from iifdet.types import NetworkBoxes, RawPredictions, Target

#: torchvision's defaults; the best 1000 of each of five levels enter NMS.
OPTIONS = PostprocessOptions(conf=0.05, iou=0.5, max_det=300, max_candidates=8192, level_candidates=1000)
#: Of the five levels, on every backbone.
STRIDES = (8, 16, 32, 64, 128)


class RetinaNet(Detector):
    """A one-stage detector around torchvision's ``RetinaNet``. A box of no class is one whose scores are all low.

    torchvision keeps boxes that clipping leaves without area; here they are dropped. Everything else is the same.

    Args:
        num_classes: C.
        net: torchvision's model for C classes (it has no column for background).
        class_loss: ``focal`` (alpha 0.25, gamma 2) or another that decides each class for itself, summed and divided by
            the positives of each image.
    """

    sees_background = True
    size_key = "model_args.min_size=[480, 640, 800]"

    def __init__(self, num_classes: int, net: tv.RetinaNet, *, class_loss: ClassLossChoice = "focal") -> None:
        super().__init__(num_classes, class_loss=class_loss, postprocess=OPTIONS)
        columns = net.head.classification_head.num_classes
        if columns != num_classes:
            raise ValueError(f"net: expected {num_classes} columns, got {columns}")
        net.anchor_generator.register_forward_pre_hook(with_float_maps)
        self.net = net

    def set_class_loss(self, choice: ClassLossChoice) -> None:
        name, _ = read_choice(choice)
        if ACTIVATIONS.get(name, "sigmoid") == "softmax":
            others = ", ".join(loss for loss, activation in ACTIVATIONS.items() if activation != "softmax")
            raise ValueError(f"class_loss: RetinaNet has no background to set '{name}' against; use one of {others}")
        super().set_class_loss(choice)

    def raw(self, images: Images) -> list[RawPredictions]:
        """N anchors an image, fine level first: boxes (N, 4), class logits (N, C)."""
        own = [(int(im.shape[-2]), int(im.shape[-1])) for im in images]
        batch, _, outputs, anchors, levels = self._predict(images, None)
        found = []
        for i, (size, image) in enumerate(zip(batch.image_sizes, own, strict=True)):
            boxes = self.net.box_coder.decode_single(widened(outputs["bbox_regression"][i]), anchors[i])
            scaled, network = resize_boxes(boxes, size, image), NetworkBoxes(boxes, size)
            found.append(RawPredictions(scaled, outputs["cls_logits"][i], image, levels=levels, network=network))
        return found

    def dense(self, images: Tensor) -> RawPredictions:
        own, (_, content) = image_size(images), resized(self.net.transform, image_size(images), images)
        batch = pad(stretch(self.net.transform.normalize(images), content), self.net.transform.size_divisible, 0.0)
        outputs, anchors, levels = self._network(batch, [content])
        logits, offsets = outputs["cls_logits"], widened(outputs["bbox_regression"])  # (B, N, C), (B, N, 4)
        flat = self.net.box_coder.decode_single(offsets.flatten(0, 1), anchors[0].expand_as(offsets).flatten(0, 1))
        boxes = resize_boxes(flat, content, own).view_as(offsets)
        return RawPredictions(boxes, logits, own, levels=levels)

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``cls`` and ``box``, each divided by an image's positives and averaged over images."""
        self.adjust.acts_in("train")  # a folded model refuses before anything is computed
        _, inner, outputs, anchors, _ = self._predict(images, targets)
        # 1. match: rows of the target, -1 for background, -2 for anchors that are neither
        matched = [self._match(t["boxes"], a) for t, a in zip(inner, anchors, strict=True)]
        # 2. supervise
        box = self.net.head.regression_head.compute_loss(inner, outputs, anchors, matched)
        cls = self._class_loss(outputs["cls_logits"], [t["labels"] for t in inner], torch.stack(matched))
        return {"cls": cls, "box": box}

    def _predict(self, images: Images, targets: Sequence[Target] | None) -> tuple[Any, Any, Any, Any, tuple[int, ...]]:
        inner: Any = None
        if targets is not None:
            check_targets(targets, [(int(im.shape[-2]), int(im.shape[-1])) for im in images], self.num_classes)
            inner = [on_device({**t, "boxes": t["boxes"].float()}, images[0].device) for t in targets]
        with told(targets is not None, self.net.transform):
            batch, inner = self.net.transform(list(images), inner)
        return batch, inner, *self._network(batch.tensors, batch.image_sizes)

    def _network(self, batch: Tensor, sizes: list[tuple[int, int]]) -> tuple[Any, list[Tensor], tuple[int, ...]]:
        """The head's outputs for (B, 3, H, W), anchors for each of ``sizes``, and how many of them a level has."""
        features = list(self.net.backbone(batch).values())
        per_cell = self.net.head.classification_head.num_anchors
        levels = tuple(int(f.shape[-2] * f.shape[-1]) * per_cell for f in features)
        return self.net.head(features), self.net.anchor_generator(ImageList(batch, sizes), features), levels

    def _match(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        return self.net.proposal_matcher(box_iou(boxes, anchors))

    def _class_loss(self, logits: Tensor, labels: Sequence[Tensor], matched: Tensor) -> Tensor:
        """The mean over images of (B, N, C) logits; ``matched`` (B, N)."""
        counted, positive = matched != self.net.proposal_matcher.BETWEEN_THRESHOLDS, matched >= 0
        wanted = torch.full_like(matched, -1)
        for image, own in enumerate(labels):
            wanted[image, positive[image]] = own[matched[image, positive[image]]]
        losses = self.class_losses(logits[counted], wanted[counted])  # at once: some losses see a batch as a whole
        sums = torch.stack([part.sum() for part in losses.split(counted.sum(dim=1).tolist())])
        return (sums / positive.sum(dim=1).clamp(min=1)).mean()

    def classifier_layers(self) -> list[nn.Module]:
        return [self.net.head.classification_head.cls_logits]

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        head = self.net.head.classification_head
        weight = head.cls_logits.weight.view(head.num_anchors, self.num_classes, *head.cls_logits.weight.shape[1:])
        bias = head.cls_logits.bias.view(head.num_anchors, self.num_classes)
        for a in range(head.num_anchors):
            yield ClassifierRows(weight[a], bias[a])

    def cam_layers(self) -> dict[str, nn.Module]:
        backbone = self.net.backbone
        levels = {f"fpn{k}": block for k, block in enumerate(backbone.fpn.layer_blocks, start=3)}
        return {"backbone": list(backbone.body.children())[-1], **levels}

    def layout(self, size: tuple[int, int]) -> Layout:
        (height, width), content = resized(self.net.transform, size, next(self.parameters()))
        per_cell = self.net.head.classification_head.num_anchors
        shapes = [(-(-height // s), -(-width // s)) for s in STRIDES]
        # torchvision spreads the anchors of the small levels evenly over the input, whatever the stride.
        levels = [Grid(h, w, per_cell, (height // h, width // w)) for h, w in shapes]
        return Layout((height, width), content, tuple(levels))


def retinanet(
    num_classes: int,
    *,
    backbone: str = "resnet50_fpn",
    trainable_backbone_layers: int | None = None,
    frozen_bn: bool = False,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    class_loss: ClassLossChoice = "focal",
) -> RetinaNet:
    """RetinaNet on levels of stride 8 to 128, random weights; arguments as :func:`iifdet.detectors.rcnn.fasterrcnn`."""
    plan = check_backbone(backbone, trainable_backbone_layers, frozen_bn)
    check_sizes(min_size, max_size)
    options: dict[str, Any] = {k: v for k, v in (plan.rcnn or {}).items() if not k.startswith("rpn")}
    options |= {k: v for k, v in (("min_size", min_size), ("max_size", max_size)) if v is not None}
    if backbone.endswith("_v2"):
        net = tv.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=num_classes, **options)
        freeze_stages(net.backbone, plan.stages if trainable_backbone_layers is None else trainable_backbone_layers)
    else:
        pyramid = build_backbone(backbone, trainable=trainable_backbone_layers, frozen_bn=frozen_bn, retina=True)
        net = tv.RetinaNet(pyramid, num_classes, **options)
    return RetinaNet(num_classes, net, class_loss=class_loss)
