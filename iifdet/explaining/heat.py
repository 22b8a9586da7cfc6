"""What a detector says about each place of an image: how sure it is of any object, and of which class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.detectors import Detector
from iifdet.explaining.geometry import View, paint_boxes
from iifdet.types import RawPredictions

NO_CLASS = -1


@dataclass(frozen=True)
class ClassHeat:
    """The best class of each pixel.

    Attributes:
        labels: (H, W) int32, NO_CLASS where nothing is above the confidence.
        scores: (H, W) float32, the best class's score everywhere.
    """

    labels: NDArray[np.int32]
    scores: NDArray[np.float32]


def confidence(model: Detector, raw: RawPredictions) -> Tensor:
    """(N,) how sure each row of adjusted predictions is that there is an object, whichever.

    Objectness where there is one; 1 - p(background) where softmax knows background; else the best class score.
    """
    if raw.objectness is not None:
        return raw.objectness.float().sigmoid()
    scores = model.scores(raw)
    if model.class_activation == "softmax" and raw.background is not None:
        return scores.sum(dim=1).clamp(max=1)  # the classes' shares are what background leaves
    return scores.amax(dim=1)


def confidence_heat(model: Detector, raw: RawPredictions, view: View) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: at each pixel of the original image the surest of the cells, or proposals, over it."""
    return _spread(confidence(model, raw), raw, model.scores(raw).argmax(dim=1), view)[0]


def class_heat(model: Detector, raw: RawPredictions, view: View, above: float) -> ClassHeat:
    """The best class at each pixel of the original image, among the cells, or proposals, over it.

    Args:
        above: cells whose best score, objectness x class, is not above this stay empty.
    """
    scores, labels = model.scores(raw).max(dim=1)
    heat, rows = _spread(scores, raw, labels, view)
    best = np.where((rows >= 0) & (heat > above), labels.cpu().numpy()[np.maximum(rows, 0)], NO_CLASS)
    return ClassHeat(best.astype(np.int32), heat)


def _spread(
    values: Tensor, raw: RawPredictions, labels: Tensor, view: View
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N,) values to the largest at each pixel (H, W), and the row that it came from, -1 for none."""
    numbers = values.detach().float().cpu().numpy()
    if not view.layout.levels:
        return _spread_proposals(numbers, raw, labels, view)
    heat = np.full(view.info.size, -np.inf, dtype=np.float32)
    rows = np.full(view.info.size, -1, dtype=np.int64)
    start = 0
    for grid in view.layout.levels:
        level = numbers[start : start + grid.size].reshape(grid.rows, grid.columns, grid.per_cell)
        here = start + np.arange(level.size).reshape(level.shape)
        best = level.argmax(axis=2)[..., None]
        top = view.upsample(np.take_along_axis(level, best, axis=2)[..., 0], smooth=False)
        owner = view.upsample(np.take_along_axis(here, best, axis=2)[..., 0], smooth=False)
        rows, heat = np.where(top > heat, owner, rows), np.maximum(heat, top)
        start += grid.size
    return heat, rows


def _spread_proposals(
    numbers: NDArray[np.float32], raw: RawPredictions, labels: Tensor, view: View
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Proposals have no cells: each fills its box, that of its best class where boxes are class-specific."""
    boxes = raw.boxes.detach()
    if boxes.ndim == 3:
        boxes = boxes[torch.arange(len(boxes), device=boxes.device), labels]
    placed = view.info.to_original(boxes.float()).cpu().numpy()
    order = np.argsort(numbers, kind="stable")  # painted by rank, so that the number of the row survives
    ranks = paint_boxes(view.info.size, placed[order], np.arange(len(order), dtype=np.float32), empty=-1)
    rank = ranks.astype(np.int64)
    rows = np.where(rank >= 0, order[np.maximum(rank, 0)] if len(order) else -1, -1)
    heat = np.where(rows >= 0, numbers[np.maximum(rows, 0)] if len(order) else 0, 0)
    return heat.astype(np.float32), rows.astype(np.int64)
