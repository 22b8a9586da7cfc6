"""Classifiers as files: any number of images at once to scores and logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iifdet.classifiers import Classifier
from iifdet.exporting.card import Card, Preprocessing
from iifdet.exporting.exported import Run
from iifdet.exporting.graph import TOLERANCE, Built, capture, fold_and_fuse
from iifdet.exporting.writing import written

#: What the graph gives.
OUTPUTS = ("scores", "logits")


class ClassGraph(nn.Module):
    """(B, 3, S, S) RGB in [0, 1] to scores in [0, 1] and logits, (B, C) each; adjusted ones."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.raw(images)
        if self.model.align is not None:  # elsewhere the adjustment is in the rows
            logits = self.model.adjusted(logits)
        return self.model.scores(logits), logits


def build_classes(model: Classifier, look: Preprocessing, format: str) -> Built:
    """The file of a classifier, tried out beside it.

    Raises:
        RuntimeError: the graph says something else than the model.
    """
    images = torch.rand(2, 3, *look.size, generator=torch.Generator().manual_seed(0))
    card = Card.of(model, look, nms=False)
    program = capture(ClassGraph(fold_and_fuse(model, images)).eval(), images)
    return written(program, card, format, OUTPUTS, lambda run: _try_out(run, model, look))


@torch.no_grad()
def _try_out(run: Run, model: Classifier, look: Preprocessing) -> float:
    """How far the scores lie apart on other images, and another number of them, than those of the capture."""
    images = torch.rand(3, 3, *look.size, generator=torch.Generator().manual_seed(1))
    scores, logits = run(images)
    expected = model(images)
    apart = float((scores - model.scores(expected)).abs().max())
    shifted = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not max(apart, shifted) <= TOLERANCE:
        raise RuntimeError(f"the graph's scores lie up to {apart:.1e} from the model's, its logits {shifted:.1e}")
    return apart
