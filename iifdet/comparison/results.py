"""What a closer look at runs is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.evaluation.curves import Reliability
from iifdet.evaluation.engine import Array, CocoDict
from iifdet.evaluation.resampling import Interval
from iifdet.evaluation.significance import McNemar
from iifdet.evaluation.tail import GROUP_LIMITS, frequency_groups
from iifdet.evaluation.tide import TideErrors
from iifdet.longtail import ClassCounts

#: The group of all classes.
ALL = "all"
#: The kind of what is found in classifiers' runs.
IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Options:
    """How closely to look.

    Attributes:
        draws: bootstrap replicates; 0 leaves intervals out.
        level: of the intervals.
        seed: of the draws.
        score, iou: the operating point of McNemar's test: the score from which on the first run's false alarms are
            counted, and the overlap from which on a detection has found a box.
        by: the counts that rank the tail.
    """

    draws: int = 1000
    level: float = 0.95
    seed: int = 0
    score: float = 0.25
    iou: float = 0.5
    by: str = "image"


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The data that the runs were evaluated on.

    Attributes:
        names: the C class names.
        images: how many there are.
        counts: class counts of the training set, None where they are unknown.
        groups: name -> labels; empty without counts.
    """

    names: list[str]
    images: int
    counts: ClassCounts | None = None
    groups: dict[str, list[int]] = field(default_factory=dict)

    def all_groups(self) -> dict[str, NDArray[np.int64]]:
        """Labels of ``all`` classes and of each group."""
        groups = {ALL: np.arange(len(self.names))}
        return groups | {name: np.asarray(labels, np.int64) for name, labels in self.groups.items()}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BoxSplit(Split):
    """Data with boxes.

    Attributes:
        category_ids: (C,) the category of each label.
        truth: COCO ground truth.
        protocol: ``coco`` or ``lvis``.
    """

    category_ids: NDArray[np.int64]
    truth: CocoDict
    protocol: str = "coco"

    @classmethod
    def of(cls, index: Any, counts: ClassCounts | None, thresholds: Sequence[int] = GROUP_LIMITS) -> BoxSplit:
        """From a DatasetIndex; its own frequency groups (LVIS) win over thresholds on the counts."""
        federated = getattr(index, "federated", None)
        groups = None if federated is None else federated.groups()
        if groups is None:
            groups = {} if counts is None else frequency_groups(counts, thresholds)
        return cls(
            names=list(index.names),
            images=len(index),
            counts=counts,
            groups=groups,
            category_ids=np.asarray(index.category_ids, np.int64),
            truth=index.to_coco(),
            protocol="coco" if federated is None else "lvis",
        )


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where McNemar's test sees a run: detections from this score on, and how many of them find nothing."""

    score: float
    alarms: int


@dataclass(frozen=True, slots=True, eq=False)
class RunAnalysis:
    """One run, by boxes, by masks or by images. Fractions, not percent.

    Attributes:
        name: of the run.
        figures: figure -> its interval; ``low`` and ``high`` are NaN without draws, and where there are too few images.
        differences: figure -> interval of the paired difference to the first run; empty for the first.
        per_class: (C,) AP of each class, of classifiers its accuracy; NaN without ground truth.
        class_differences: (C, 3) difference to the first run, low, high; None for the first.
        mcnemar: group (``all`` first) -> test against the first run; empty for the first.
        calibration: group (``all`` first) -> confidence against precision, of detectors at IoU .50.
        fixed: figure -> Fixed AP; empty of classifiers.
        tide: what AP50 loses to which errors; None of classifiers.
        points: group (``all`` first) -> where McNemar's test sees the run: as far down as it has no more false alarms
            in the group than the first run from ``Options.score`` on. Each group has its own, because adjustments
            change the scale of scores by class. Empty of classifiers.
    """

    name: str
    figures: dict[str, Interval]
    differences: dict[str, Interval]
    per_class: Array
    class_differences: Array | None
    mcnemar: dict[str, McNemar]
    calibration: dict[str, Reliability]
    fixed: dict[str, float] = field(default_factory=dict)
    tide: TideErrors | None = None
    points: dict[str, OperatingPoint] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What a closer look found.

    Attributes:
        split, options: what it was asked about.
        kinds: ``boxes`` and, where every run has them, ``masks`` -> one RunAnalysis a run; of classifiers ``images``.
        measure: what classes are measured by.
    """

    split: Split
    options: Options
    kinds: dict[str, list[RunAnalysis]]
    measure: str = "AP"

    @property
    def runs(self) -> list[RunAnalysis]:
        """The runs by their first kind."""
        return next(iter(self.kinds.values()))

    def plain_values(self) -> dict[str, Any]:
        """All of it as plain values, for JSON; NaN becomes None."""
        found = {kind: [_plain(asdict(run)) for run in runs] for kind, runs in self.kinds.items()}
        return {"options": asdict(self.options), "names": self.split.names, "groups": self.split.groups, **found}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
