"""One model on one image: what it finds, how sure it is where, and what one of its scores rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.detectors import Detector
from iifdet.errors import counted
from iifdet.explaining.attribution import SCALARS, LayerMap, Map, attribute
from iifdet.explaining.choosing import Choice, Chosen, choose
from iifdet.explaining.curves import Curves, areas, curves_of, detection_score
from iifdet.explaining.geometry import View
from iifdet.explaining.heat import ClassHeat, class_heat, confidence_heat
from iifdet.explaining.layers import AUTO, find_layers, look
from iifdet.types import Detection


@dataclass(frozen=True)
class Explanation:
    """Everything in pixels of the original image, (H, W).

    Attributes:
        names: the C class names.
        boxes, labels, scores: the N detections, best first, as numpy arrays.
        conf: the score that a detection is above.
        confidence: (H, W) in [0, 1].
        classes: the best class of each pixel.
        classes_above: the score that it is above.
        chosen: what is explained, its box in original pixels; None when there is nothing to explain.
        cam: (H, W) not negative, its largest value anything; None when there is nothing to explain.
        layer: the layers that ``cam`` comes from, joined by ``+``.
        method: a name in METHODS.
        scalar: a name in SCALARS, and ``value``, what it is here.
        note: why there is nothing to explain, or how the row was chosen.
        curves: deletion and insertion by the map, and by chance, where they were asked for.
        point: (x, y) of the chosen cell, and ``truth`` (4,), the chosen ground truth, where that was the choice.
    """

    names: Sequence[str]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    conf: float
    confidence: Map
    classes: ClassHeat
    classes_above: float
    chosen: Chosen | None
    cam: Map | None
    layer: str
    method: str
    scalar: str
    value: float
    note: str
    curves: tuple[Curves, Curves] | None = None
    point: tuple[float, float] | None = None
    truth: NDArray[np.float32] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original image."""
        return self.confidence.shape[0], self.confidence.shape[1]

    @property
    def line(self) -> str:
        """What is explained, or why nothing is, on one line."""
        if self.chosen is None:
            return f"nothing to explain: {self.note}"
        name, empty = self.names[self.chosen.label], self.cam is None or not self.cam.any()
        said = f"{name} {self.chosen.score:.2f} ({self.note}), {self.method} at {self.layer}"
        if self.curves is not None:
            said += f", {areas(*self.curves)}"
        return f"{said}: no place speaks for it" if empty else said

    def arrays(self) -> dict[str, Any]:
        """Maps and facts as arrays of plain types; NaN, -1 and empty text where there is nothing to explain."""
        chosen = self.chosen
        nothing = np.full(self.confidence.shape, np.nan, dtype=np.float32)
        return {
            "confidence": self.confidence,
            "class_map": self.classes.labels,
            "class_score": self.classes.scores,
            "cam": nothing if self.cam is None else self.cam,
            "box": np.full(4, np.nan, np.float32) if chosen is None else chosen.box.numpy().astype(np.float32),
            "label": -1 if chosen is None else chosen.label,
            "class_name": "" if chosen is None else self.names[chosen.label],
            "score": np.float32(np.nan if chosen is None else chosen.score),
            "row": -1 if chosen is None else chosen.row,
            "value": np.float32(self.value),
            "scalar": self.scalar,
            "layer": self.layer,
            "method": self.method,
            "note": self.note,
        }


def explain(
    model: Detector,
    image: Tensor,
    view: View,
    choice: Choice | None = None,
    *,
    method: str = "gradcam",
    layer: str = AUTO,
    scalar: str = "logit",
    classes_above: float = 0.05,
    curve_steps: int = 0,
) -> Explanation:
    """Explain one score of one image.

    Steps: 1) one pass, remembering the layers 2) detections and heat maps, and the chosen row 3) its gradient and map
    4) where asked for, deletion and insertion.

    Args:
        model: in eval mode; its ``options`` say what a detection is.
        image: (3, H, W) float in [0, 1] on the model's device.
        view: how it reaches the network.
        choice: what to explain; the best detection by default.
        method: a name in METHODS.
        layer: ``auto``, ``all``, a name of ``cam_layers()`` or a module's path.
        scalar: a name in SCALARS.
        classes_above: score above which a cell of the class map is filled.
        curve_steps: steps of the deletion and insertion curves, four passes each; 0 leaves them out.

    Raises:
        InputError: there is no such layer, or the score does not depend on it.
    """
    choice = choice or Choice()
    layers = find_layers(model, layer)
    # 1. One pass.
    raw, seen = look(model, image, layers)
    # 2. What it finds, and where.
    with torch.no_grad():
        detections, rows = model.postprocess([raw])
        found = detections[0]
        chosen = choose(model, raw, found, rows[0], view, choice)
        heat, classes = confidence_heat(model, raw, view), class_heat(model, raw, view, classes_above)
    # 3. What the chosen score rests on.
    maps: list[LayerMap] = []
    value = float("nan")
    if chosen is not None:
        explained = SCALARS[scalar](model, raw, chosen.row, chosen.label)
        value, maps = float(explained.detach()), attribute(explained, seen, method, layer)
    # 4. Does it rest there?
    curves = None
    if chosen is not None and curve_steps:
        cam = np.where(view.content(), merged(maps, view.of_tensor()), np.float32(-1))
        curves = curves_of(detection_score(model, chosen.box, chosen.label), image, cam, curve_steps)
    return Explanation(
        names=list(model.names),
        **_original(found, view),
        conf=model.options.conf,
        confidence=heat,
        classes=classes,
        classes_above=classes_above,
        chosen=None if chosen is None else _placed(chosen, view),
        cam=merged(maps, view) if maps else None,
        layer="+".join(m.layer for m in maps),
        method=method,
        scalar=scalar,
        value=value,
        note=_why_nothing(model, found, choice) if chosen is None else chosen.how,
        curves=curves,
        point=None if choice.cell is None else _point(choice.cell, view),
        truth=None if choice.box is None else view.info.to_original(choice.box[None])[0].cpu().numpy(),
    )


def merged(maps: list[LayerMap], view: View) -> Map:
    """One map as it is; several each divided by its largest value, then averaged."""
    placed = [view.upsample(m.values) for m in maps]
    if len(placed) == 1:
        return placed[0]
    return np.mean([normalised(m) for m in placed], axis=0, dtype=np.float32)


def normalised(cam: Map) -> Map:
    """A map divided by its largest value; zeros stay zeros."""
    top = float(cam.max()) if cam.size else 0.0
    return cam / top if top > 0 else cam


def _original(found: Detection, view: View) -> dict[str, Any]:
    boxes = view.info.to_original(found["boxes"]).cpu().numpy()
    return {"boxes": boxes, "labels": found["labels"].cpu().numpy(), "scores": found["scores"].float().cpu().numpy()}


def _placed(chosen: Chosen, view: View) -> Chosen:
    box = view.info.to_original(chosen.box[None])[0]
    return Chosen(chosen.row, chosen.label, box, chosen.score, chosen.how)


def _point(cell: tuple[float, float], view: View) -> tuple[float, float]:
    (sx, sy), (dx, dy) = view.info.scale, view.info.offset
    return (cell[0] - dx) / sx, (cell[1] - dy) / sy


def _why_nothing(model: Detector, found: Detection, choice: Choice) -> str:
    if choice.box is not None or choice.cell is not None:
        return "no row of the model's predictions is there"
    labels = found["labels"]
    count = len(labels) if choice.label is None else int((labels == choice.label).sum())
    of = "" if choice.label is None else f" of {model.names[choice.label]}"
    limit = f"above conf {model.options.conf:g}"
    if not count:
        return f"no detection{of} {limit}"
    return f"{counted(count, 'detection')}{of} {limit}, so none of number {choice.detection}"
