"""What a comparison leaves behind: tables as CSV, JSON, Markdown, pictures, and one HTML page of all."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from iifdet.comparison.results import Analysis, RunAnalysis
from iifdet.comparison.runs import Comparison
from iifdet.rundir import RunDir

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 2em auto; max-width: 1300px; padding: 0 1em }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1.2em 0; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .4em; color: #444 }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #888 }
.left { text-align: left } .right { text-align: right }
img { max-width: 100%; height: auto; display: block }
figure { margin: 1.5em 0 } figcaption { color: #444 }
.notice { background: #fff6dd; border-left: 4px solid #e69f00; padding: .4em .8em }
"""

#: Picture -> what to see in it.
CAPTIONS = {
    "difference": "Difference of each class to the first run, with intervals; most frequent class first.",
    "intervals": "Figures with bootstrap intervals over images.",
    "errors": "What AP50 would gain without each kind of error (TIDE); FP is ΔAP_FP.",
    "reliability": "Precision (of boxes at IoU 0.5) or accuracy over confidence, by frequency group too.",
    "norms": "Norms of the classifier's rows relative to their mean, as stored: without an adjustment of the logits.",
}


def write_report(found: Comparison, run: RunDir, norms: Sequence[Any] = (), *, plots: bool = True) -> Comparison:
    """Write report.html, compare.json, compare.csv, classes.csv, compare.md and, with ``plots``, the pictures.

    Args:
        found: the comparison.
        run: the folder.
        norms: (C,) norms of the class rows of each run, None where unknown.
        plots: pictures too.

    Returns:
        The comparison, which now knows its folder.
    """
    run.write_json("compare.json", to_values(found))
    run.write_rows("compare.csv", figure_rows(found))
    if found.analysis is not None:
        run.write_rows("classes.csv", class_rows(found.analysis))
    run.write_text("compare.md", found.markdown() + "\n")
    pictures = draw_pictures(found, run.path, norms) if plots else []
    run.write_text("report.html", to_html(found, pictures))
    return replace(found, folder=run.path)


def to_values(found: Comparison) -> dict[str, Any]:
    """Everything as plain values."""
    runs = [
        {"name": r.name, "settings": r.settings, "percent": r.values, "differences": r.differences} for r in found.rows
    ]
    analysis = {} if found.analysis is None else found.analysis.plain_values()
    return {"by": found.by, "notices": found.notices, "runs": runs, **analysis}


def figure_rows(found: Comparison) -> list[dict[str, Any]]:
    """One row a run and figure, in percent: value, interval, difference to the first run, its interval."""
    if found.analysis is None:
        return [
            {"run": r.name, "kind": "", "figure": figure, "value": value, "difference": r.differences[figure]}
            for r in found.rows
            for figure, value in r.values.items()
        ]
    rows = []
    for kind, runs in found.analysis.kinds.items():
        for one in runs:
            for figure, span in one.figures.items():
                values = {"value": span.value, "low": span.low, "high": span.high}
                change = one.differences.get(figure)
                if change is not None:
                    values |= {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
                rows.append({"run": one.name, "kind": kind, "figure": figure, **_percents(values)})
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def class_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """One row a class: training counts, AP or accuracy of each run in percent, differences to the first, intervals."""
    split, rows = analysis.split, []
    for c, name in enumerate(split.names):
        row: dict[str, Any] = {"class": c, "name": name}
        if split.counts is not None:
            row |= {"train_images": int(split.counts.images[c]), "train_instances": int(split.counts.instances[c])}
        for kind, runs in analysis.kinds.items():
            for run in runs:
                row |= _class_values(run, c, f"{run.name} {'mask ' if kind == 'masks' else ''}", analysis.measure)
        rows.append(row)
    return rows


def _class_values(run: RunAnalysis, c: int, prefix: str, measure: str) -> dict[str, Any]:
    values = {f"{prefix}{measure}": run.per_class[c]}
    if run.class_differences is not None:
        names = ("difference", "difference_low", "difference_high")
        values |= {f"{prefix}{n}": v for n, v in zip(names, run.class_differences[c], strict=True)}
    return _percents(values)


def _percents(values: dict[str, Any]) -> dict[str, float | None]:
    return {k: None if v != v else round(100 * float(v), 4) for k, v in values.items()}


def draw_pictures(found: Comparison, folder: Path, norms: Sequence[Any] = ()) -> list[Path]:
    """Draw what there is to draw, and name the files; a picture that fails is logged and left out."""
    from iifdet import plots
    from iifdet.pictures import quietly

    analysis = found.analysis
    drawn: list[Path] = []

    def draw(name: str, plot: Callable[..., None], *values: Any, **look: Any) -> None:
        path = folder / f"{name}.png"
        quietly(functools.partial(plot, **look), *values, path)  # a bad picture costs no report
        drawn.append(path)

    if analysis is None:
        return []
    split = analysis.split
    for kind, runs in analysis.kinds.items():
        prefix = "mask_" if kind == "masks" else ""
        for i, run in enumerate(runs[1:], start=2):
            name = f"{prefix}difference{'' if len(runs) == 2 else f'_{i}'}"
            look = {"counts": split.counts, "groups": split.groups, "level": analysis.options.level, "by": found.by}
            look |= {"title": f"{run.name} − {runs[0].name} ({kind})", "measure": analysis.measure}
            draw(name, plots.plot_differences, run.class_differences, split.names, **look)
        spans = {r.name: {f: (s.value, s.low, s.high) for f, s in r.figures.items()} for r in runs}
        draw(f"{prefix}intervals", plots.plot_intervals, spans, level=analysis.options.level)
        errors = {r.name: r.tide.delta for r in runs if r.tide is not None}
        if errors:
            draw(f"{prefix}errors", plots.plot_errors, errors)
        what = "precision" if analysis.measure == "AP" else "accuracy"
        draw(f"{prefix}reliability", plots.plot_reliabilities, {r.name: r.calibration for r in runs}, what=what)
    known = {r.name: values for r, values in zip(analysis.runs, norms, strict=False) if values is not None}
    if known and split.counts is not None:
        draw("weight_norms", plots.plot_weight_norms, known, split.counts, by=found.by)
    return drawn


def to_html(found: Comparison, pictures: Sequence[Path]) -> str:
    """One page without any other file: tables, and pictures as data URLs."""
    heading = " and ".join(row.name for row in found.rows)
    parts = [f"<h1>{escape(heading)}</h1>"]
    parts += [f'<p class="notice">{escape(notice)}</p>' for notice in found.notices]
    parts += [f'<div class="wide">{table.html()}</div>' for table in found.tables()]
    parts += [_figure(path) for path in pictures if path.is_file()]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = next((words for name, words in CAPTIONS.items() if name in path.stem), path.stem)
    text = f"Masks: {text}" if path.stem.startswith("mask_") else text
    return (
        f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )
