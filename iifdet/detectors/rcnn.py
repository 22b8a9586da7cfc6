"""Faster and Mask R-CNN (Ren et al., 2015; He et al., 2017): torchvision's networks under the detector contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from iifdet.detectors.backbones import build_backbone, check_backbone, freeze_stages
from iifdet.detectors.base import Detector
from iifdet.detectors.batching import Images
from iifdet.detectors.layout import Layout
from iifdet.detectors.options import check_sizes, check_whole
from iifdet.detectors.postprocess import PostprocessOptions, in_own_pixels
from iifdet.detectors.roi_heads import PhasedRoIHeads
from iifdet.detectors.targets import check_targets, on_device
from iifdet.longtail import ClassifierRows, ClassLossChoice, widened
from iifdet.types import Detection, NetworkBoxes, RawPredictions, Target

#: torchvision's defaults. Its cap before NMS is none; 19 classes at most can pass 0.05 on each of 1000 proposals.
OPTIONS = PostprocessOptions(conf=0.05, iou=0.5, max_det=100, max_candidates=20000, min_box=1e-2)


@dataclass(frozen=True)
class Scene:
    """A batch on its way through the network.

    Attributes:
        features: (B, 256, h, w) by level.
        proposals: (R, 4) xyxy for each image, in network pixels.
        sizes: (height, width) of each image inside the network's padded batch.
        own: (height, width) of each image as it was given.
        losses: the RPN's, when there were targets.
        targets: in network pixels, labels counted from 1; None without.
    """

    features: dict[str, Tensor]
    proposals: list[Tensor]
    sizes: list[tuple[int, int]]
    own: list[tuple[int, int]]
    losses: dict[str, Tensor]
    targets: list[dict[str, Any]] | None


class FasterRCNN(Detector):
    """A two-stage detector around any torchvision ``FasterRCNN``. Proposals are those of inference, save in losses.

    The adjustment acts on the class scores of the second stage; proposals and boxes do not depend on it.

    Args:
        num_classes: C, background excluded.
        net: torchvision's model for C + 1 classes; its RoI heads are put under :class:`PhasedRoIHeads`.
        class_loss: name in CLASS_LOSSES; with softmax scores background is a class, with other scores none.
    """

    has_background = sees_background = True
    size_key = "model_args.min_size=[480, 640, 800]"

    def __init__(self, num_classes: int, net: tv.FasterRCNN, *, class_loss: ClassLossChoice = "ce") -> None:
        super().__init__(num_classes, class_loss=class_loss, postprocess=OPTIONS)
        columns = net.roi_heads.box_predictor.cls_score.out_features
        if columns != num_classes + 1:
            raise ValueError(f"net: expected {num_classes + 1} columns, background among them, got {columns}")
        net.roi_heads = PhasedRoIHeads.over(net.roi_heads)
        net.rpn.head.register_forward_hook(in_float)
        net.rpn.anchor_generator.register_forward_pre_hook(with_float_maps)
        self.net = net
        self.init_class_biases()

    def raw(self, images: Images) -> list[RawPredictions]:
        """N proposals an image: boxes (N, C, 4), class logits (N, C), background (N,)."""
        return self._decode(self._encode(images))

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``cls``, ``box`` of the second stage, ``rpn_cls``, ``rpn_box`` of the first; with masks ``mask``."""
        self.adjust.acts_in("train")  # a folded model refuses before anything is computed
        scene = self._encode(images, targets)
        assert scene.targets is not None
        named = self.net.roi_heads.losses(
            scene.features, scene.proposals, scene.sizes, scene.targets, self.class_losses
        )
        return {
            **named,
            "rpn_cls": scene.losses["loss_objectness"],
            "rpn_box": scene.losses["loss_rpn_box_reg"],
        }

    def _encode(self, images: Images, targets: Sequence[Target] | None = None) -> Scene:
        own = [(int(im.shape[-2]), int(im.shape[-1])) for im in images]
        inner: Any = None
        if targets is not None:
            check_targets(targets, own, self.num_classes, masks=self.wants_masks)
            # torchvision counts background as class 0
            counted = [{**t, "boxes": t["boxes"].float(), "labels": t["labels"] + 1} for t in targets]
            inner = [on_device(t, images[0].device) for t in counted]
        with told(targets is not None, self.net.transform, self.net.rpn):
            batch, inner = self.net.transform(list(images), inner)
            features = self.net.backbone(batch.tensors)
            if isinstance(features, Tensor):
                features = {"0": features}
            proposals, losses = self.net.rpn(batch, features, inner)
        return Scene(features, proposals, batch.image_sizes, own, losses, inner)

    def _decode(self, scene: Scene) -> list[RawPredictions]:
        counts = [len(p) for p in scene.proposals]
        boxes, logits = self._second_stage(scene)
        parts = zip(boxes.split(counts), logits.split(counts), scene.sizes, scene.own, strict=True)
        return [_of_image(*part) for part in parts]

    def _second_stage(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """(R, C, 4) boxes in network pixels and (R, 1 + C) logits, background first, of all proposals of the batch."""
        heads = self.net.roi_heads
        logits, offsets = heads.predict(scene.features, scene.proposals, scene.sizes)
        return heads.box_coder.decode(widened(offsets), scene.proposals)[:, 1:], logits  # background has no box

    def single(self, image: Tensor) -> tuple[RawPredictions, Scene]:
        """:meth:`raw` of one image (1, 3, H, W), and what it comes from, without a loop: what an exporter can trace."""
        scene = self._encode(image)
        return _of_image(*self._second_stage(scene), scene.sizes[0], scene.own[0]), scene

    def classifier_layers(self) -> list[nn.Module]:
        return [self.net.roi_heads.box_predictor.cls_score]

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        layer = self.net.roi_heads.box_predictor.cls_score
        yield ClassifierRows(layer.weight[1:], layer.bias[1:], (layer.weight[0], layer.bias[0]))

    def class_tensors(self) -> dict[str, Tensor]:
        prefix, columns = "net.roi_heads.box_predictor.bbox_pred", self.num_classes + 1
        layer = self.net.roi_heads.box_predictor.bbox_pred
        return {
            f"{prefix}.weight": layer.weight.view(columns, 4, -1)[1:],
            f"{prefix}.bias": layer.bias.view(columns, 4)[1:],
        }

    def cam_layers(self) -> dict[str, nn.Module]:
        """What every proposal sees: the last map of the backbone, and the same inside the pyramid.

        A finer level is seen only by proposals of its size.
        """
        backbone = self.net.backbone
        return {"backbone": list(backbone.body.children())[-1], "fpn": backbone.fpn.inner_blocks[-1]}

    def layout(self, size: tuple[int, int]) -> Layout:
        return Layout(*resized(self.net.transform, size, next(self.parameters())))


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for each detection it keeps."""

    wants_masks = True

    def forward(self, images: Images, targets: Sequence[Target] | None = None) -> Any:
        if self.training:
            return super().forward(images, targets)
        scene = self._encode(images)
        raw = self.adjusted(self._decode(scene))
        chosen = [found for found, _ in self.choose(raw)]
        labels = [found["labels"] + 1 for found in chosen]
        # (N, 1, 28, 28) each, pasted where the boxes stand in the image as it was given
        small = self.net.roi_heads.masks(scene.features, [found["boxes"] for found in chosen], labels, scene.sizes)
        found = [in_own_pixels(detection, r) for detection, r in zip(chosen, raw, strict=True)]
        return [
            Detection(**d, masks=paste_masks_in_image(m.float(), d["boxes"], r.size)[:, 0])
            for d, m, r in zip(found, small, raw, strict=True)
        ]

    def class_tensors(self) -> dict[str, Tensor]:
        prefix, layer = (
            "net.roi_heads.mask_predictor.mask_fcn_logits",
            self.net.roi_heads.mask_predictor.mask_fcn_logits,
        )
        return {**super().class_tensors(), f"{prefix}.weight": layer.weight[1:], f"{prefix}.bias": layer.bias[1:]}


def _of_image(boxes: Tensor, logits: Tensor, size: tuple[int, int], own: tuple[int, int]) -> RawPredictions:
    """(N, C, 4) boxes in network pixels and (N, 1 + C) logits of one image as predictions in its own pixels."""
    scaled = resize_boxes(boxes.reshape(-1, 4), size, own).view_as(boxes)
    background, classes = logits[:, 0], logits[:, 1:]
    return RawPredictions(scaled, classes, own, background=background, network=NetworkBoxes(boxes, size))


def resized(transform: nn.Module, size: tuple[int, int], like: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the network's padded input for an image of this size, and of the image inside it."""
    with told(False, transform), torch.no_grad():
        batch, _ = transform([like.new_zeros(3, *size)])
    return (int(batch.tensors.shape[-2]), int(batch.tensors.shape[-1])), batch.image_sizes[0]


def in_float(head: nn.Module, inputs: Any, output: tuple[list[Tensor], list[Tensor]]) -> Any:
    """A hook: a head's maps in float32 at least.

    torchvision decodes boxes in the type of their offsets and brings ground truth to it; bfloat16 has 8 bits, so from
    256 px on it would round both to every second pixel, from 512 px on to every fourth.
    """
    return tuple([widened(level) for level in part] for part in output)


def with_float_maps(generator: nn.Module, inputs: tuple[Any, list[Tensor]]) -> Any:
    """A hook: anchors in float32 at least, in the type of the maps as torchvision makes them.

    A generator reads nothing of the maps but their type, device and size, which a corner of each has without a copy.
    """
    images, levels = inputs
    return images, [widened(level[:1, :1]) for level in levels]


@contextmanager
def told(training: bool, *modules: nn.Module) -> Iterator[None]:
    """Tell these modules, and not what is inside them, which phase this is: batch norm keeps the mode it has."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = training
    try:
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode


# -- factories ---------------------------------------------------------------------------------------------------------


def fasterrcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50_fpn",
    trainable_backbone_layers: int | None = None,
    frozen_bn: bool = False,
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
        min_size: the shorter side inside the network, or several of which training draws one an image; torchvision's
            800 (320 for the 320 backbone) by default.
        max_size: limit of the longer side, 1333 (640) by default.
        box_batch_size_per_image: proposals sampled for the second stage's loss.
        rpn_post_nms_top_n_test: proposals an image in inference, 1000 (150) by default.
    """
    return FasterRCNN(
        num_classes, _network(tv.FasterRCNN, tv.fasterrcnn_resnet50_fpn_v2, locals()), class_loss=class_loss
    )


def maskrcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50_fpn",
    trainable_backbone_layers: int | None = None,
    frozen_bn: bool = False,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    box_batch_size_per_image: int = 512,
    rpn_post_nms_top_n_test: int | None = None,
    class_loss: ClassLossChoice = "ce",
) -> MaskRCNN:
    """Mask R-CNN with a feature pyramid, random weights; arguments as :func:`fasterrcnn`."""
    return MaskRCNN(num_classes, _network(tv.MaskRCNN, tv.maskrcnn_resnet50_fpn_v2, locals()), class_loss=class_loss)


def _network(kind: Any, second: Any, keys: dict[str, Any]) -> Any:
    """torchvision's ``kind`` on the wanted backbone; ``second`` builds its v2."""
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
