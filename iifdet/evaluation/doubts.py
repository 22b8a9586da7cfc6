"""Whether imported detections can be about this split: do they lie on its boxes, and are their classes those boxes'?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.evaluation.engine import Array, box_iou, to_labels
from iifdet.evaluation.imported import Imported

#: Images looked at, and the overlap from which on a detection lies on a box.
IMAGES, IOU = 300, 0.5
#: Pairs that another reading of the classes must explain, at least and times those that the chosen one explains.
PAIRS, TIMES = 10, 3
#: Boxes of which hardly any is met.
BOXES, MET = 20, 0.05
#: Share of the images with boxes that may have no detection without a word.
SILENT = 0.25


@dataclass(frozen=True)
class Meeting:
    """Detections that lie on boxes, whatever their classes.

    Attributes:
        said: (p,) the detection's category in its file.
        label: (p,) the label that it was given.
        truth: (p,) the label of the box that it overlaps most.
        met, boxes: boxes that any detection lies on, and all, of the images that were looked at.
        detections: on these images.
        annotated, silent: images with boxes, and those of them without a detection.
    """

    said: NDArray[np.int64]
    label: NDArray[np.int64]
    truth: NDArray[np.int64]
    met: int
    boxes: int
    detections: int
    annotated: int
    silent: int

    @property
    def agreeing(self) -> int:
        """How many pairs agree as categories are read."""
        return int((self.label == self.truth).sum())

    def reading(self, first: int) -> int:
        """How many pairs agree if class 0 has the category ``first``."""
        return int((self.said - first == self.truth).sum())

    def better_first(self) -> int | None:
        """Where categories must start to explain far more pairs; None where the chosen reading is the best."""
        best = max((0, 1), key=self.reading)
        return best if self.reading(best) >= max(PAIRS, TIMES * self.agreeing) else None

    def notices(self) -> list[str]:
        """What to say where hardly a box is met, or many images have no detection."""
        said = []
        if self.silent > SILENT * self.annotated:
            said.append(
                f"{self.silent} of {self.annotated} images with boxes have no detection, which counts as finding "
                "nothing there: was the whole split predicted?"
            )
        if self.boxes >= BOXES and self.detections >= self.boxes and self.met < MET * self.boxes:
            said.append(
                f"detections lie on {self.met} of {self.boxes} boxes, of whatever class: are these the images that "
                "were predicted, and are boxes x, y, width, height in pixels of the original images?"
            )
        return said


def meet(found: Imported, index: Any) -> Meeting:
    """Pairs of detections and boxes of the first images that have both.

    Args:
        found: detections with ids of the index.
        index: a DatasetIndex.
    """
    order = np.argsort(found.rows[:, 0], kind="stable")
    ids = found.rows[order, 0]
    labels = to_labels(found.rows[:, 6], index.category_ids)
    pairs, met, boxes, detections = [], 0, 0, 0
    annotated = np.flatnonzero(np.diff(index.offsets))
    seen = annotated[np.isin(index.image_ids[annotated], ids)]
    for row in seen[:IMAGES].tolist():
        image = index.image_ids[row]
        mine = order[np.searchsorted(ids, image) : np.searchsorted(ids, image, side="right")]
        truth = np.arange(len(index.labels))[index.boxes_of(row)]
        overlap = box_iou(found.rows[mine, 1:5], _xywh(index.boxes[truth]), np.zeros(len(truth), bool))
        best = overlap.argmax(axis=1)
        on = overlap[np.arange(len(mine)), best] >= IOU
        pairs.append(np.stack([found.said[mine[on]], labels[mine[on]], index.labels[truth[best[on]]]]))
        met += int((overlap.max(axis=0) >= IOU).sum())
        boxes, detections = boxes + len(truth), detections + len(mine)
    said, label, truth = np.concatenate([np.zeros((3, 0), np.int64), *pairs], axis=1)
    return Meeting(said, label, truth, met, boxes, detections, len(annotated), len(annotated) - len(seen))


def _xywh(boxes: Array) -> Array:
    found = boxes.astype(np.float64)
    found[:, 2:] -= found[:, :2]
    return found
