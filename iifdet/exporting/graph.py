"""What is exported: images to boxes and scores, with batch norm and adjustment folded into the layers before them."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from iifdet.detectors import Detector
from iifdet.detectors.fusing import fuse_batch_norms
from iifdet.errors import InputError, as_input_error
from iifdet.longtail import AdjustedModel

#: How far scores, and boxes as a share of their largest coordinate, may lie from the model's.
TOLERANCE = 1e-3
Foldable = TypeVar("Foldable", bound=AdjustedModel)
#: Content of a file, and ``nodes`` and ``difference`` of the ExportResult.
Built = tuple[bytes, Counter[str], float]


class DenseGraph(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] to boxes (B, N, 4), xyxy in its pixels, not clipped, and scores (B, N, C) in [0, 1].

    The adjustment has no place here: fold it first.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.model.dense(images)
        return raw.boxes, self.model.scores(raw)


def prepare(model: Detector, images: Tensor) -> DenseGraph:
    """The graph of a copy of ``model``, folded and fused.

    Args:
        model: one with dense predictions.
        images: (B, 3, H, W) of the size that is exported.

    Raises:
        InputError: it has none; as :func:`fold_and_fuse`.
    """
    if type(model).dense is Detector.dense:
        raise InputError(f"weights: expected a model with dense predictions, got a {type(model).__name__}")
    return DenseGraph(fold_and_fuse(model, images)).eval()


@torch.no_grad()
def fold_and_fuse(model: Foldable, images: Tensor) -> Foldable:
    """A copy of ``model`` on the CPU that has no adjustment and as few batch norms as can be.

    An alignment stands between class rows and adjustment, so that beside one the adjustment stays.

    Raises:
        InputError: an adjustment that cannot be folded.
    """
    twin = copy.deepcopy(model).cpu().float().eval()
    if twin.align is None and not twin.adjust.folded:
        with as_input_error():
            twin.fold()
    twin = fuse_batch_norms(twin, images)
    if twin.align is None:
        del twin.adjust  # its vectors are in the rows
    return twin


def capture(graph: nn.Module, images: Tensor) -> ExportedProgram:
    """The graph as torch.export sees it, for any number of images of one size; ``images`` are at least two."""
    graph.requires_grad_(False)
    with quiet():
        return torch.export.export(graph, (images,), dynamic_shapes={"images": {0: Dim("batch")}}, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """PyTorch's exporters talk about their own future; what matters comes as an exception."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
