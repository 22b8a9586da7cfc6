"""What the score of one class of an image rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.classifiers import Classifier
from iifdet.explaining.attribution import Map, attribute
from iifdet.explaining.curves import Curves, areas, class_score, curves_of
from iifdet.explaining.explanation import merged
from iifdet.explaining.geometry import View
from iifdet.explaining.layers import ALL, AUTO, find_layers, look

#: Classes that are named beside the one that is explained.
LISTED = 5

#: ``scalar`` -> what is explained, of (C,) adjusted logits.
CLASS_SCALARS: dict[str, Callable[[Classifier, Tensor, int], Tensor]] = {
    "logit": lambda model, logits, label: logits[label],
    "score": lambda model, logits, label: model.scores(logits[None])[0, label],
}


@dataclass(frozen=True)
class ClassExplanation:
    """Everything in pixels of the original image, (H, W).

    Attributes:
        names: the C class names.
        labels, scores: the likeliest classes, best first.
        chosen: the class that is explained, and ``score``, how likely it is.
        cam: (H, W) not negative, its largest value anything; zero where the network does not look.
        layer: the layers that ``cam`` comes from, joined by ``+``.
        method: a name in METHODS.
        scalar: a name in CLASS_SCALARS, and ``value``, what it is here.
        curves: deletion and insertion by the map, and by chance, where they were asked for.
    """

    names: Sequence[str]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    chosen: int
    score: float
    cam: Map
    layer: str
    method: str
    scalar: str
    value: float
    curves: tuple[Curves, Curves] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original image."""
        return self.cam.shape[0], self.cam.shape[1]

    @property
    def line(self) -> str:
        """What is explained, on one line."""
        said = f"{self.names[self.chosen]} {self.score:.2f}, {self.method} at {self.layer}"
        if self.curves is not None:
            said += f", {areas(*self.curves)}"
        return said if self.cam.any() else f"{said}: no place speaks for it"

    def arrays(self) -> dict[str, Any]:
        """Map and facts as arrays of plain types."""
        return {
            "cam": self.cam,
            "label": self.chosen,
            "class_name": self.names[self.chosen],
            "score": np.float32(self.score),
            "value": np.float32(self.value),
            "best": self.labels,
            "best_scores": self.scores,
            "scalar": self.scalar,
            "layer": self.layer,
            "method": self.method,
        }


def explain_class(
    model: Classifier,
    image: Tensor,
    view: View,
    label: int | None = None,
    *,
    method: str = "gradcam",
    layer: str = AUTO,
    scalar: str = "logit",
    curve_steps: int = 0,
) -> ClassExplanation:
    """Explain one class of one image.

    Args:
        model: in eval mode.
        image: (3, H, W) float in [0, 1] on the model's device.
        view: how it reaches the network.
        label: the class; None for the likeliest one.
        method: a name in METHODS.
        layer: ``auto`` or ``all``, a name of ``cam_layers()`` or a module's path.
        scalar: a name in CLASS_SCALARS: the adjusted logit, or the score, which other classes push too.
        curve_steps: steps of the deletion and insertion curves, four passes each; 0 leaves them out.

    Raises:
        InputError: there is no such layer, or the score does not depend on it.
    """
    if layer == AUTO and model.network.parallel:
        layer = ALL
    logits, seen = look(model, image, find_layers(model, layer))
    with torch.no_grad():
        scores = model.scores(logits[None])[0].cpu()
        best = scores.sort(descending=True, stable=True)
    chosen = int(best.indices[0]) if label is None else label
    explained = CLASS_SCALARS[scalar](model, logits, chosen)
    maps = attribute(explained, seen, method, layer)
    curves = None
    if curve_steps:
        curves = curves_of(class_score(model, chosen), image, merged(maps, view.of_tensor()), curve_steps)
    return ClassExplanation(
        names=list(model.names),
        labels=best.indices[:LISTED].numpy(),
        scores=best.values[:LISTED].numpy(),
        chosen=chosen,
        score=float(scores[chosen]),
        cam=merged(maps, view) * view.visible(),
        layer="+".join(m.layer for m in maps),
        method=method,
        scalar=scalar,
        value=float(explained.detach()),
        curves=curves,
    )
