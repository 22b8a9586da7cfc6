"""SSD (Liu et al., ECCV 2016) on VGG16 at 300 and 512 px: default boxes, class against background."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from iifdet.detectors.base import Detector
from iifdet.detectors.batching import Images, image_size, stretch, stretch_batch
from iifdet.detectors.default_boxes import PLANS, BoxPlan, decode
from iifdet.detectors.layout import Grid, Layout
from iifdet.detectors.multibox_loss import count_positives, multibox_losses
from iifdet.detectors.options import check_number
from iifdet.detectors.postprocess import PostprocessOptions
from iifdet.detectors.targets import check_targets
from iifdet.detectors.vgg import SSDVGG16, init_xavier
from iifdet.longtail import ClassifierRows, ClassLossChoice, LogitAdjustment
from iifdet.types import RawPredictions, Target

#: What Caffe's VGG16 subtracts, in shares of 255; with std 1/255 the network sees values from -124 to 151.
MEAN, STD = (0.48235, 0.45882, 0.40784), 1 / 255


class MultiboxHead(nn.Module):
    """One 3x3 convolution for offsets and one for classes on each feature map.

    The class layer has, for each default box of a cell, a background row and then C class rows.
    """

    def __init__(self, channels: Sequence[int], per_cell: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.box = nn.ModuleList(nn.Conv2d(c, a * 4, 3, padding=1) for c, a in zip(channels, per_cell, strict=True))
        self.cls = nn.ModuleList(
            nn.Conv2d(c, a * (num_classes + 1), 3, padding=1) for c, a in zip(channels, per_cell, strict=True)
        )
        self.columns = num_classes + 1
        self.apply(init_xavier)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (B, c, H, W), fine first, to offsets (B, N, 4) and logits (B, N, 1 + C), background first."""
        offsets = [_flat(layer(x), 4) for layer, x in zip(self.box, features, strict=True)]
        logits = [_flat(layer(x), self.columns) for layer, x in zip(self.cls, features, strict=True)]
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


def _flat(y: Tensor, columns: int) -> Tensor:
    """(B, A·columns, H, W) to (B, H·W·A, columns)."""
    return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, columns)


class SSD(Detector):
    """SSD on VGG16. Images of any size are stretched to the network's square; boxes come back in their own pixels.

    Args:
        num_classes: C, background excluded.
        plan: default boxes; its size is the network's.
        width: multiplies channel counts.
        class_loss: name in CLASS_LOSSES; with softmax scores background is a class, with other scores none.
        match_threshold: a default box that overlaps a ground truth by this much is positive.
        negatives: so many of the hardest background boxes count for each positive one.
    """

    has_background = sees_background = mines_negatives = True
    size_key = "model=ssd300 or model=ssd512"
    defaults: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        plan: BoxPlan,
        *,
        width: float = 1.0,
        class_loss: ClassLossChoice = "ce",
        match_threshold: float = 0.5,
        negatives: float = 3.0,
    ) -> None:
        check_number("match_threshold", match_threshold, 1.0)
        check_number("negatives", negatives)
        options = PostprocessOptions(conf=0.01, iou=0.45, max_det=200, max_candidates=16384, class_candidates=400)
        super().__init__(num_classes, class_loss=class_loss, postprocess=options)
        self.size, self.per_cell, self.grids = plan.size, plan.per_cell, tuple(zip(plan.grids, plan.steps, strict=True))
        self.match_threshold, self.negatives = match_threshold, negatives
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.full((3, 1, 1), STD))
        self.register_buffer("defaults", plan.boxes(), persistent=False)
        self.backbone = SSDVGG16(plan.size, width)
        self.head = MultiboxHead(self.backbone.channels, plan.per_cell, num_classes)
        self.init_class_biases()

    def raw(self, images: Images) -> list[RawPredictions]:
        offsets, logits, sizes = self._predict(images)
        boxes = decode(offsets.float(), self.defaults)  # (B, N, 4) pixels of the network's square
        return [
            RawPredictions(
                boxes=boxes[i] * self._stretch(size, boxes),
                class_logits=logits[i, :, 1:],
                size=size,
                background=logits[i, :, 0],
            )
            for i, size in enumerate(sizes)
        ]

    def dense(self, images: Tensor) -> RawPredictions:
        offsets, logits = self._network(stretch(images, (self.size, self.size)))
        size = image_size(images)
        boxes = decode(offsets.float(), self.defaults) * self._stretch(size, self.defaults)
        return RawPredictions(boxes, logits[..., 1:], size, background=logits[..., 0])

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        offsets, logits, sizes = self._predict(images)
        check_targets(targets, sizes, self.num_classes)
        return multibox_losses(
            offsets,
            lambda labels: self.class_losses(logits[..., 1:], labels, logits[..., 0]),
            self._in_the_square(targets, sizes),
            self.defaults,
            threshold=self.match_threshold,
            negatives=self.negatives,
        )

    def loss_divisor(self, images: Images, targets: Sequence[Target]) -> int:
        """The number of positive default boxes."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        return count_positives(self._in_the_square(targets, sizes), self.defaults, self.match_threshold)

    def _in_the_square(self, targets: Sequence[Target], sizes: list[tuple[int, int]]) -> list[Target]:
        """Targets in pixels of the network's input."""
        return [
            Target(boxes=t["boxes"] / self._stretch(size, t["boxes"]), labels=t["labels"])
            for t, size in zip(targets, sizes, strict=True)
        ]

    def _predict(self, images: Images) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Images to offsets (B, N, 4), logits (B, N, 1 + C), background first, and each image's own size."""
        batch, sizes = stretch_batch(images, self.size)
        return *self._network(batch), sizes

    def _network(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logits = self.network(batch)
        return offsets, logits

    def tensors(self, batch: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.backbone((batch - self.mean) / self.std))

    def _stretch(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """(4,) factors from the network's square to an image of this height and width."""
        return like.new_tensor([size[1], size[0], size[1], size[0]]) / self.size

    def classifier_layers(self) -> list[nn.Module]:
        return list(self.head.cls)

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        for number, (layer, anchors) in enumerate(zip(self.head.cls, self.per_cell, strict=True)):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            weight = layer.weight.view(anchors, self.num_classes + 1, *layer.weight.shape[1:])
            bias = layer.bias.view(anchors, self.num_classes + 1)
            for a in range(anchors):
                yield ClassifierRows(weight[a, 1:], bias[a, 1:], (weight[a, 0], bias[a, 0]), number)

    def cam_layers(self) -> dict[str, nn.Module]:
        blocks = [self.backbone.norm4, self.backbone.fc, *self.backbone.extras]
        return dict(
            zip(("conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2", "conv12_2"), blocks, strict=False)
        )

    def layout(self, size: tuple[int, int]) -> Layout:
        square = (self.size, self.size)
        levels = [Grid(n, n, a, (step, step)) for (n, step), a in zip(self.grids, self.per_cell, strict=True)]
        return Layout(square, square, tuple(levels))


def ssd300(
    num_classes: int,
    *,
    width: float = 1.0,
    class_loss: ClassLossChoice = "ce",
    match_threshold: float = 0.5,
    negatives: float = 3.0,
) -> SSD:
    """SSD300 on VGG16: 8732 default boxes, 35.6 M parameters at 90 classes. Arguments as :class:`SSD`."""
    keys = {"width": width, "match_threshold": match_threshold, "negatives": negatives}
    return SSD(num_classes, PLANS[300], class_loss=class_loss, **keys)


def ssd512(
    num_classes: int,
    *,
    width: float = 1.0,
    class_loss: ClassLossChoice = "ce",
    match_threshold: float = 0.5,
    negatives: float = 3.0,
) -> SSD:
    """SSD512 on VGG16: 24564 default boxes. Arguments as :class:`SSD`."""
    keys = {"width": width, "match_threshold": match_threshold, "negatives": negatives}
    return SSD(num_classes, PLANS[512], class_loss=class_loss, **keys)


# -- torchvision's ssd300_vgg16 ----------------------------------------------------------------------------------------

#: Our module -> torchvision's, in the order of prefixes.
_MODULES = {
    **{f"backbone.conv4.{i}": f"backbone.features.{i}" for i in range(23)},
    "backbone.norm4.scale": "backbone.scale_weight",
    **{f"backbone.conv5.{i}": f"backbone.extra.0.{i}" for i in range(7)},
    **{f"backbone.fc.{i}": f"backbone.extra.0.7.{i}" for i in range(5)},
    **{f"backbone.extras.{b}.{i}": f"backbone.extra.{b + 1}.{i}" for b in range(4) for i in range(4)},
    **{f"head.box.{k}": f"head.regression_head.module_list.{k}" for k in range(6)},
    **{f"head.cls.{k}": f"head.classification_head.module_list.{k}" for k in range(6)},
}


def from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's ``ssd300_vgg16`` as one that :func:`ssd300` loads strictly.

    torchvision counts background as class 0, so ``num_classes`` there is C + 1. What it does not know (the adjustment)
    becomes the identity.

    Raises:
        ValueError: a tensor is missing, or one is left over.
    """
    per_cell = PLANS[300].per_cell
    bias = state_dict.get("head.classification_head.module_list.0.bias")
    if bias is None or len(bias) % per_cell[0]:
        raise ValueError("state_dict: expected torchvision's ssd300_vgg16, got no head.classification_head of its kind")
    with torch.device("meta"):
        shapes = ssd300(len(bias) // per_cell[0] - 1)
    learned = {name for name, _ in shapes.named_parameters()}
    missing = sorted(_theirs(name) for name in learned if _theirs(name) not in state_dict)
    left = sorted(set(state_dict) - {_theirs(name) for name in learned})
    if missing or left:
        raise ValueError(
            f"state_dict: expected torchvision's ssd300_vgg16; missing {missing[:3]}, left over {left[:3]}"
        )
    ours = {name: state_dict[_theirs(name)] for name in learned}
    identity = LogitAdjustment(shapes.num_classes).state_dict(prefix="adjust.")
    return {**ours, **identity, "mean": torch.tensor(MEAN).view(3, 1, 1), "std": torch.full((3, 1, 1), STD)}


def to_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an :func:`ssd300` as one that torchvision's ``ssd300_vgg16(num_classes=C + 1)`` loads strictly.

    Fold the model first if an adjustment acts in inference: torchvision has no place for it.
    """
    return {_theirs(name): value for name, value in state_dict.items() if _module(name) in _MODULES}


def _module(name: str) -> str:
    return name if name in _MODULES else name.rpartition(".")[0]


def _theirs(name: str) -> str:
    module = _module(name)
    return _MODULES.get(module, module) + name[len(module) :]
