"""From logits, batch by batch, to a ClassResult."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iifdet.errors import counted
from iifdet.evaluation.class_result import ClassResult
from iifdet.evaluation.coverage import count_unread, find_gap, unread_notices
from iifdet.longtail import LOG_PARTS, class_scores
from iifdet.types import Batch

#: Classes of an image that predictions.json holds.
KEPT = 5
#: Rank of a class that no k reaches, and the class that logits with a NaN predict: none.
UNREACHED, NO_CLASS = 1 << 20, -1


class LabelledIndex(Protocol):
    """What the evaluator needs of a ClassIndex."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def ids(self) -> Any: ...
    def __len__(self) -> int: ...
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Part:
    """What came of the B images of one batch.

    Attributes:
        ids: (B,) the images', or None where the loader does not say them: then images come in the index's order.
        labels, rank: (B,) true classes, and how many classes stand before them.
        best, scores: (B, k) the classes with the highest scores, best first, and those in [0, 1]; NO_CLASS and 0 where
            a logit is NaN.
        nll, brier: (B,).
        unread: how many of them are grey ones in place of files that cannot be read.
    """

    ids: NDArray[np.int64] | None
    labels: NDArray[np.int64]
    rank: NDArray[np.int64]
    best: NDArray[np.int64]
    scores: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]
    unread: int = 0


class ClassificationEvaluator:
    """Collects logits batch by batch and scores them once all images have been seen.

    Of each image it keeps a few numbers and not its logits, as plain arrays in ``parts``: those of a split that other
    processes have seen are joined by joining the lists.

    Args:
        index: a ClassIndex of the split (names, ids, digest()).
        activation: ``softmax``, ``sigmoid`` or ``gumbel``, what turns logits into scores. But for softmax, NLL is the
            sum of every class's own binary cross-entropy, as in its loss (so Gumbel logits are held between -4 and 10),
            and Brier that of their squared errors.
    """

    def __init__(self, index: LabelledIndex, activation: str = "softmax") -> None:
        known = ("softmax", *LOG_PARTS)
        if activation not in known:
            raise ValueError(f"activation: expected one of {', '.join(known)}, got '{activation}'")
        self.index = index
        self.activation = activation
        self._known = np.asarray(index.ids, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.parts: list[Part] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add one batch.

        Args:
            logits: (B, C) adjusted. A row with a NaN counts as wrong, and predicts no class.
            batch: its targets are (B,) int64 labels; its infos, where it has some, say which images these are.
        """
        labels = batch.targets
        classes = len(self.index.names)
        if not isinstance(labels, Tensor) or logits.shape != (len(labels), classes):
            raise ValueError(
                f"evaluation: expected ({len(batch.targets)}, {classes}) logits and as many labels, got "
                f"{tuple(logits.shape)} and {type(labels).__name__}"
            )
        ids = np.array([info.image_id for info in batch.infos], dtype=np.int64) if batch.infos else None
        if ids is not None and len(ids) != len(labels):
            raise ValueError(f"evaluation: expected an info for each of {len(labels)} images, got {len(ids)}")
        part = _part(logits.detach().float(), labels.to(logits.device), self.activation, ids)
        self.parts.append(replace(part, unread=count_unread(batch.infos)))

    def compute(self, partial: bool = False) -> ClassResult:
        """Score what was collected.

        Args:
            partial: score only the images seen so far, instead of insisting on the whole split.

        Raises:
            ValueError: an image came twice, is not of this split, or (unless partial) is missing.
        """
        ids = self._ids()
        self._check(ids, partial)
        return ClassResult(
            names=list(self.index.names),
            labels=self._joined("labels", np.int64),
            predicted=np.concatenate([np.zeros(0, np.int64), *(part.best[:, 0] for part in self.parts)]),
            rank=self._joined("rank", np.int64),
            confidence=np.concatenate([np.zeros(0), *(part.scores[:, 0] for part in self.parts)]),
            nll=self._joined("nll", np.float64),
            brier=self._joined("brier", np.float64),
            data_digest=self.index.digest() if len(ids) == len(self._known) else None,
            notices=(*unread_notices(sum(part.unread for part in self.parts), len(ids)), *self._broken_notices()),
        )

    def _broken_notices(self) -> tuple[str, ...]:
        broken = sum(int((part.best[:, 0] == NO_CLASS).sum()) for part in self.parts)
        said = f"{counted(broken, 'image')} with NaN among the logits: wrong in every figure, nll and brier are null"
        return (said,) if broken else ()

    @staticmethod
    def fitness(result: ClassResult) -> float:
        """The one number that picks the best checkpoint: the mean accuracy of the classes; 0 without images.

        On balanced data it is the top-1 accuracy. On a held-out part of a long tail, top-1 would pick the checkpoint
        that neglects the tail most.
        """
        return float(np.nan_to_num(result.mean_class_accuracy()))

    @staticmethod
    def summary(metrics: dict[str, Any]) -> dict[str, float | None]:
        """The figures of :meth:`ClassResult.metrics` that fit on a line: for results.csv and the terminal."""
        figures = {name: metrics[name] for name in ("top1", "top5", "mean_class")}
        return figures | metrics["groups"] | {name: metrics[name] for name in ("nll", "ece")}

    def predictions(self) -> list[dict[str, Any]]:
        """One row an image, for predictions.json: its id, its class, the best classes and their scores.

        Where a logit is NaN there are no classes.
        """
        rows = zip(
            self._ids().tolist(),
            self._joined("labels", np.int64).tolist(),
            (row for part in self.parts for row in part.best.tolist()),
            (row for part in self.parts for row in part.scores.tolist()),
            strict=True,
        )
        return [
            {"image_id": image, "label": label, "classes": best, "scores": [round(s, 6) for s in scores]}
            if best[0] != NO_CLASS
            else {"image_id": image, "label": label, "classes": [], "scores": []}
            for image, label, best, scores in rows
        ]

    def confusion_matrix(self) -> NDArray[np.int64]:
        """(C, C) counts of what was collected so far; rows are true classes."""
        return self.compute(partial=True).confusion_matrix()

    def _joined(self, name: str, kind: Any) -> Any:
        return np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in self.parts)])

    def _ids(self) -> NDArray[np.int64]:
        """Ids of the images seen; by their order in the index where a loader does not give them."""
        if any(part.ids is None for part in self.parts):
            seen = sum(len(part.labels) for part in self.parts)
            return self._known[:seen] if seen <= len(self._known) else np.arange(seen)
        return self._joined("ids", np.int64)

    def _check(self, ids: NDArray[np.int64], partial: bool) -> None:
        gap = find_gap(ids, self._known, partial)
        if gap is not None:
            problem, wrong = gap
            first = ", ".join(map(str, wrong[:5].tolist()))
            raise ValueError(
                f"evaluation: expected each of {len(self._known)} images once, but {len(wrong)} {problem}, "
                f"first {first}"
            )


def _part(logits: Tensor, labels: Tensor, activation: str, ids: NDArray[np.int64] | None) -> Part:
    """What is kept of a batch; computed where the logits are, and brought from there in one go."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    own = logits.gather(1, labels[:, None])  # (B, 1)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    broken = logits.isnan().any(dim=1)
    rank = torch.where(broken, UNREACHED, before.sum(dim=1))
    best = logits.sort(dim=1, descending=True, stable=True).indices[:, :KEPT]
    hit = classes == labels[:, None]  # (B, C)
    if activation == "softmax":
        log_p = logits.log_softmax(dim=1)
        scores, nll = log_p.exp(), -log_p.gather(1, labels[:, None])[:, 0]
    else:
        scores = class_scores(logits, activation)
        log_p, log_rest = LOG_PARTS[activation](logits)
        nll = -torch.where(hit, log_p, log_rest).sum(dim=1)
    brier = (scores - hit.float()).square().sum(dim=1)
    kept = torch.where(broken[:, None], 0.0, scores.gather(1, best))
    best = torch.where(broken[:, None], NO_CLASS, best)
    table = torch.cat(
        [t.float() for t in (labels[:, None], rank[:, None], nll[:, None], brier[:, None], best, kept)], 1
    )
    numbers = table.cpu().double().numpy()  # labels are exact: float32 holds whole numbers up to 16 million
    k = best.shape[1]
    whole = numbers[:, [0, 1, *range(4, 4 + k)]].astype(np.int64)
    return Part(ids, whole[:, 0], whole[:, 1], whole[:, 2:], numbers[:, 4 + k :], numbers[:, 2], numbers[:, 3])
