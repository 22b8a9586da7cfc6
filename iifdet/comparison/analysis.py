"""What stands behind the figures of runs on one split: intervals, tests, kinds of errors, calibration.

Steps: 1) match each run's detections once 2) draw images with replacement, the same draws for every run, and take each
run's figures under them 3) McNemar's test, TIDE, Fixed AP and calibration from the same records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.errors import InputError
from iifdet.evaluation.curves import Reliability, reliability
from iifdet.evaluation.engine import Array, CocoDict
from iifdet.evaluation.fixed import Unlimited
from iifdet.evaluation.masks import with_rectangles
from iifdet.evaluation.matching import MatchRecords, match_both
from iifdet.evaluation.resampling import Interval, enough_images, image_weights, interval, weighted_ap
from iifdet.evaluation.significance import McNemar, false_alarms, found_boxes, mcnemar, score_of_alarms
from iifdet.evaluation.tail import GROUP_LIMITS, frequency_groups, tail_classes
from iifdet.evaluation.tide import TideErrors, tide_errors
from iifdet.longtail import ClassCounts

TAILS = (5, 10, 20)
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
        score, iou: the operating point of McNemar's test: from which score on a detection of the first run counts, and
            from which overlap on it has found a box.
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
        points: group (``all`` first) -> where McNemar's test sees the run: the first run from ``Options.score`` on, the
            others where they have as many false alarms in the group. Each group has its own, because adjustments change
            the scale of scores by class. Empty of classifiers.
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


def analyse(
    split: BoxSplit,
    predictions: Mapping[str, tuple[Array, list[Any] | None]],
    options: Options | None = None,
    unlimited: Mapping[str, Unlimited] | None = None,
) -> Analysis:
    """Look closely at runs on one split.

    Args:
        split: the data.
        predictions: name of the run -> its (n, 7) detections, and their masks as COCO run lengths or None.
        options: how closely.
        unlimited: name of a run -> its detections without a limit on an image, for Fixed AP; that of the others comes
            from ``predictions``.

    Raises:
        InputError: detections of other images or classes.
    """
    options, unlimited = options or Options(), unlimited or {}
    rows = {name: rows for name, (rows, _) in predictions.items()}
    boxes = _analyse(split, rows, "bbox", options, {name: found.rows for name, found in unlimited.items()})
    if any(masks is None for _, masks in predictions.values()):
        return Analysis(split, options, {"boxes": boxes})
    dicts = {name: _mask_results(rows, masks or []) for name, (rows, masks) in predictions.items()}
    more = {n: _mask_results(found.rows, found.masks) for n, found in unlimited.items() if found.masks is not None}
    return Analysis(split, options, {"boxes": boxes, "masks": _analyse(split, dicts, "segm", options, more)})


def _mask_results(rows: Array, masks: list[Any]) -> list[dict[str, Any]]:
    return [
        {"image_id": int(r[0]), "category_id": int(r[6]), "score": r[5], "segmentation": mask}
        for r, mask in zip(rows.tolist(), masks, strict=True)
    ]


def _analyse(
    split: BoxSplit,
    results: Mapping[str, Any],
    iou_type: str,
    options: Options,
    unlimited: Mapping[str, Any],
) -> list[RunAnalysis]:
    truth = with_rectangles(split.truth) if iou_type == "segm" else split.truth
    if not truth["images"]:
        raise InputError("compare: expected images in the evaluated split, got none")
    records, fixed = [], []
    for name, found in results.items():
        usual, best = match_both(truth, found, split.category_ids, iou_type, split.protocol)
        if name in unlimited:
            best = match_both(truth, unlimited[name], split.category_ids, iou_type, split.protocol)[1]
        records.append(usual)
        fixed.append(best)
    ones = np.ones((1, len(truth["images"])), np.float32)
    whole = [weighted_ap(r, ones)[0] for r in records]  # (C, T) each
    members, images = _members(split, records[0], options.by), records[0].class_images
    groups = groups_of(split)
    draws, points = _draw(records, members, options), _operating_points(records, groups, options)
    runs = []
    for i, (name, found) in enumerate(results.items()):
        values = {f: v[0] for f, v in _figures(whole[i][None], members).items()}
        enough = {f: enough_images(images[members.get(f, slice(None))]) for f in values}
        compared = {} if i == 0 else _compare((whole[0], whole[i]), (draws[0], draws[i]), members, images, options)
        runs.append(
            RunAnalysis(
                name,
                {f: interval(v, draws[i].figures[f], options.level, (0.0, 1.0), enough[f]) for f, v in values.items()},
                compared.get("figures", {}),
                whole[i].mean(axis=1),
                compared.get("classes"),
                {} if i == 0 else _mcnemar(records[0], records[i], groups, options, points[i]),
                _calibration(records[i], split),
                {f: float(v[0]) for f, v in _figures(weighted_ap(fixed[i], ones), members).items()},
                tide_errors(truth, found, iou_type, split.protocol),
                points[i],
            )
        )
    return runs


@dataclass(frozen=True)
class _Draws:
    """One run under all draws: figure -> (B,), and (B, C) AP of each class."""

    figures: dict[str, Array]
    ap: Array


def _draw(records: list[MatchRecords], members: Mapping[str, list[int]], options: Options) -> list[_Draws]:
    parts: list[list[_Draws]] = [[] for _ in records]
    for weights in image_weights(records[0].num_images, options.draws, options.seed):
        for mine, run in zip(parts, records, strict=True):  # the same weights for every run: differences are paired
            ap = weighted_ap(run, weights)
            mine.append(_Draws(_figures(ap, members), ap.mean(axis=2)))
    return [_join(mine, members, records[0].num_classes) for mine in parts]


def _join(parts: list[_Draws], members: Mapping[str, list[int]], classes: int) -> _Draws:
    empty = _Draws(dict.fromkeys(("AP", "AP50", "AP75", *members), np.zeros(0)), np.zeros((0, classes)))
    parts = parts or [empty]
    figures = {f: np.concatenate([p.figures[f] for p in parts]) for f in parts[0].figures}
    return _Draws(figures, np.concatenate([p.ap for p in parts]))


def _members(split: Split, records: MatchRecords, by: str) -> dict[str, list[int]]:
    """Labels that each tail and each group averages. They stay those of the whole split in every draw."""
    if split.counts is None:
        return dict(split.groups)
    result = _Scored(split.names, np.zeros(len(split.names)), np.diff(records.truth_bounds))
    return {f"tail{k}": tail_classes(result, split.counts, k, by)[0] for k in TAILS} | split.groups


@dataclass(frozen=True)
class _Scored:
    names: list[str]
    ap: Array
    gt_instances: NDArray[np.int64]


def _figures(ap: Array, members: Mapping[str, list[int]]) -> dict[str, Array]:
    """(B, C, T) AP to figures (B,); classes without a box in a draw are left out of its means."""
    by_class = ap.mean(axis=2)
    figures = {"AP": by_class, "AP50": ap[:, :, 0], "AP75": ap[:, :, 5]}
    figures |= {name: by_class[:, labels] for name, labels in members.items()}
    return {name: present_mean(values) for name, values in figures.items()}


def present_mean(values: Array) -> Array:
    """(B, K) -> (B,) means over what is not NaN."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1)


def _compare(
    whole: tuple[Array, Array],
    draws: tuple[_Draws, _Draws],
    members: Mapping[str, list[int]],
    images: NDArray[np.int64],
    options: Options,
) -> dict[str, Any]:
    """Intervals of the paired differences between two runs: ``figures``, and (C, 3) of the ``classes``."""
    first, mine = (_figures(ap[None], members) for ap in whole)
    figures = {
        f: interval(
            v[0] - first[f][0],
            draws[1].figures[f] - draws[0].figures[f],
            options.level,
            enough=enough_images(images[members.get(f, slice(None))]),
        )
        for f, v in mine.items()
    }
    change, drawn = (whole[1] - whole[0]).mean(axis=1), draws[1].ap - draws[0].ap
    return {"figures": figures, "classes": class_intervals(change, drawn, images, options.level)}


def class_intervals(values: Array, draws: Array, images: NDArray[np.int64], level: float) -> Array:
    """(C, 3) value, low and high of each class, from (B, C) draws; without an interval where images are few."""
    spans = [interval(v, draws[:, c], level, enough=enough_images(images[c : c + 1])) for c, v in enumerate(values)]
    return np.array([(span.value, span.low, span.high) for span in spans]).reshape(-1, 3)


def groups_of(split: Split) -> dict[str, NDArray[np.int64]]:
    """Labels of ``all`` classes and of each group."""
    groups = {ALL: np.arange(len(split.names))}
    return groups | {name: np.asarray(labels, np.int64) for name, labels in split.groups.items()}


def _operating_points(
    records: list[MatchRecords], groups: Mapping[str, NDArray[np.int64]], options: Options
) -> list[dict[str, OperatingPoint]]:
    """Of each run, by group: as many false alarms as the first run has, or fewer where scores are equal."""
    points: list[dict[str, OperatingPoint]] = [{} for _ in records]
    for group, labels in groups.items():
        alarms = [false_alarms(run, options.iou, labels) for run in records]
        allowed = int((alarms[0] >= options.score).sum())
        scores = [options.score, *(score_of_alarms(mine, allowed) for mine in alarms[1:])]
        for run, score, mine in zip(points, scores, alarms, strict=True):
            run[group] = OperatingPoint(score, int((mine >= score).sum()))
    return points


def _mcnemar(
    first: MatchRecords,
    second: MatchRecords,
    groups: Mapping[str, NDArray[np.int64]],
    options: Options,
    points: Mapping[str, OperatingPoint],
) -> dict[str, McNemar]:
    tests, a = {}, found_boxes(first, options.score, options.iou)
    for group, labels in groups.items():
        b, rows = found_boxes(second, points[group].score, options.iou), np.isin(first.truth_label, labels)
        tests[group] = mcnemar(a[rows], b[rows], first.truth_image[rows])
    return tests


def _calibration(records: MatchRecords, split: Split) -> dict[str, Reliability]:
    matches = records.matches(0.5)
    return {ALL: reliability(matches), **{n: reliability(matches, labels=v) for n, v in split.groups.items()}}


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
