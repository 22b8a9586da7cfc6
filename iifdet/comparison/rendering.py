"""What a closer look found, as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from iifdet.comparison.results import IMAGES, OperatingPoint
from iifdet.evaluation import resampling
from iifdet.evaluation.curves import UNSURE
from iifdet.evaluation.fixed import FIXED
from iifdet.evaluation.resampling import Interval
from iifdet.evaluation.significance import LOWEST
from iifdet.evaluation.tide import ERRORS
from iifdet.tables import Table

if TYPE_CHECKING:
    from iifdet.comparison.results import Analysis, RunAnalysis

NONE = "–"


def analysis_tables(analysis: Analysis) -> list[Table]:
    """Intervals, McNemar's test, TIDE, Fixed AP and calibration; for boxes, then masks; of classifiers for images."""
    tables: list[Table] = []
    for kind, runs in analysis.kinds.items():
        tables += [
            *([_intervals(analysis, kind, runs)] if analysis.options.draws else []),
            *([_tests(analysis, kind, runs)] if len(runs) > 1 else []),
            *([_errors(kind, runs), _fixed(kind, runs)] if kind != IMAGES else []),
            _calibration(kind, runs),
        ]
    return tables


def _intervals(analysis: Analysis, kind: str, runs: list[RunAnalysis]) -> Table:
    options = analysis.options
    caption = (
        f"{kind}: percent [{options.level:.0%} interval from {options.draws} draws of "
        f"{analysis.split.images} images]; Δ: paired difference to {runs[0].name}, * where 0 is outside; no interval "
        f"where classes have fewer than {resampling.MEAN_IMAGES} images each "
        f"(harmonic mean; {resampling.CLASS_IMAGES} of one class)"
    )
    header = [
        "figure",
        *(title for run in runs for title in (run.name, *([f"Δ {run.name}"] if run.differences else []))),
    ]
    rows = []
    for figure in runs[0].figures:
        cells = [figure]
        for run in runs:
            cells.append(_span(run.figures[figure]))
            if run.differences:
                cells.append(_span(run.differences[figure], signed=True))
        rows.append(cells)
    return Table(caption, header, rows, 1, f"{kind}-intervals")


def _tests(analysis: Analysis, kind: str, runs: list[RunAnalysis]) -> Table:
    options, images = analysis.options, kind == IMAGES
    found = (
        f"boxes found at IoU {options.iou:g}, each run as far down as it has no more false alarms in the classes of "
        f"the row than {runs[0].name} from score {options.score:g} on; p by images allows for boxes of one image that "
        "are found together"
    )
    caption = f"{kind}: McNemar's test against {runs[0].name} on {'images classified right' if images else found}"
    header = [
        "run",
        "classes",
        *([] if images else [f"{runs[0].name} ≥", "this ≥", "false alarms"]),
        "both",
        f"only {runs[0].name}",
        "only this",
        "neither",
        "p",
    ]
    header += [] if images else ["p by images"]
    rows = [
        [
            run.name,
            group,
            *([] if images else _points(runs[0].points[group], run.points[group])),
            *(str(n) for n in (test.both, test.first, test.second, test.neither)),
            _p(test.p) + (" exact" if test.exact else ""),
            *([] if images else [_p(test.p_clustered)]),
        ]
        for run in runs[1:]
        for group, test in run.mcnemar.items()
    ]
    return Table(caption, header, rows, 2, f"{kind}-mcnemar")


def _points(first: OperatingPoint, this: OperatingPoint) -> list[str]:
    scores = ("all" if point.score == LOWEST else f"{point.score:.3f}" for point in (first, this))
    return [*scores, f"{this.alarms:,}"]


def _errors(kind: str, runs: list[RunAnalysis]) -> Table:
    caption = f"{kind}: AP50 in percent, and what it would gain without an error (TIDE); FP: ΔAP_FP"
    found = [(run.name, run.tide) for run in runs if run.tide is not None]
    rows = [[name, _percent(tide.ap50), *(_percent(tide.delta[error]) for error in ERRORS)] for name, tide in found]
    return Table(caption, ["run", "AP50", *ERRORS], rows, 1, f"{kind}-tide")


def _fixed(kind: str, runs: list[RunAnalysis]) -> Table:
    caption = (
        f"{kind}: Fixed AP in percent (the best {FIXED:,} of a class, no limit on an image); "
        "gains that vanish here were gains in ranking across classes"
    )
    figures = list(runs[0].fixed)
    rows = []
    for run in runs:
        changes = [run.fixed[f] - runs[0].fixed[f] for f in figures]
        rows.append(
            [
                run.name,
                *(
                    _percent(run.fixed[f]) + (f" ({100 * d:+.1f})" if run is not runs[0] and d == d else "")
                    for f, d in zip(figures, changes, strict=True)
                ),
            ]
        )
    return Table(caption, ["run", *figures], rows, 1, f"{kind}-fixed")


def _calibration(kind: str, runs: list[RunAnalysis]) -> Table:
    of = "(images in brackets)" if kind == IMAGES else f"at IoU 0.5 (detections from score {UNSURE:g} on in brackets)"
    caption = f"{kind}: expected calibration error in percent {of}"
    groups = list(runs[0].calibration)
    rows = [
        [run.name, *(f"{_percent(r.ece)} ({int(r.count.sum()):,})" for r in run.calibration.values())] for run in runs
    ]
    return Table(caption, ["run", *groups], rows, 1, f"{kind}-calibration")


def _span(span: Interval, signed: bool = False) -> str:
    if math.isnan(span.value):
        return NONE
    form = "{:+.1f}" if signed else "{:.1f}"
    text = form.format(100 * span.value)
    if math.isnan(span.low):
        return text
    outside = signed and not span.low <= 0 <= span.high
    return f"{text} [{form.format(100 * span.low)}, {form.format(100 * span.high)}]{'*' if outside else ''}"


def _percent(value: float) -> str:
    return NONE if math.isnan(value) else f"{100 * value:.1f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
