"""From an image of any size to a training or validation sample. The only place that knows albumentations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.resizing import PAD, RESIZES, Boxes, Image, Masks, Size
from iifdet.errors import InputError, suggest

#: Boxes of which less than this share is left after an affine move are dropped.
MIN_VISIBLE = 0.1
#: Boxes narrower or lower than this many pixels are dropped from training.
MIN_SIDE = 2.0
HSV = (0.015, 0.7, 0.4)
#: degrees ±, translate ± as a share of the image, scale 1 ±, shear ± degrees.
AFFINE: dict[str, float] = {"degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0}


@dataclass(slots=True)
class Transformed:
    """One sample ready for collation.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) float32 xyxy in pixels of ``image``.
        labels: (n,) int64.
        masks: (n, H, W) uint8, or None.
        scale: (sx, sy) and offset: (dx, dy) of the resize; flips and affine moves are not in them.
    """

    image: Image
    boxes: Boxes
    labels: NDArray[np.int64]
    masks: Masks | None
    scale: tuple[float, float]
    offset: tuple[float, float]


def sample_seed(seed: int, epoch: int, index: int, repeat: int = 0) -> int:
    """Seed of one sample: a hash of run seed, epoch and row, so that it does not matter which worker draws it.

    Example:
        >>> sample_seed(0, 1, 2) == sample_seed(0, 1, 2), sample_seed(0, 1, 2) == sample_seed(0, 2, 1)
        (True, False)
    """
    words = [value & 0xFFFFFFFF for value in ((seed, epoch, index, repeat) if repeat else (seed, epoch, index))]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class EvalTransform:
    """Resize and nothing else.

    Args:
        size: side of the square tensor, or (H, W).
        resize: ``letterbox`` or ``square``.
    """

    def __init__(self, size: Size, resize: str = "letterbox") -> None:
        if resize not in RESIZES:
            raise InputError(f"resize: expected letterbox or square, got '{resize}'{suggest(resize, RESIZES)}")
        self.size = size
        self.resize = resize

    def content_shape(self, height: int, width: int) -> tuple[int, int]:
        """Shape that an image of this height and width has inside the tensor; a cache may keep it at that."""
        return RESIZES[self.resize][1](height, width, self.size)

    def __call__(
        self, image: Image, boxes: Boxes, labels: NDArray[np.int64], masks: Masks | None = None, seed: int = 0
    ) -> Transformed:
        out = RESIZES[self.resize][0](image, boxes, self.size, masks=masks)
        return Transformed(out.image, out.boxes, np.asarray(labels, np.int64), out.masks, out.scale, out.offset)


class TrainTransform(EvalTransform):
    """Resize, then flip, colours and affine, all drawn from the seed of the call.

    Args:
        size: side of the square tensor, or (H, W).
        resize: ``letterbox`` or ``square``.
        flip: probability of a horizontal flip.
        hsv: largest relative change of hue, saturation and value.
        affine: ``degrees``, ``translate``, ``scale``, ``shear``; missing ones are 0. None for :data:`AFFINE`.
    """

    def __init__(
        self,
        size: Size,
        resize: str = "letterbox",
        flip: float = 0.5,
        hsv: tuple[float, float, float] = HSV,
        affine: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(size, resize)
        moves = dict(AFFINE if affine is None else affine)
        for key in moves:
            if key not in AFFINE:
                raise InputError(f"affine: unknown key '{key}'{suggest(key, AFFINE)}")
        self._steps = _augmentations(flip, hsv, moves)
        self._pipeline = _compose(self._steps) if self._steps else None

    def __call__(
        self, image: Image, boxes: Boxes, labels: NDArray[np.int64], masks: Masks | None = None, seed: int = 0
    ) -> Transformed:
        out = super().__call__(image, boxes, labels, masks, seed)
        if self._pipeline is None:
            return _keep(out, _sides(out.boxes) >= MIN_SIDE)
        # Each step gets a seed of its own: one seed for all, as Compose would deal out, makes their draws equal.
        for step, state in zip(self._steps, np.random.SeedSequence(seed).generate_state(len(self._steps)), strict=True):
            step.set_random_seed(int(state))
        return self._augment(out)

    def _augment(self, out: Transformed) -> Transformed:
        height, width = out.image.shape[:2]
        limit = np.array([width, height, width, height], dtype=np.float32)
        boxes = np.clip(out.boxes, 0, limit)  # albumentations raises on boxes that reach outside
        rows = np.flatnonzero(_sides(boxes) > 0)
        given: dict[str, Any] = {"image": out.image, "bboxes": boxes[rows], "rows": rows}
        if out.masks is not None and len(out.masks):
            given["masks"] = out.masks
        got = self._pipeline(**given)  # type: ignore[misc]
        rows = np.asarray(got["rows"], dtype=np.int64).reshape(-1)
        boxes = np.clip(np.asarray(got["bboxes"], dtype=np.float32).reshape(-1, 4), 0, limit)
        masks = out.masks if out.masks is None else np.asarray(got.get("masks", out.masks), np.uint8)[rows]
        image = np.ascontiguousarray(got["image"])
        moved = Transformed(image, boxes, out.labels[rows], masks, out.scale, out.offset)
        return _keep(moved, _sides(boxes) >= MIN_SIDE)


def _augmentations(flip: float, hsv: tuple[float, float, float], affine: Mapping[str, float]) -> list[Any]:
    """The albumentations steps that do anything at all."""
    # Without this it asks the network for a newer version at import.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A

    hue, saturation, value = hsv
    degrees, translate, scale, shear = (affine.get(key, 0.0) for key in AFFINE)
    steps: list[Any] = []
    if flip > 0:
        steps.append(A.HorizontalFlip(p=flip))
    if max(hsv) > 0:
        steps.append(
            A.ColorJitter(
                brightness=(1 - value, 1 + value),
                contrast=(1, 1),
                saturation=(1 - saturation, 1 + saturation),
                hue=(-hue, hue),
                p=1,
            )
        )
    if max(degrees, translate, scale, shear) > 0:
        steps.append(
            A.Affine(
                rotate=(-degrees, degrees),
                translate_percent=(-translate, translate),
                scale=(1 - scale, 1 + scale),
                shear=(-shear, shear),
                balanced_scale=False,
                keep_ratio=True,
                fill=PAD,
                p=1,
            )
        )
    return steps


def _compose(steps: list[Any]) -> Any:
    import albumentations as A

    boxes = A.BboxParams(format="pascal_voc", label_fields=["rows"], min_visibility=MIN_VISIBLE)
    return A.Compose(steps, bbox_params=boxes)


def _sides(boxes: Boxes) -> NDArray[np.float32]:
    """(n,) the shorter side of each box."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf), dtype=np.float32)


def _keep(out: Transformed, rows: NDArray[np.bool_]) -> Transformed:
    masks = None if out.masks is None else out.masks[rows]
    return Transformed(out.image, out.boxes[rows], out.labels[rows], masks, out.scale, out.offset)
