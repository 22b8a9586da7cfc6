"""Faster and Mask R-CNN by keywords: torchvision's networks with a backbone, a head and sizes of choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator

from iifdet.detectors.backbones import build_backbone, check_backbone, freeze_stages
from iifdet.detectors.cascade import CascadeMaskRCNN, CascadeRCNN
from iifdet.detectors.cosine import CosineConv, CosineLinear, check_head
from iifdet.detectors.options import check_sizes, check_switches, check_whole
from iifdet.detectors.rcnn import FasterRCNN, MaskRCNN
from iifdet.longtail import ClassLossChoice


def fasterrcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50_fpn",
    trainable_backbone_layers: int | None = None,
    frozen_bn: bool = False,
    head: str = "linear",
    scale: float | None = None,
    cascade: bool = False,
    augment_features: bool = False,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    box_batch_size_per_image: int = 512,
    rpn_post_nms_top_n_test: int | None = None,
    class_loss: ClassLossChoice = "ce",
) -> FasterRCNN:
    """Faster R-CNN with a feature pyramid, random weights.

    Args:
        backbone: a name in BACKBONES; ``resnet50_fpn_v2`` also has torchvision's larger heads.
        trainable_backbone_layers: stages of the backbone that learn, from the deepest; None is all.
        frozen_bn: batch norm of the backbone as fixed numbers. torchvision has it so for pretrained backbones
            (with 3 trainable stages) and trains it otherwise; with small batches give true to pretrained ones.
        head: ``linear``, or ``cosine`` for class logits that are cosines (:class:`CosineLinear`).
        scale: what a cosine of 1 comes to; 20 by default.
        cascade: three second stages in a row, with one box for all classes (:class:`CascadeRCNN`).
        augment_features: draw features of rare classes in training (:class:`FeatureAugmentation`).
        min_size: the shorter side inside the network, or several of which training draws one an image; torchvision's
            800 (320 for the 320 backbone) by default.
        max_size: limit of the longer side, 1333 (640) by default.
        box_batch_size_per_image: proposals sampled for the second stage's loss.
        rpn_post_nms_top_n_test: proposals an image in inference, 1000 (150) by default.
    """
    net = _network(tv.FasterRCNN, tv.fasterrcnn_resnet50_fpn_v2, locals())
    if cascade:
        return CascadeRCNN(num_classes, net, class_loss=class_loss)
    return FasterRCNN(num_classes, net, class_loss=class_loss, augment_features=augment_features)


def maskrcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50_fpn",
    trainable_backbone_layers: int | None = None,
    frozen_bn: bool = False,
    head: str = "linear",
    scale: float | None = None,
    cascade: bool = False,
    augment_features: bool = False,
    normalized_mask: bool = False,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    box_batch_size_per_image: int = 512,
    rpn_post_nms_top_n_test: int | None = None,
    class_loss: ClassLossChoice = "ce",
) -> MaskRCNN:
    """Mask R-CNN with a feature pyramid, random weights; arguments as :func:`fasterrcnn`, and

    Args:
        normalized_mask: logits of masks are cosines, too (:class:`CosineConv`).
    """
    net = _network(tv.MaskRCNN, tv.maskrcnn_resnet50_fpn_v2, locals())
    if normalized_mask:
        predictor = net.roi_heads.mask_predictor
        predictor.mask_fcn_logits = CosineConv(predictor.mask_fcn_logits.in_channels, num_classes + 1)
    if cascade:
        return CascadeMaskRCNN(num_classes, net, class_loss=class_loss)
    return MaskRCNN(num_classes, net, class_loss=class_loss, augment_features=augment_features)


def _network(kind: Any, second: Any, keys: dict[str, Any]) -> Any:
    """torchvision's ``kind`` on the wanted backbone, with the wanted head; ``second`` builds its v2."""
    check_head(keys["head"], keys["scale"])
    check_switches({name: keys[name] for name in ("cascade", "augment_features", "normalized_mask") if name in keys})
    if keys["cascade"] and keys["augment_features"]:
        raise ValueError(
            "augment_features: expected false beside cascade=true, whose stages see other features; drop one"
        )
    net = _plain_network(kind, second, keys)
    if keys["head"] == "cosine":
        predictor, scale = net.roi_heads.box_predictor, {} if keys["scale"] is None else {"scale": keys["scale"]}
        predictor.cls_score = CosineLinear(predictor.cls_score.in_features, keys["num_classes"] + 1, **scale)
    return net


def _plain_network(kind: Any, second: Any, keys: dict[str, Any]) -> Any:
    """torchvision's own."""
    name, trainable, columns = keys["backbone"], keys["trainable_backbone_layers"], keys["num_classes"] + 1
    plan = check_backbone(name, trainable, keys["frozen_bn"])
    check_sizes(keys["min_size"], keys["max_size"])
    check_whole("box_batch_size_per_image", keys["box_batch_size_per_image"])
    check_whole("rpn_post_nms_top_n_test", keys["rpn_post_nms_top_n_test"])
    passed = ("min_size", "max_size", "box_batch_size_per_image", "rpn_post_nms_top_n_test")
    options = {**(plan.rcnn or {}), **{k: keys[k] for k in passed if keys[k] is not None}}
    if name.endswith("_v2"):
        net = second(weights=None, weights_backbone=None, num_classes=columns, **options)
        freeze_stages(net.backbone, plan.stages if trainable is None else trainable)
        return net
    if plan.family == "mobilenet":
        options["rpn_anchor_generator"] = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return kind(build_backbone(name, trainable=trainable, frozen_bn=keys["frozen_bn"]), columns, **options)
