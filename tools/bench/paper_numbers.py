"""What the IIF paper published of its classification tables, and tables with it beside what was measured."""

from __future__ import annotations

import statistics
from typing import Any

FIGURES = ("top1", "mean_class", "many", "medium", "few", "ece", "nll")
#: Published top-1 accuracies, percent: IIF paper, Tables V to X, imbalance 100.
PUBLISHED: dict[str, dict[str, float]] = {
    "cifar10-lt": {
        "softmax": 78.6,
        "iif-csl": 79.7,
        "post-process raw": 83.2,
        "post-process base2": 83.2,
        "post-process base10": 83.2,
        "post-process smooth": 84.0,
        "post-process relative": 77.2,
        "post-process gombit": 81.2,
        "post-process normit": 77.4,
        "post-process la": 78.9,
        "la-loss": 79.1,
        "norcal": 77.8,
        "hybrid-sc": 81.4,
        "hybrid-psc": 78.8,
        "bbn": 79.2,
        "ldam-drw": 77.0,
        "ldam-drw-rsg": 79.6,
        "mislas": 82.1,
        "decoupled raw": 84.1,
        "decoupled smooth": 84.6,
        "decoupled relative": 81.2,
        "decoupled base2": 84.1,
        "decoupled base10": 84.4,
        "decoupled gombit": 82.9,
        "decoupled normit": 80.5,
    },
    "cifar100-lt": {
        "softmax": 43.0,
        "iif-csl": 40.1,
        "post-process raw": 48.0,
        "post-process base2": 48.0,
        "post-process base10": 48.0,
        "post-process smooth": 48.3,
        "post-process relative": 47.9,
        "post-process gombit": 48.0,
        "post-process normit": 48.2,
        "post-process la": 43.2,
        "la-loss": 43.0,
        "dro-lt-decoupled": 47.3,
        "tailcalibx": 46.6,
        "cbd": 44.8,
        "dive": 45.4,
        "hybrid-sc": 46.7,
        "hybrid-psc": 45.0,
        "bbn": 42.6,
        "ride": 47.0,
        "ldam-drw": 42.0,
        "ldam-drw-rsg": 44.6,
        "lade": 45.4,
        "mislas": 47.0,
        "decoupled raw": 48.9,
        "decoupled smooth": 48.8,
        "decoupled relative": 48.8,
        "decoupled base2": 48.9,
        "decoupled base10": 48.9,
        "decoupled gombit": 49.0,
        "decoupled normit": 48.6,
    },
    "imagenet-lt": {
        "softmax": 52.2,
        "iif-csl": 52.0,
        "post-process raw": 56.0,
        "post-process base2": 56.0,
        "post-process base10": 56.0,
        "post-process smooth": 55.9,
        "post-process relative": 56.0,
        "post-process gombit": 56.0,
        "post-process normit": 55.3,
        "post-process la": 50.3,
        "la-loss": 51.1,
        "dro-lt-decoupled": 53.5,
        "cbd": 51.6,
        "norcal": 49.7,
        "ride": 54.4,
        "crt": 47.3,
        "lws": 47.7,
        "mislas": 52.7,
        "disalign": 52.9,
        "decoupled raw": 56.0,
        "decoupled smooth": 55.8,
        "decoupled relative": 56.0,
        "decoupled base2": 55.9,
        "decoupled base10": 56.0,
        "decoupled gombit": 55.9,
        "decoupled normit": 55.1,
    },
    "imagenet-lt-x50": {
        "softmax": 52.8,
        "dive": 53.1,
        "tde": 51.8,
        "eql": 46.0,
        "seesaw": 50.4,
        "ride": 55.9,
        "crt": 49.6,
        "lws": 49.9,
        "lade": 53.0,
        "disalign": 53.4,
        "decoupled smooth": 56.2,
    },
    "places-lt": {
        "softmax": 31.1,
        "oltr": 35.9,
        "crt": 36.7,
        "lws": 37.6,
        "bsce": 38.7,
        "lade": 38.8,
        "disalign": 39.3,
        "decoupled smooth": 40.2,
    },
}


def table(name_of_data: str, seeds: dict[str, Any]) -> dict[str, Any]:
    """Row -> published, and mean and spread over the seeds of the last and the best epoch."""
    published = PUBLISHED.get(name_of_data, {})
    names = dict.fromkeys([*published, *(n for rows in seeds.values() for n, r in rows.items() if isinstance(r, dict))])
    found: dict[str, Any] = {}
    for name in names:
        rows = [r[name] for r in seeds.values() if isinstance(r.get(name), dict) and "last" in r[name]]
        if not rows:
            continue
        last = [r["last"]["top1"] for r in rows]
        best = [r["best"]["top1"] for r in rows if "best" in r]
        found[name] = {
            "published": published.get(name),
            "mean": round(statistics.mean(last), 2),
            "spread": round(statistics.stdev(last), 2) if len(last) > 1 else None,
            "best_mean": round(statistics.mean(best), 2) if best else None,
            "seeds": last,
            **{k: _mean([r["last"][k] for r in rows]) for k in ("many", "medium", "few", "ece")},
        }
    return found


def _mean(values: list[float | None]) -> float | None:
    """None where there is no such class."""
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), 2) if known else None


def lines(rows: dict[str, Any]) -> str:
    """The table as Markdown."""
    columns = ("published", "mean", "spread", "best_mean", "many", "medium", "few", "ece")
    head = ["row", "published", "measured (last)", "spread", "best epoch", "many", "medium", "few", "ECE"]
    body = [[name, *("" if row[c] is None else str(row[c]) for c in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *body])
