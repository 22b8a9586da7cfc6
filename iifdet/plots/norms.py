"""weight_norms.png: how long the classifier's rows are, from the most frequent class to the rarest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iifdet.longtail import ClassCounts
from iifdet.plots.classes import by_frequency
from iifdet.plots.figure import (
    COLOURS,
    LINE_STYLES,
    MAX_NAMES,
    as_array,
    name_classes,
    new_figure,
    number,
    save,
    say_nothing_to_show,
    shorten,
    tidy,
)


def plot_weight_norms(norms: Mapping[str, Any], counts: ClassCounts, path: str | Path, by: str = "image") -> None:
    """Norms of the class rows of one or several models, relative to their mean (the paper's Figure 5).

    Without an adjustment of the logits, rows that shorten towards the rare classes prefer the frequent ones.

    Args:
        norms: name of the model -> (C,) norms.
        counts: class counts of the training set, which rank the classes.
        path: the picture.
        by: ``"image"`` or ``"instance"``.
    """
    order = by_frequency(counts, by)
    named = len(order) <= MAX_NAMES
    figure = new_figure(min(14.0, max(9.0, 2 + 0.3 * len(order))) if named else 14.0, 5.2)
    ax = figure.subplots()
    table = {name: _relative(as_array(values))[order] for name, values in norms.items()}
    lead = "; ".join(f"{name} ρ {number(_rank_correlation(v), 2)}" for name, v in table.items())
    title = f"class rows, rank correlation of norm and frequency: {lead}" if lead else ""
    tidy(ax, title=title, ylabel="norm / mean norm", xlabel=f"classes, by number of training {by}s")
    if not table or len(order) == 0:
        say_nothing_to_show(ax, "no classifier rows")
    ax.axhline(1, color="#666666", linewidth=0.8)
    x = np.arange(len(order))
    for i, (name, values) in enumerate(table.items()):
        colour, style = COLOURS[i % len(COLOURS)], LINE_STYLES[i % len(LINE_STYLES)]
        label = shorten(name, 40)
        if named:
            ax.plot(x, values, "osD^vPX*"[i % 8], linestyle=style, color=colour, markersize=4, label=label)
            continue
        window = max(len(order) // 30, 5)
        sums, sizes = (np.convolve(v, np.ones(window), mode="same") for v in (values, np.ones(len(values))))
        ax.plot(x, values, ".", color=colour, markersize=2.5, alpha=0.35)
        ax.plot(x, sums / sizes, style, color=colour, linewidth=2, label=f"{label}, mean of {window} neighbours")
    if named and len(order):
        name_classes(ax, [counts.names[c] for c in order])
    ax.set_xlim(-0.7, max(len(order) - 0.3, 0.7))
    if table:
        figure.legend(loc="outside lower right", ncols=4, frameon=False, fontsize=9)
    save(figure, path)


def _relative(norms: np.ndarray) -> np.ndarray:
    mean = norms.mean() if len(norms) else 1.0
    return norms / mean if mean > 0 else np.full(len(norms), np.nan)


def _rank_correlation(values: np.ndarray) -> float:
    """Spearman's ρ with frequency; the values come most frequent first, and ties are as they come."""
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return float("nan")
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return float(-np.corrcoef(ranks, np.arange(len(values)))[0, 1])
