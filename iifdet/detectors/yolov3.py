"""YOLOv3 (Redmon and Farhadi, 2018): Darknet backbone, two or three scales, objectness x class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iifdet.detectors.base import Detector
from iifdet.detectors.batching import Images, image_size, pad, pad_batch
from iifdet.detectors.darknet import ConvBNAct, Darknet, TinyDarknet, scale_channels
from iifdet.detectors.layout import Grid as Level
from iifdet.detectors.layout import Layout
from iifdet.detectors.postprocess import PostprocessOptions
from iifdet.detectors.targets import check_targets
from iifdet.detectors.yolo_loss import Grid, YOLOLossOptions, yolo_losses
from iifdet.longtail import ClassifierRows, ClassLossChoice
from iifdet.types import RawPredictions, Target

#: Width and height in pixels, coarse scale first.
ANCHORS = (((116, 90), (156, 198), (373, 326)), ((30, 61), (62, 45), (59, 119)), ((10, 13), (16, 30), (33, 23)))
#: Masks 3,4,5 and 0,1,2 of the published cfg. The published COCO weights score far better with 1,2,3 (docs/results.md).
TINY_ANCHORS = (((81, 82), (135, 169), (344, 319)), ((10, 14), (23, 27), (37, 58)))
#: For objects of 8 to 100 pixels in images of 96 to 192.
NANO_ANCHORS = (((72, 46), (46, 72), (84, 84)), ((40, 26), (26, 40), (42, 42)), ((14, 14), (20, 20), (28, 28)))


class Prediction(nn.Module):
    """The last 1x1 convolution of a scale, as two layers: boxes and objectness, and class rows.

    Darknet keeps both in one tensor. Apart, a second stage that trains class rows cannot touch the others, by weight
    decay or momentum either.
    """

    def __init__(self, channels: int, anchors: int, num_classes: int) -> None:
        super().__init__()
        self.box = nn.Conv2d(channels, anchors * 5, 1)
        self.cls = nn.Conv2d(channels, anchors * num_classes, 1)
        self.anchors = anchors
        self.reset_parameters()

    def reset_parameters(self, prior: float = 0.01) -> None:
        """Small random rows; objectness starts at ``prior``, so that negatives do not drown the first steps."""
        for layer in (self.box, self.cls):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            assert self.box.bias is not None
            self.box.bias.view(self.anchors, 5)[:, 4] = -math.log((1 - prior) / prior)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, c, H, W) -> (B, H·W·A, 5) and (B, H·W·A, C)."""
        return self._flat(self.box(x)), self._flat(self.cls(x))

    def _flat(self, y: Tensor) -> Tensor:
        batch, channels, height, width = y.shape
        y = y.view(batch, self.anchors, channels // self.anchors, height, width)
        return y.permute(0, 3, 4, 1, 2).reshape(batch, height * width * self.anchors, -1)


class Scale(nn.Module):
    """Neck and prediction of one scale. Registered in the order of a Darknet weight file.

    Args:
        c_in: channels of the backbone feature.
        c_coarse: channels that arrive from the coarser scale's neck, 0 for the coarsest.
        c_up: channels they are reduced to before upsampling.
        neck: (channels, kernel) of each neck convolution.
        c_last: channels before the prediction.
    """

    def __init__(
        self,
        c_in: int,
        c_coarse: int,
        c_up: int,
        neck: Sequence[tuple[int, int]],
        c_last: int,
        anchors: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.lateral = ConvBNAct(c_coarse, c_up, 1) if c_coarse else None
        channels = c_in + (c_up if c_coarse else 0)
        layers = []
        for c_out, kernel in neck:
            layers.append(ConvBNAct(channels, c_out, kernel))
            channels = c_out
        self.neck = nn.Sequential(*layers)
        self.last = ConvBNAct(channels, c_last, 3)
        self.predict = Prediction(c_last, anchors, num_classes)
        self.c_out = channels

    def forward(self, feature: Tensor, coarse: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Feature (B, c_in, H, W) and the coarser neck (B, c_coarse, H/2, W/2) -> this neck, and the prediction."""
        if self.lateral is not None and coarse is not None:
            up = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
            feature = torch.cat((up, feature), dim=1)
        neck = self.neck(feature)
        return neck, self.predict(self.last(neck))


class YOLOv3(Detector):
    """YOLOv3 with any backbone that gives features coarse first.

    Images are RGB in [0, 1] and used as they are (mean 0, std 1), as Darknet trained its weights.

    Args:
        num_classes: C.
        backbone: module with ``channels``, returning features coarse first, at strides 32, 16, (8).
        scales: for each scale (up channels, neck, last channels) as :class:`Scale` takes them.
        anchors: (S, A, 2) in pixels, coarse scale first.
        class_loss: name in CLASS_LOSSES.
        loss: coefficients of the loss terms.
        postprocess: how detections are chosen.
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        scales: Sequence[tuple[int, Sequence[tuple[int, int]], int]],
        anchors: Sequence[Sequence[Sequence[float]]],
        *,
        class_loss: ClassLossChoice = "ce",
        loss: YOLOLossOptions | None = None,
        postprocess: PostprocessOptions | None = None,
    ) -> None:
        super().__init__(num_classes, class_loss=class_loss, postprocess=postprocess)
        self.loss_options = loss or YOLOLossOptions()
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        if self.anchors.shape[::2] != (len(scales), 2):
            raise ValueError(
                f"anchors: expected shape ({len(scales)}, anchors per cell, 2), got {tuple(self.anchors.shape)}"
            )
        self.strides = (32, 16, 8)[: len(scales)]
        self.backbone = backbone
        self.scales = nn.ModuleList()
        c_coarse = 0
        for c_in, (c_up, neck, c_last) in zip(backbone.channels, scales, strict=True):  # type: ignore[arg-type]
            scale = Scale(c_in, c_coarse, c_up, neck, c_last, self.anchors.shape[1], num_classes)
            self.scales.append(scale)
            c_coarse = scale.c_out
        for module in (self.backbone, self.scales):
            module.apply(_init_conv)

    def raw(self, images: Images) -> list[RawPredictions]:
        t, class_logits, grid, sizes = self._predict(images)
        boxes = grid.decode(t.float())  # (B, N, 4)
        return [RawPredictions(boxes[i], class_logits[i], size, objectness=t[i, :, 4]) for i, size in enumerate(sizes)]

    def dense(self, images: Tensor) -> RawPredictions:
        t, class_logits, grid = self._network(pad(images, self.strides[0]))
        return RawPredictions(grid.decode(t.float()), class_logits, image_size(images), objectness=t[..., 4])

    def losses(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        t, class_logits, grid, sizes = self._predict(images)
        check_targets(targets, sizes, self.num_classes)
        return yolo_losses(t, class_logits, targets, grid, self.loss_options, self.class_losses)

    def loss_divisor(self, images: Images, targets: Sequence[Target]) -> int:
        """The number of boxes."""
        return sum(len(target["labels"]) for target in targets)

    def _predict(self, images: Images) -> tuple[Tensor, Tensor, Grid, list[tuple[int, int]]]:
        """Images to (B, N, 5), (B, N, C), the grid of their slots, and each image's own size."""
        batch, sizes = pad_batch(images, self.strides[0])
        return *self._network(batch), sizes

    def _network(self, batch: Tensor) -> tuple[Tensor, Tensor, Grid]:
        t, class_logits = self.network(batch)
        height, width = batch.shape[-2:]
        shapes = [(height // s, width // s, s) for s in self.strides]
        return t, class_logits, Grid.build(shapes, self.anchors)

    def tensors(self, batch: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone((batch - self.mean) / self.std)
        parts, coarse = [], None
        for scale, feature in zip(self.scales, features, strict=True):
            coarse, prediction = scale(feature, coarse)
            parts.append(prediction)
        return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)

    def classifier_layers(self) -> list[nn.Module]:
        return [scale.predict.cls for scale in self._scales()]

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        for number, scale in enumerate(self._scales()):
            layer, anchors = scale.predict.cls, scale.predict.anchors
            weight = layer.weight.view(anchors, self.num_classes, *layer.weight.shape[1:])
            bias = layer.bias.view(anchors, self.num_classes)  # type: ignore[union-attr]
            for a in range(anchors):
                yield ClassifierRows(weight[a], bias[a], layer=number)

    def cam_layers(self) -> dict[str, nn.Module]:
        """The necks. Behind ``last`` stands a 1x1 convolution alone: Grad-CAM there is the logit map itself."""
        return {f"stride{stride}": scale.neck for stride, scale in zip(self.strides, self._scales(), strict=True)}

    def layout(self, size: tuple[int, int]) -> Layout:
        height, width = (side + -side % self.strides[0] for side in size)
        per_cell = int(self.anchors.shape[1])
        levels = [Level(height // s, width // s, per_cell, (s, s)) for s in self.strides]
        return Layout((height, width), size, tuple(levels))

    def _scales(self) -> list[Scale]:
        return [scale for scale in self.scales if isinstance(scale, Scale)]


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, ConvBNAct):
        nn.init.kaiming_normal_(module.conv.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")


def _split_options(options: dict[str, Any]) -> dict[str, Any]:
    """Sort flat keywords into loss and post-processing options; the rest goes to YOLOv3."""
    loss_keys, post_keys = YOLOLossOptions.__dataclass_fields__, PostprocessOptions.__dataclass_fields__
    return {
        "loss": YOLOLossOptions(**{k: v for k, v in options.items() if k in loss_keys}),
        "postprocess": PostprocessOptions(**{k: v for k, v in options.items() if k in post_keys}),
        **{k: v for k, v in options.items() if k not in loss_keys and k not in post_keys},
    }


def yolov3(
    num_classes: int,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
    **options: Any,
) -> YOLOv3:
    """YOLOv3 on Darknet53: 61.9 M parameters at 80 classes.

    Args:
        num_classes: C.
        width: multiplies channel counts.
        depth: multiplies the number of residual blocks (at least one a stage) and of neck convolutions.
        anchors: (3, A, 2) in pixels, coarse scale first.
        **options: ``class_loss``, fields of YOLOLossOptions and PostprocessOptions.
    """
    if not (isinstance(depth, int | float) and math.isfinite(depth) and depth > 0):
        raise ValueError(f"depth: expected a number above 0, got {depth!r}")
    blocks = [max(1, round(n * depth)) for n in (1, 2, 8, 8, 4)]
    pairs = max(1, round(2 * depth))
    scales = []
    for channels in (512, 256, 128):
        small, large = scale_channels(channels, width), scale_channels(2 * channels, width)
        scales.append((scale_channels(channels, width), [(small, 1), *[(large, 3), (small, 1)] * pairs], large))
    return YOLOv3(num_classes, Darknet(width, blocks), scales, anchors, **_split_options(options))


def yolov3_tiny(
    num_classes: int,
    *,
    width: float = 1.0,
    anchors: Sequence[Sequence[Sequence[float]]] = TINY_ANCHORS,
    **options: Any,
) -> YOLOv3:
    """yolov3-tiny, two scales: 8.85 M parameters at 80 classes. Arguments as :func:`yolov3`."""
    c128, c256, c512 = (scale_channels(c, width) for c in (128, 256, 512))
    scales = [(c256, [(c256, 1)], c512), (c128, [], c256)]
    return YOLOv3(num_classes, TinyDarknet(width), scales, anchors, **_split_options(options))


def yolov3_nano(
    num_classes: int,
    *,
    width: float = 0.25,
    depth: float = 0.34,
    anchors: Sequence[Sequence[Sequence[float]]] = NANO_ANCHORS,
    **options: Any,
) -> YOLOv3:
    """YOLOv3 at a quarter of the width and a third of the depth, with small anchors: for CPUs and small images."""
    return yolov3(num_classes, width=width, depth=depth, anchors=anchors, **options)
