"""Faster and Mask R-CNN (Ren et al., 2015; He et al., 2017): torchvision's networks under the detector contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from iifdet.detectors.augmentation import FeatureAugmentation
from iifdet.detectors.base import Detector
from iifdet.detectors.batching import Images
from iifdet.detectors.cosine import CosineLinear
from iifdet.detectors.layout import Layout
from iifdet.detectors.postprocess import PostprocessOptions, in_own_pixels
from iifdet.detectors.roi_heads import BETA, PhasedRoIHeads, Said, Sample, box_loss, mean_loss
from iifdet.detectors.targets import check_targets, on_device
from iifdet.longtail import REFUSE_MIXED, ClassCounts, ClassifierRows, ClassLossChoice, widened
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
        augment_features: also train class rows on features that are drawn (:class:`FeatureAugmentation`), from the
            second epoch on.
    """

    has_background = sees_background = True
    size_key = "model_args.min_size=[480, 640, 800]"
    alignment_spread = 0.01  # features are sums of a thousand: a gate of 0.1 each would be open for all of them
    generating: Tensor

    def __init__(
        self,
        num_classes: int,
        net: tv.FasterRCNN,
        *,
        class_loss: ClassLossChoice = "ce",
        augment_features: bool = False,
    ) -> None:
        super().__init__(num_classes, class_loss=class_loss, postprocess=OPTIONS)
        columns = net.roi_heads.box_predictor.cls_score.out_features
        if columns != num_classes + 1:
            raise ValueError(f"net: expected {num_classes + 1} columns, background among them, got {columns}")
        net.roi_heads = self.make_heads(net.roi_heads)
        net.rpn.head.register_forward_hook(in_float)
        net.rpn.anchor_generator.register_forward_pre_hook(with_float_maps)
        self.net = net
        self.augmentation: FeatureAugmentation | None = None
        if augment_features:
            self._augment_features()
        self.init_class_biases()

    def make_heads(self, heads: RoIHeads) -> nn.Module:
        """What takes the place of the network's RoI heads."""
        return PhasedRoIHeads.over(heads)

    def _augment_features(self) -> None:
        if self.class_loss in REFUSE_MIXED:
            raise ValueError(
                f"class_loss: {self.class_loss} sees a batch as a whole, and augment_features adds to it what nobody "
                "has seen; use ce"
            )
        assert self.alignment_width is not None
        self.augmentation = FeatureAugmentation(self.alignment_width, self.num_classes)
        self.register_buffer("generating", torch.zeros(()))

    def set_class_statistic(self, counts: ClassCounts | None) -> None:
        """As for every model; counts also say how often features of a class are drawn."""
        super().set_class_statistic(counts)
        if counts is not None and self.augmentation is not None:
            self.augmentation.set_counts(counts)

    def raw(self, images: Images) -> list[RawPredictions]:
        """N proposals an image: boxes (N, C, 4), class logits (N, C), background (N,)."""
        return self._decode(self._encode(images))

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``cls``, ``box`` of the second stage, ``rpn_cls``, ``rpn_box`` of the first; with masks ``mask``."""
        self.adjust.acts_in("train")  # a folded model refuses before anything is computed
        scene = self._encode(images, targets)
        # 1. sample
        heads, sample = self.net.roi_heads, self._sample(scene)
        # 2. predict
        said = heads.predict(scene.features, sample.proposals, scene.sizes)
        # 3. supervise
        named = self._stage_losses(heads, scene, sample, said)
        if self.augmentation is not None:
            named["drawn"] = self._drawn_loss(self.augmentation, said, sample.labels)
        return {**named, **self._proposal_losses(scene)}

    def _stage_losses(
        self, heads: PhasedRoIHeads, scene: Scene, sample: Sample, said: Said, beta: float = BETA
    ) -> dict[str, Tensor]:
        """``cls``, ``box`` and with masks ``mask``; ``beta`` is of :func:`box_loss`."""
        named = {"cls": mean_loss(self._class_losses(said, sample.labels)), "box": box_loss(said.offsets, sample, beta)}
        if heads.has_mask():
            assert scene.targets is not None
            named["mask"] = heads.mask_loss(scene.features, sample, scene.sizes, scene.targets)
        return named

    def _proposal_losses(self, scene: Scene) -> dict[str, Tensor]:
        """Those of the first stage."""
        return {"rpn_cls": scene.losses["loss_objectness"], "rpn_box": scene.losses["loss_rpn_box_reg"]}

    def _sample(self, scene: Scene) -> Sample:
        assert scene.targets is not None
        return self.net.roi_heads.sample(scene.proposals, scene.targets)

    def _drawn_loss(self, augmentation: FeatureAugmentation, said: Said, labels: Tensor) -> Tensor:
        """Of features that nobody has seen, from the second epoch on (``generating``)."""
        if torch.is_grad_enabled():
            augmentation.observe(said.seen, labels)
        predictor = self.net.roi_heads.box_predictor
        return self.generating * augmentation.loss(
            lambda seen, classes: self._class_losses(Said(predictor.cls_score(seen), seen.new_empty(0), seen), classes)
        )

    @torch.no_grad()
    def losses_by_class(self, images: Images, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """(C,) class losses of proposals, summed for each class, and the number of all, of background too, a scalar.

        Nothing learns from them.
        """
        scene = self._encode(images, targets)
        sample = self._sample(scene)
        said = self.net.roi_heads.predict(scene.features, sample.proposals, scene.sizes)
        losses = self._class_losses(said, sample.labels)
        sums = losses.new_zeros(self.num_classes + 1).index_add(0, sample.labels + 1, losses)
        return sums[1:], losses.new_tensor(losses.numel())

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
        said = heads.predict(scene.features, scene.proposals, scene.sizes)
        boxes = heads.box_coder.decode(widened(said.offsets), scene.proposals)[:, 1:]  # background has no box
        return boxes, self._logits(said)

    def _logits(self, said: Said) -> Tensor:
        """(R, 1 + C) before any adjustment; an alignment acts on classes alone."""
        if self.align is None:
            return said.logits
        return torch.cat((widened(said.logits[:, :1]), self.align(said.logits[:, 1:], said.seen)), dim=1)

    def _class_losses(self, said: Said, labels: Tensor) -> Tensor:
        """(R,) losses of (R,) labels, -1 for background."""
        logits = self._logits(said)
        return self.class_losses(logits[:, 1:], labels, logits[:, 0])

    def single(self, image: Tensor) -> tuple[RawPredictions, Scene]:
        """:meth:`raw` of one image (1, 3, H, W), and what it comes from, without a loop: what an exporter can trace."""
        scene = self._encode(image)
        return _of_image(*self._second_stage(scene), scene.sizes[0], scene.own[0]), scene

    def second_stages(self) -> dict[str, Any]:
        """Name -> RoI heads, each with class rows of its own; one here."""
        return {"net.roi_heads": self.net.roi_heads}

    def classifier_layers(self) -> list[nn.Module]:
        return self._class_layers()

    def _class_layers(self) -> list[Any]:
        return [heads.box_predictor.cls_score for heads in self.second_stages().values()]

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        for number, layer in enumerate(self._class_layers()):
            yield ClassifierRows(layer.weight[1:], layer.bias[1:], (layer.weight[0], layer.bias[0]), number)

    def class_tensors(self) -> dict[str, Tensor]:
        stages = self.second_stages().items()
        return {f"{place}.{name}": value for place, heads in stages for name, value in heads.class_tensors().items()}

    @property
    def _is_cosine(self) -> bool:
        return isinstance(self._class_layers()[0], CosineLinear)

    @property
    def cosine_scale(self) -> float | None:
        return self._class_layers()[0].scale if self._is_cosine else None

    @property
    def rows_have_norms(self) -> bool:
        return not self._is_cosine

    @property
    def alignment_width(self) -> int | None:
        layers = self._class_layers()
        return int(layers[0].in_features) if len(layers) == 1 else None

    def fold_layers(self) -> None:
        if not self._is_cosine:
            return super().fold_layers()
        for layer in self._class_layers():
            layer.fold(self.adjust)

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
