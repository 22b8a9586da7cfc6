"""Class activation maps of one row of ``raw``: the scalar to explain, its gradient at the layers, the map."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.detectors import Detector
from iifdet.errors import InputError
from iifdet.explaining.layers import ALL
from iifdet.types import RawPredictions

Map = NDArray[np.float32]

#: ``method`` -> class of pytorch_grad_cam.
METHODS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM", "eigencam": "EigenCAM"}


def row_logit(model: Detector, raw: RawPredictions, row: int, label: int) -> Tensor:
    """The adjusted class logit of one row."""
    return raw.class_logits[row, label]


def row_score(model: Detector, raw: RawPredictions, row: int, label: int) -> Tensor:
    """The score of one row, objectness x class, as post-processing sees it."""

    def one(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[row : row + 1]

    single = replace(
        raw,
        boxes=raw.boxes[row : row + 1],
        class_logits=raw.class_logits[row : row + 1],
        objectness=one(raw.objectness),
        background=one(raw.background),
    )
    return model.scores(single)[0, label]


#: ``scalar`` -> what is explained, of adjusted predictions.
SCALARS: dict[str, Callable[[Detector, RawPredictions, int, int], Tensor]] = {"logit": row_logit, "score": row_score}


@dataclass(frozen=True)
class LayerMap:
    """The map of one layer.

    Attributes:
        layer: its name.
        values: (h, w) float32, not negative, in units of the scalar (EigenCAM: of the activations).
    """

    layer: str
    values: Map


def attribute(
    scalar: Tensor, seen: Sequence[tuple[str, Tensor]], method: str = "gradcam", layer: str = "auto"
) -> list[LayerMap]:
    """Maps of the layers that a scalar depends on.

    Args:
        scalar: from SCALARS.
        seen: what :func:`iifdet.explaining.layers.look` kept.
        method: a name in METHODS.
        layer: ``all`` gives a map for each layer that the scalar depends on, anything else the last one executed: in
            a pyramid the level that the row stands on.

    Raises:
        InputError: the scalar does not depend on any of the layers.
    """
    gradients: Sequence[Tensor | None] = [None] * len(seen)
    if scalar.requires_grad:
        gradients = torch.autograd.grad(scalar, [value for _, value in seen], allow_unused=True)
    found = [(n, a, g) for (n, a), g in zip(seen, gradients, strict=True) if g is not None and bool(g.any())]
    if not found:
        names = ", ".join(dict.fromkeys(name for name, _ in seen)) or layer
        raise InputError(f"layer: expected one that the explained score depends on, got {names}; use layer=auto")
    chosen = found if layer == ALL else found[-1:]
    return [LayerMap(name, class_activation_map(method, a, g)) for name, a, g in chosen]


def class_activation_map(method: str, activations: Tensor, gradients: Tensor) -> Map:
    """(1, c, h, w) activations and gradients to an (h, w) map by pytorch-grad-cam's method; negative parts are 0."""
    values, slopes = (t.detach().float().cpu().numpy() for t in (activations, gradients))
    if method == "eigencam":
        cam = principal_map(values[0])
    else:
        cam = _tool(method).get_cam_image(None, None, None, values, slopes, False)[0]
    return np.maximum(np.asarray(cam, dtype=np.float32), 0)


def principal_map(activations: NDArray[Any]) -> Map:
    """EigenCAM: (c, h, w) activations, centred, projected on their first principal component.

    pytorch-grad-cam's own asks for all h·w left singular vectors, a gigabyte at 100x168 cells of a pyramid, and leaves
    the sign to chance; here the larger side is positive, as in Seg-Eigen-CAM (Chung and Ying, 2025).
    """
    flat = activations.reshape(len(activations), -1).T.astype(np.float64)  # (h·w, c)
    flat = flat - flat.mean(axis=0)
    _, _, components = np.linalg.svd(flat, full_matrices=False)
    cam = (flat @ components[0]).reshape(activations.shape[1:])
    return np.asarray(-cam if abs(cam.min()) > abs(cam.max()) else cam, dtype=np.float32)


@cache
def _tool(method: str) -> Any:
    """pytorch-grad-cam's object, imported when it is first needed, which takes seconds. It gets no layers to hook: its
    hooks count gradients of layers that a row does not see wrongly, and ours keep the graph small.
    """
    kind = getattr(importlib.import_module("pytorch_grad_cam"), METHODS[method])
    return kind(torch.nn.Linear(1, 1), [])
