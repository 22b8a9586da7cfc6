"""Which pictures a run of a classifier leaves behind: values of the run in, calls to plots out."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iifdet import plots
from iifdet.classifiers import Classifier
from iifdet.evaluation import ClassResult, shots
from iifdet.evaluation.tail import align_counts
from iifdet.longtail import ClassCounts
from iifdet.plots.classification import NEUTRAL, RIGHT, WRONG
from iifdet.plots.figure import shorten
from iifdet.types import Batch, MixedLabels

#: Images in a batch picture, and the side to which smaller ones are enlarged.
MOST_IMAGES, MIN_SIDE = 32, 160
#: Classes above which there is no confusion matrix: it would take gigabytes.
MOST_CLASSES = 4000


class Drawn(NamedTuple):
    """An image that may be drawn: the t-th of its class that was seen."""

    turn: int
    label: int
    image: Tensor
    scores: Tensor


class ClassesInTurn:
    """Of all batches of a split the images to draw: the first of each class, then the second, …

    A split may be in the order of its classes, so that its first batch shows one of them.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.seen: Counter[int] = Counter()
        self.kept: list[Drawn] = []

    def add(self, batch: Batch, logits: Tensor) -> None:
        """Look at a batch and its (B, C) adjusted logits; what is kept are copies."""
        labels: Any = batch.targets
        for row, label in enumerate(labels.tolist()):
            turn, self.seen[label] = self.seen[label], self.seen[label] + 1
            if len(self.kept) == MOST_IMAGES and (turn, label) > self.kept[-1][:2]:
                continue
            drawn = Drawn(turn, label, batch.images[row].cpu().clone(), self.model.scores(logits[row]).cpu())
            insort(self.kept, drawn, key=lambda d: d[:2])
            del self.kept[MOST_IMAGES:]

    def shown(self) -> tuple[Batch, Tensor] | None:
        """The images as a batch, and their (N, C) scores; None where there are none."""
        if not self.kept:
            return None
        labels = torch.tensor([d.label for d in self.kept])
        return Batch([d.image for d in self.kept], labels), torch.stack([d.scores for d in self.kept])


def draw_batch(batch: Batch, names: Sequence[str], path: Path, scores: Tensor | None = None) -> None:
    """Write one picture of a batch with the names of the classes, or with what is predicted and what is true.

    Args:
        scores: (N, C) of the first images.
    """
    shown = list(batch.images)[:MOST_IMAGES]
    drawn = []
    for row, image in enumerate(shown if scores is None else shown[: len(scores)]):
        picture = plots.as_picture(image)
        picture = plots.enlarged(picture, max(1, MIN_SIDE // max(picture.shape[:2])))
        said = None if scores is None else scores[row]
        drawn.append(plots.add_caption(picture, _caption(batch.targets, row, names, said)))
    plots.mosaic_grid(drawn, path, columns=8)


def _caption(targets: Any, row: int, names: Sequence[str], scores: Tensor | None) -> list[tuple[str, Any]]:
    if isinstance(targets, MixedLabels):
        share = float(targets.share.expand(len(targets.labels))[row])
        parts = ((targets.labels, share), (targets.others, 1 - share))
        return [(f"{shorten(names[int(labels[row])])} {part:.0%}", NEUTRAL) for labels, part in parts]
    true = int(targets[row])
    if scores is None:
        return [(shorten(names[true]), NEUTRAL)]
    best = int(scores.argmax())
    lines = [(f"{shorten(names[best])} {float(scores[best]):.2f}", RIGHT if best == true else WRONG)]
    return [*lines, ("" if best == true else f"is {shorten(names[true])}", NEUTRAL)]


def draw_result(
    folder: Path, result: ClassResult, evaluator: Any, counts: ClassCounts | None, metrics: dict[str, Any]
) -> None:
    """confusion_matrix.png, reliability.png and, with training counts, tail.png."""
    counts = None if counts is None else align_counts(counts, result.names)
    order = None if counts is None else plots.by_frequency(counts).tolist()
    if len(result.names) <= MOST_CLASSES:
        path = folder / "confusion_matrix.png"
        plots.plot_confusion(result.confusion_matrix(), result.names, path, order, background=False)
    members = {} if counts is None else shots(counts, metrics["group_thresholds"])
    members = {name: labels for name, labels in members.items() if labels}
    groups = {"all": result.reliability(), **{name: result.reliability(labels) for name, labels in members.items()}}
    plots.plot_group_reliability(groups, folder / "reliability.png")
    if counts is not None:
        accuracy, path = result.class_accuracy(), folder / "tail.png"
        plots.plot_tail(accuracy, counts, result.names, {}, path, members, what="accuracy")
