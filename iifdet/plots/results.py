"""results.png: how losses, learning rate and accuracy went over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iifdet.plots.figure import COLOURS, LINE_STYLES, new_figure, number, save, say_nothing_to_show, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panels = dict[str, Callable[[str], bool]]

#: Title of a panel -> whether a column, by its name without prefix such as ``metrics/``, belongs there.
TRAINING: Panels = {
    "loss": lambda name: "loss" in name,
    "learning rate": lambda name: name.startswith("lr"),
}
#: The panels of accuracies, of detectors and of classifiers.
DETECTION: Panels = {
    "AP": lambda name: name.startswith(("ap", "map", "mask")),
    "tail": lambda name: name.startswith("tail"),
}
CLASSIFICATION: Panels = {
    "accuracy": lambda name: name in ("top1", "mean_class"),
    "groups": lambda name: name in ("many", "medium", "few"),
}


def plot_results(rows: Sequence[Mapping[str, Any]], path: str | Path, measured_on: str = "") -> None:
    """One panel each for loss parts, learning rate, AP and tails, over the epochs; of classifiers accuracy and groups.

    Args:
        rows: the rows of results.csv, values as numbers or text; what is missing or no number is left out.
        path: the picture.
        measured_on: images that the accuracies are of, where the run's own figures are of others.
    """
    columns = {key: np.array([_to_float(row.get(key)) for row in rows]) for key in _keys(rows)}
    epochs = columns.get("epoch", np.arange(len(rows), dtype=float))
    accuracies = CLASSIFICATION if any(_short(key) == "top1" for key in columns) else DETECTION
    figure = new_figure(12, 7.5)
    for ax, (panel, belongs) in zip(figure.subplots(2, 2).flat, (TRAINING | accuracies).items(), strict=True):
        curves = {k: v for k, v in columns.items() if belongs(_short(k).lower()) and np.isfinite(v).any()}
        where = f"on {measured_on}" if measured_on and panel in accuracies else ""
        tidy(ax, title=_panel_title(panel, curves, epochs), xlabel="epoch", ylabel=where, grid="both")
        _draw_panel(ax, epochs, curves)
    save(figure, path)


def _draw_panel(ax: Axes, epochs: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    if not curves:
        say_nothing_to_show(ax, "not recorded")
        ax.set_xticks([])
        ax.set_yticks([])
        return
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) <= 30 else None
    for i, (key, values) in enumerate(curves.items()):
        style = LINE_STYLES[i // len(COLOURS) % len(LINE_STYLES)]
        colour = COLOURS[i % len(COLOURS)]
        known = np.isfinite(values)  # accuracies may be measured every few epochs only: join what there is
        ax.plot(
            epochs[known], values[known], style, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=key
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    shown = epochs[np.isfinite(epochs)]
    if len(shown):
        ax.set_xlim(shown.min() - 0.5, shown.max() + 0.5)  # one epoch alone would get ticks between epochs
    every = np.concatenate(list(curves.values()))
    every = every[np.isfinite(every)]
    if every.min() > 0 and every.max() > 50 * every.min() and "loss" in " ".join(curves):
        ax.set_yscale("log")
        ax.set_ylim(top=every.max() * (every.max() / every.min()) ** 0.4)  # the legend stands above the curves
    elif every.min() >= 0:
        ax.set_ylim(0, 1.08 * max(every.max(), 1e-9))
    ax.legend(fontsize=8, frameon=False, ncols=1 + len(curves) // 6)


def _panel_title(panel: str, curves: Mapping[str, np.ndarray], epochs: np.ndarray) -> str:
    """The panel's first curve in figures: its last value, and for accuracies its best one."""
    if not curves:
        return panel
    key = panel if panel in curves else next(iter(curves))  # the total loss rather than its first part
    values = curves[key]
    finite = np.flatnonzero(np.isfinite(values))
    name = panel if key == panel else f"{panel}: {key}"
    text = f"{name} ends at {values[finite[-1]]:.4g}"
    if panel not in TRAINING:
        best = finite[np.argmax(values[finite])]
        text = f"{name} ends at {number(values[finite[-1]])}, best {number(values[best])} (epoch {epochs[best]:g})"
    return text


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _short(key: str) -> str:
    """``metrics/AP50`` -> ``AP50``; ``train/loss_box`` -> ``loss_box``; ``tail5/image`` stays."""
    prefix, _, rest = key.partition("/")
    return rest if rest and prefix.lower() in ("metrics", "train", "val", "loss") and prefix != "loss" else key


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
