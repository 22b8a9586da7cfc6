"""Precision over recall, and confidence against precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iifdet.errors import counted
from iifdet.plots.figure import (
    BLUE,
    COLOURS,
    GREEN,
    LINE_STYLES,
    RED,
    as_array,
    mean_of_finite,
    new_figure,
    number,
    save,
    say_nothing_to_show,
    shorten,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to this many classes every curve has a colour and a legend entry.
MAX_LEGEND = 10


def plot_pr_curve(recall: Any, precision: Any, names: Sequence[str], ap50: Any, path: str | Path) -> None:
    """Precision over recall at IoU 0.5: every class thin, their mean thick.

    Args:
        recall: (R,) recall thresholds.
        precision: (R, C); negative or NaN where a class has no ground truth, as COCO's evaluators say it.
        names: the C class names.
        ap50: (C,) AP at IoU 0.5; NaN or negative without ground truth.
        path: the picture.
    """
    recall, ap50 = as_array(recall), _without_negatives(as_array(ap50))
    precision = _without_negatives(as_array(precision)).reshape(len(recall), len(names))
    curves = np.flatnonzero(np.isfinite(precision).any(axis=0)) if len(recall) else np.array([], dtype=int)
    figure = new_figure(8, 6)
    ax = figure.subplots()
    missing = len(names) - len(curves)
    title = f"AP50 {number(mean_of_finite(ap50))}: mean of {counted(len(curves), 'class', 'classes')}"
    title += f", {missing} without ground truth" if missing else ""
    tidy(ax, title=title, xlabel="recall", ylabel="precision (IoU 0.5)", grid="both")
    ax.set(xlim=(0, 1.005), ylim=(0, 1.02))
    if len(curves):
        _draw_class_curves(ax, recall, precision[:, curves], [names[c] for c in curves], ap50[curves])
        mean = np.array([mean_of_finite(row) for row in precision[:, curves]])
        ax.plot(recall, mean, color=BLUE, linewidth=3, label=f"mean {number(mean_of_finite(ap50))}")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    else:
        say_nothing_to_show(ax, "no class has ground truth")
    save(figure, path)


def plot_reliability(
    conf_bins: Any, precision_bins: Any, n_bins: Any, ece: float, path: str | Path, least: float = 0.0
) -> None:
    """Precision of each confidence bin against its mean confidence, and how many detections it holds.

    Args:
        conf_bins: (B,) mean confidence of the detections in each of B equal bins of [0, 1]; NaN where empty.
        precision_bins: (B,) share of them that is right; NaN where empty.
        n_bins: (B,) how many they are.
        ece: expected calibration error.
        path: the picture.
        least: the score from which detections count.
    """
    confidence, precision, n = as_array(conf_bins), as_array(precision_bins), as_array(n_bins)
    figure = new_figure(6.5, 7)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    total = int(np.nansum(n))
    title = f"ECE {number(ece)} over {counted(total, 'detection')}{f' from score {least:g} on' if least else ''}"
    tidy(upper, title=title, ylabel="precision", grid="both")
    tidy(lower, xlabel="confidence", ylabel="detections (log)" if total else "detections")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.plot([0, 1], [0, 1], "--", color="#666666", label="perfectly calibrated")
    if total > 0:
        draw_reliability(upper, lower, confidence, precision, n)
    else:
        say_nothing_to_show(upper, "no detections")
    upper.legend(loc="upper left", fontsize=9, frameon=False)
    save(figure, path)


def _draw_class_curves(ax: Axes, recall: np.ndarray, precision: np.ndarray, names: list[str], ap50: np.ndarray) -> None:
    if len(names) <= MAX_LEGEND:
        for c, name in enumerate(names):
            label = f"{shorten(name)} {number(ap50[c])}"
            style = LINE_STYLES[c % len(LINE_STYLES)]
            ax.plot(recall, precision[:, c], style, color=COLOURS[(c + 1) % len(COLOURS)], linewidth=1.2, label=label)
        return
    from matplotlib.collections import LineCollection

    lines = [np.column_stack([recall, precision[:, c]]) for c in range(len(names))]
    alpha = max(0.06, min(0.6, 20 / len(names)))
    ax.add_collection(LineCollection(lines, colors="#777777", linewidths=0.8, alpha=alpha))
    order = np.argsort(np.where(np.isfinite(ap50), ap50, -1.0), kind="stable")
    for chosen, colour in ((order[-3:][::-1], GREEN), (order[:3][::-1], RED)):  # the best and the worst three
        for c, style in zip(chosen, LINE_STYLES, strict=False):
            label = f"{shorten(names[c])} {number(ap50[c])}"
            ax.plot(recall, precision[:, c], style, color=colour, linewidth=1.3, label=label)


def draw_reliability(
    upper: Axes, lower: Axes, confidence: np.ndarray, precision: np.ndarray, n: np.ndarray, what: str = "precision"
) -> None:
    """Bars of ``what`` and their gap to the mean confidence above, bars of the counts below; (B,) each."""
    width = 1 / len(n)
    centres = (np.arange(len(n)) + 0.5) * width
    full = (n > 0) & np.isfinite(confidence) & np.isfinite(precision)
    upper.bar(centres[full], precision[full], width * 0.94, color=BLUE, label=what)
    gap, base = np.abs(confidence - precision), np.minimum(confidence, precision)
    upper.bar(
        centres[full],
        gap[full],
        width * 0.94,
        base[full],
        color="none",
        edgecolor=RED,
        hatch="///",
        linewidth=1,
        label="gap to mean confidence",
    )
    lower.bar(centres, np.nan_to_num(n), width * 0.94, color=BLUE)
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.5)


def _without_negatives(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, np.nan, values)
