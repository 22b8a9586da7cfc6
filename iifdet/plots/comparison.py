"""Pictures of a comparison: differences by class, intervals, kinds of errors, calibration by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iifdet.errors import counted
from iifdet.longtail import ClassCounts
from iifdet.plots.classes import by_frequency
from iifdet.plots.figure import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    LINE_STYLES,
    MAX_NAMES,
    RED,
    as_array,
    mean_of_finite,
    name_classes,
    new_figure,
    number,
    save,
    say_nothing_to_show,
    shorten,
    tidy,
)
from iifdet.plots.tail import shade_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Marks of the runs, so that they are told apart without colour too.
MARKERS = "osD^vPX*"


def plot_differences(
    differences: Any,
    names: Sequence[str],
    path: str | Path,
    counts: ClassCounts | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    *,
    title: str = "second run − first run",
    level: float = 0.95,
    by: str = "image",
    measure: str = "AP",
) -> None:
    """Difference in AP or accuracy of each class between two runs, over its frequency rank in training.

    Args:
        differences: (C, 3) difference, and the interval's low and high end; NaN where a class has no ground truth.
        names: the C class names.
        path: the picture.
        counts: class counts of the training set, which rank the classes; without them the class order does.
        groups: name -> class indices.
        title: which run minus which.
        level: what the intervals hold.
        by: ``"image"`` or ``"instance"``: the counts that rank the classes.
        measure: what the difference is in.
    """
    table = 100 * as_array(differences).reshape(-1, 3)
    ranks = np.arange(len(table)) if counts is None else by_frequency(counts, by)
    order = np.array([c for c in ranks if np.isfinite(table[c, 0])], dtype=int)
    named = len(order) <= MAX_NAMES
    figure = new_figure(min(14.0, max(9.0, 2 + 0.3 * len(order))) if named else 14.0, 6)
    ax = figure.subplots()
    xlabel = "classes" if counts is None else f"classes, by number of training {by}s"
    tidy(
        ax,
        title=_difference_title(title, table[order], level),
        ylabel=f"difference in {measure} (points)",
        xlabel=xlabel,
    )
    if len(order) == 0:
        say_nothing_to_show(ax, "no class has ground truth")
        save(figure, path)
        return
    bottom, top = _difference_limits(table[order] if named else table[order, :1])
    ax.set(xlim=(-0.7, len(order) - 0.3), ylim=(bottom, top))
    shade_groups(ax, order, table[:, 0], groups or {}, top - 0.01 * (top - bottom), "{:+.1f}")
    ax.axhline(0, color="#666666", linewidth=0.8)
    (_draw_spans if named else _draw_cloud)(ax, table[order])
    if named:
        name_classes(ax, [names[c] for c in order])
    figure.legend(loc="outside lower right", ncols=4, frameon=False, fontsize=9)
    save(figure, path)


def _sides(table: np.ndarray) -> dict[str, np.ndarray]:
    """Which classes are surely better, surely worse, neither, or have too few images to tell."""
    better, worse, unknown = table[:, 1] > 0, table[:, 2] < 0, np.isnan(table[:, 1])
    return {"better": better, "worse": worse, "interval holds 0": ~(better | worse | unknown), "no interval": unknown}


SIDE_LOOKS = {
    "better": (BLUE, "^"),
    "worse": (RED, "v"),
    "interval holds 0": (GREY, "o"),
    "no interval": (GREY, "x"),
}


def _difference_title(title: str, table: np.ndarray, level: float) -> str:
    """Of many classes some lie outside their intervals by chance alone; the title says how many to expect at least."""
    if not len(table):
        return title
    sides, judged = _sides(table), int(np.isfinite(table[:, 1]).sum())
    mean = f"{title}: mean {mean_of_finite(table[:, 0]):+.1f} points over {counted(len(table), 'class', 'classes')}"
    if not judged:
        return f"{mean}; no intervals"
    better, worse = int(sides["better"].sum()), int(sides["worse"].sum())
    chance = f"{(1 - level) * judged:.2g} or more by chance"
    return f"{mean}; {level:.0%} intervals without 0: {better} better, {worse} worse of {judged} ({chance})"


def _difference_limits(table: np.ndarray) -> tuple[float, float]:
    """Room for what is drawn, and for the groups' names above it."""
    ends = table[np.isfinite(table)]
    low, high = min(float(ends.min()), -1.0), max(float(ends.max()), 1.0)
    return low - 0.05 * (high - low), high + 0.22 * (high - low)


def _draw_spans(ax: Axes, table: np.ndarray) -> None:
    x = np.arange(len(table))
    for side, inside in _sides(table).items():
        if not inside.any():
            continue
        colour, marker = SIDE_LOOKS[side]
        value, low, high = table[inside].T
        ax.vlines(x[inside], low, high, color=colour, linewidth=1.6)
        label = f"{side} ({int(inside.sum())})"
        ax.plot(x[inside], value, marker, color=colour, markersize=6, linestyle="none", label=label)


def _draw_cloud(ax: Axes, table: np.ndarray) -> None:
    """Too many classes for intervals: points, those beyond chance stronger, and the mean of neighbours."""
    x = np.arange(len(table))
    for side, inside in reversed(_sides(table).items()):
        colour, marker = SIDE_LOOKS[side]
        size, alpha = (3, 0.35) if side not in ("better", "worse") else (5, 0.9)
        label = f"{side} ({int(inside.sum())})"
        ax.plot(
            x[inside],
            table[inside, 0],
            marker,
            color=colour,
            markersize=size,
            alpha=alpha,
            linestyle="none",
            label=label,
        )
    window = max(len(table) // 30, 5)
    sums, sizes = (np.convolve(v, np.ones(window), mode="same") for v in (table[:, 0], np.ones(len(table))))
    ax.plot(x, sums / sizes, color=BLACK, linewidth=1.8, label=f"mean of {window} neighbours")


def plot_intervals(runs: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, *, level: float = 0.95) -> None:
    """Figures of several runs with their intervals, one row a figure.

    Args:
        runs: name of the run -> figure -> (value, low, high), fractions; NaN for unknown.
        path: the picture.
        level: what the intervals hold, for the title.
    """
    figures = list(dict.fromkeys(f for values in runs.values() for f in values))
    spread = 0.24
    figure = new_figure(9, max(3.5, 1.6 + len(figures) * (0.25 + spread * len(runs))))
    ax = figure.subplots()
    first = next(iter(runs.values()), {})
    lead = ", ".join(f"{name} {number(100 * next(iter(v.values()), [np.nan])[0], 1)}" for name, v in runs.items())
    tidy(
        ax,
        title=f"{next(iter(first))} {lead}" if first else "",
        xlabel=f"percent, with {level:.0%} intervals",
        grid="x",
    )
    if not figures:
        say_nothing_to_show(ax, "no figures")
    for i, (name, values) in enumerate(runs.items()):
        table = 100 * np.array([values.get(f, (np.nan,) * 3) for f in figures], float).reshape(-1, 3)
        y = np.arange(len(figures)) + spread * (i - (len(runs) - 1) / 2)
        colour = COLOURS[i % len(COLOURS)]
        ax.hlines(y, table[:, 1], table[:, 2], color=colour, linewidth=2)
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(
            table[:, 0], y, marker, color=colour, markersize=6, linestyle="none", label=shorten(name, 40), clip_on=False
        )
    ax.set_yticks(range(len(figures)), figures)
    ax.set_ylim(len(figures) - 0.4, -0.6)  # the first figure at the top
    ax.set_xlim(left=0)
    if runs:
        figure.legend(loc="outside lower center", ncols=min(len(runs), 3), frameon=False, fontsize=9)
    save(figure, path)


def plot_errors(runs: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """AP50 that each run would gain without one kind of error (TIDE), side by side.

    Args:
        runs: name of the run -> kind of error -> gain, a fraction.
        path: the picture.
    """
    kinds = list(dict.fromkeys(k for values in runs.values() for k in values))
    figure = new_figure(9, 4.8)
    ax = figure.subplots()
    lead = ", ".join(f"{name} {number(100 * v['FP'], 1)}" for name, v in runs.items() if "FP" in v)
    title = f"ΔAP_FP {lead}" if lead else ""
    tidy(
        ax,
        title=title,
        ylabel="AP50 to be gained (points)",
        xlabel="kind of error; FP, FN: all false positives, negatives",
    )
    if not kinds:
        say_nothing_to_show(ax, "no errors")
    width = 0.8 / max(len(runs), 1)
    for i, (name, values) in enumerate(runs.items()):
        heights = [100 * values.get(k, np.nan) for k in kinds]
        x = np.arange(len(kinds)) + width * (i - (len(runs) - 1) / 2)
        colour, hatch = COLOURS[i % len(COLOURS)], ("", "///", "...", "xxx", "\\\\\\")[i % 5]
        ax.bar(x, heights, width * 0.92, color=colour, hatch=hatch, edgecolor="white", label=shorten(name, 40))
        for place, height in zip(x, heights, strict=True):
            if len(runs) <= 3 and np.isfinite(height):
                ax.text(place, height, f"{height:.1f}", ha="center", va="bottom", fontsize=7)
    ax.set_xticks(range(len(kinds)), kinds)
    if runs:
        ax.legend(frameon=False, fontsize=9)
    save(figure, path)


def plot_reliabilities(runs: Mapping[str, Mapping[str, Any]], path: str | Path, *, what: str = "precision") -> None:
    """Precision, or what else it is, over confidence of several runs, a panel for all classes and for each group.

    Args:
        runs: name of the run -> group -> Reliability (``confidence``, ``precision``, ``count``, ``ece``).
        path: the picture.
        what: name of the share that is right: ``accuracy`` of classifiers.
    """
    groups = list(dict.fromkeys(g for values in runs.values() for g in values)) or [""]
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    figure = new_figure(max(6.5, 3.4 * columns), 3.9 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in panels.flat[len(groups) :]:
        ax.axis("off")
    for ax, group in zip(panels.flat, groups, strict=False):
        lines = {name: values[group] for name, values in runs.items() if group in values}
        eces = ", ".join(number(100 * r.ece, 1) for r in lines.values())
        tidy(ax, title=f"{group}: ECE {eces} %" if lines else "", xlabel="confidence", grid="both")
        ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
        if any(np.nansum(as_array(r.count)) for r in lines.values()):
            ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        else:
            say_nothing_to_show(ax, "nothing found")
        for i, (name, r) in enumerate(lines.items()):
            look = COLOURS[i % len(COLOURS)], LINE_STYLES[i % len(LINE_STYLES)], MARKERS[i % len(MARKERS)]
            label = shorten(name, 40) if ax is panels.flat[0] else None
            known = np.isfinite(as_array(r.confidence))
            x, y = as_array(r.confidence)[known], as_array(r.precision)[known]
            (line,) = ax.plot(x, y, color=look[0], linestyle=look[1], marker=look[2], markersize=4, label=label)
            line.set_clip_on(not len(x))  # markers on the border are whole; without any, the layout would collapse
    for ax in panels[:, 0]:
        ax.set_ylabel(what)
    if runs:
        figure.legend(loc="outside lower center", ncols=min(len(runs), 3), frameon=False, fontsize=9)
    save(figure, path)
