"""anchors=auto: anchors for the boxes of a split, as a model will see them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from iifdet.config import TrainConfig
from iifdet.datasets import RESIZES, DatasetIndex
from iifdet.detectors.anchors import best_possible_recall, fit_anchors, mean_best_iou
from iifdet.detectors.yolov3 import YOLOv3
from iifdet.errors import InputError

log = logging.getLogger("iifdet")


def fit_anchors_to(index: DatasetIndex, model: Any, config: TrainConfig) -> list[list[list[float]]]:
    """Anchors for a split's boxes as the network will see them, in the shape that ``model`` has: coarse scale first."""
    if not isinstance(model, YOLOv3):
        raise InputError(f"anchors: expected a YOLOv3 model for auto, got model={config.model}; drop anchors")
    if "anchors" in config.model_args:
        raise InputError("anchors: expected either anchors=auto or model_args.anchors, got both; drop one")
    content = RESIZES[config.resize][1]
    shapes = np.array([content(h, w, config.imgsz) for h, w in index.sizes.tolist()])
    factors = (shapes / index.sizes)[index.box_image][~index.crowd]  # (M, 2) height, width
    boxes = index.boxes[~index.crowd]
    sizes = torch.from_numpy((boxes[:, 2:] - boxes[:, :2]) * factors[:, ::-1])
    scales, per_scale, _ = model.anchors.shape
    fitted = fit_anchors(sizes, scales * per_scale, config.seed)
    for name, anchors in (("before", model.anchors.flatten(0, 1)), ("fitted", fitted)):
        recall, overlap = best_possible_recall(sizes, anchors), mean_best_iou(sizes, anchors)
        log.info("anchors %s: best possible recall %.1f %%, mean best IoU %.3f", name, 100 * recall, overlap)
    return [[[round(v, 1) for v in size] for size in group.tolist()] for group in fitted.flip(0).split(per_scale)]
