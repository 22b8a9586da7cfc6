"""Which row of ``raw`` is explained: that of a detection, of a ground-truth box, or of a place in the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iifdet.boxes import clip, iou
from iifdet.detectors import Detector
from iifdet.explaining.geometry import View
from iifdet.types import Detection, RawPredictions

#: Rows that overlap a ground truth by this much speak about it; the best score among them is explained.
ABOUT_IT = 0.5


@dataclass(frozen=True)
class Choice:
    """What to explain. Without a box and without a point it is a detection.

    Attributes:
        detection: 1 is the best detection, of class ``label`` where that is given.
        label: the class to explain; None for that of the detection or ground truth, or the best one at the point.
        box: (4,) a ground truth, xyxy in tensor pixels; its class is ``label``.
        cell: (x, y) in tensor pixels.
    """

    detection: int = 1
    label: int | None = None
    box: Tensor | None = None
    cell: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chosen:
    """A row and a class to explain.

    Attributes:
        row: of ``raw``.
        label: 0…C-1.
        box: (4,) xyxy in tensor pixels, inside the image.
        score: objectness x class.
        how: how it was chosen, in words.
    """

    row: int
    label: int
    box: Tensor
    score: float
    how: str


def choose(
    model: Detector, raw: RawPredictions, found: Detection, rows: Tensor, view: View, choice: Choice
) -> Chosen | None:
    """The row that a choice means; None where there is nothing of the kind.

    Args:
        raw: adjusted predictions.
        found: detections of them, and ``rows`` (N,) of raw that they came from.
    """
    if choice.box is not None:
        return _for_box(model, raw, choice)
    if choice.cell is not None:
        return _for_cell(model, raw, view, choice)
    numbers = torch.arange(len(rows), device=rows.device)
    if choice.label is not None:
        numbers = numbers[found["labels"] == choice.label]
    if not 1 <= choice.detection <= len(numbers):
        return None
    i = int(numbers[choice.detection - 1])
    label = int(found["labels"][i])
    return Chosen(int(rows[i]), label, found["boxes"][i].cpu(), float(found["scores"][i]), f"detection {i + 1}")


def _for_box(model: Detector, raw: RawPredictions, choice: Choice) -> Chosen | None:
    """The surest of the rows that overlap the ground truth by half; failing these, the one that overlaps it most.

    None where not one touches it, as can be with proposals.
    """
    assert choice.box is not None and choice.label is not None
    boxes = class_boxes(raw, choice.label)
    overlap = iou(boxes, choice.box.to(boxes)[None])
    if not overlap.any():
        return None
    scores = model.scores(raw)[:, choice.label]
    about = overlap >= ABOUT_IT
    row = int((scores - (~about).float() * 2).argmax() if about.any() else overlap.argmax())
    said = f"IoU {float(overlap[row]):.2f} with the ground truth"
    return Chosen(row, choice.label, boxes[row].cpu(), float(scores[row]), said)


def _for_cell(model: Detector, raw: RawPredictions, view: View, choice: Choice) -> Chosen | None:
    """The surest of the rows whose cell, or where rows are proposals whose box, holds the point."""
    assert choice.cell is not None
    x, y = choice.cell
    scores = model.scores(raw)
    if choice.label is not None:
        others = torch.arange(scores.shape[1], device=scores.device) != choice.label
        scores = scores.masked_fill(others, -1)
    here = torch.zeros_like(scores, dtype=torch.bool)
    if view.layout.levels:
        here[torch.from_numpy(view.rows_at(x, y)).to(here.device)] = True
    else:
        boxes = raw.boxes if raw.boxes.ndim == 3 else raw.boxes[:, None]
        here |= (boxes[..., 0] <= x) & (x <= boxes[..., 2]) & (boxes[..., 1] <= y) & (y <= boxes[..., 3])
    if not here.any():
        return None
    flat = int(scores.masked_fill(~here, -2).argmax())
    row, label = divmod(flat, scores.shape[1])
    if not here[row, label] or scores[row, label] < 0:
        return None
    box = class_boxes(raw, label)[row].cpu()
    return Chosen(row, label, box, float(scores[row, label]), f"cell at ({x:.0f}, {y:.0f})")


def class_boxes(raw: RawPredictions, label: int) -> Tensor:
    """(N, 4) boxes for one class, clipped to the image."""
    return clip((raw.boxes if raw.boxes.ndim == 2 else raw.boxes[:, label]).float(), raw.size)
