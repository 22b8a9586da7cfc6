"""What a study leaves behind: trials.csv, best.yaml, pictures and a page."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import optuna
import yaml

from iifdet import plots
from iifdet.rundir import RunDir
from iifdet.tuning.results import Found, StudyResult

log = logging.getLogger("iifdet")

#: Makes the recipe of a trial.
MakeRecipe = Callable[[Found], Mapping[str, Any]]

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 2em auto; max-width: 1200px; padding: 0 1em }
.wide { overflow-x: auto } pre { background: #f4f4f4; padding: .7em 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; white-space: nowrap; text-align: right }
img { max-width: 100%; height: auto; display: block }
"""


def write_tables(result: StudyResult, rows: Sequence[Mapping[str, Any]], make_recipe: MakeRecipe) -> None:
    """trials.csv, summary.json, and best.yaml once a trial is complete; of several objectives the front as well."""
    run = RunDir(result.folder)
    run.write_rows("trials.csv", [dict(row) for row in rows])
    run.write_json("summary.json", to_values(result))
    for i, found in enumerate(result.best):
        text = _recipe_text(result, found, make_recipe)
        if i == 0:
            run.write_text("best.yaml", text)
        if len(result.objectives) > 1:
            run.write_text(f"front/{found.number:04}.yaml", text)


def to_values(result: StudyResult) -> dict[str, Any]:
    """The result as plain values."""
    return {
        "study": result.study,
        "storage": result.storage,
        "objectives": list(result.objectives),
        "tuned_on": result.tuned_on,
        "trials": result.counts,
        "failures": [{"trial": n, "reason": reason} for n, reason in result.failures],
        "best": [{"trial": f.number, "values": f.values, "keys": f.params, "figures": f.figures} for f in result.best],
        "epochs": {"trained": result.epochs[0], "without_pruning": result.epochs[1]},
        "apply": result.apply,
        "val": result.val,
        "reported": result.reported,
    }


def _recipe_text(result: StudyResult, found: Found, make_recipe: MakeRecipe) -> str:
    """A recipe with a note where it comes from; the same stands in its key ``tuned``, which goes with every run."""
    values = ", ".join(f"{name} {value:.4f}" for name, value in found.values.items())
    head = f"# Trial {found.number} of {result.study}: {values} on {result.tuned_on}.\n"
    return head + yaml.safe_dump(dict(make_recipe(found)), sort_keys=False)


def write_page(result: StudyResult, study: optuna.Study, rows: Sequence[Mapping[str, Any]], *, pictures: bool) -> None:
    """The pictures, and summary.html with all that there is to see, without any other file."""
    drawn = plots.plot_study(study, result.folder, result.objectives) if pictures and result.succeeded else []
    best = result.folder / "best.yaml"
    parts = [f"<h1>{escape(result.study)}</h1>", f"<pre>{escape(chr(10).join(result.lines()))}</pre>"]
    parts += [f"<h2>best.yaml</h2><pre>{escape(best.read_text())}</pre>"] if best.is_file() else []
    parts += [f"<h2>{escape(path.stem)}</h2>{_image(path)}" for path in drawn]
    parts += [f'<h2>Trials</h2><div class="wide">{_table(rows)}</div>']
    RunDir(result.folder).write_text(
        "summary.html",
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(result.study)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n",
    )


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(c))}</td>" for c in columns) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return escape("" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
