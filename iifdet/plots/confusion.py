"""confusion_matrix.png: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iifdet.plots.figure import DPI, MAX_NAMES, as_array, new_figure, save, say_nothing_to_show, shorten, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to this many rows every cell shows its percentage.
MAX_CELL_TEXT = 40
#: How many confusions the list beside the matrix names.
LISTED = 12


def plot_confusion(matrix: Any, names: Sequence[str], path: str | Path, order: Sequence[int] | None = None) -> None:
    """Confusion matrix in percent of each row, with the most frequent confusions spelled out beside it.

    Args:
        matrix: (C+1, C+1) counts; rows are true classes, columns predicted ones, the last of each is background:
            the last column holds missed objects, the last row false alarms.
        names: the C class names.
        path: the picture.
        order: the C classes in the order they are drawn; most frequent first shows what the tail is taken for.
    """
    counts = np.nan_to_num(as_array(matrix)).reshape(len(names) + 1, len(names) + 1)
    if order is not None:
        rows = [*order, len(names)]
        counts, names = counts[np.ix_(rows, rows)], [names[c] for c in order]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [*(shorten(name, 20) for name in names), "background"]
    side = min(max(5.0, 1.5 + 0.27 * len(labels)), 12.0)
    figure = new_figure(side + 4.8, side + 0.8)
    ax, text = figure.subplots(1, 2, width_ratios=[side, 2.8])
    tidy(ax, title=_title(counts), xlabel="predicted", ylabel="true", grid="")
    # Below one pixel a class a plain picture would drop rows: keep the strongest confusion of each block instead.
    # The square root of the share lets rare confusions show.
    block = -(-len(labels) // int(side * DPI * 0.8))
    extent = (-0.5, len(labels) - 0.5, len(labels) - 0.5, -0.5)
    image = ax.imshow(
        np.sqrt(_strongest(share, block)),
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=extent,
        interpolation="nearest",
        aspect="auto",
    )
    bar = figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01)
    bar.set_ticks([0, 0.1**0.5, 0.5, 0.5**0.5, 1], labels=["0 %", "10 %", "25 %", "50 %", "100 %"])
    if len(labels) <= MAX_NAMES + 1:
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        ax.set_yticks(range(len(labels)), labels, fontsize=8)
    if len(labels) <= MAX_CELL_TEXT:
        _write_cells(ax, share)
    text.axis("off")
    _list_confusions(text, counts, share, labels)
    save(figure, path)


def _title(counts: np.ndarray) -> str:
    objects, false_alarms = counts[:-1].sum(), int(counts[-1, :-1].sum())
    right, missed = np.trace(counts[:-1, :-1]), counts[:-1, -1].sum()
    if objects == 0:
        return f"no objects; {false_alarms:,} false alarms"
    wrong = objects - right - missed
    return (
        f"{int(objects):,} objects: {right / objects:.0%} right, {wrong / objects:.0%} wrong class, "
        f"{missed / objects:.0%} missed; {false_alarms:,} false alarms"
    )


def _strongest(share: np.ndarray, block: int) -> np.ndarray:
    """Maximum over blocks of block x block cells."""
    if block <= 1:
        return share
    pad = -len(share) % block
    padded = np.pad(share, (0, pad))
    size = len(padded) // block
    return padded.reshape(size, block, size, block).max(axis=(1, 3))


def _write_cells(ax: Axes, share: np.ndarray) -> None:
    size = 8 if len(share) <= 16 else 5.5
    for row, column in np.argwhere(share >= 0.005):
        value = share[row, column]
        colour = "white" if value > 0.35 else "black"
        ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=colour)


def _list_confusions(ax: Axes, counts: np.ndarray, share: np.ndarray, labels: Sequence[str]) -> None:
    """The most frequent confusions between two classes, in words; misses and false alarms are in the title."""
    between = counts[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind="stable")[:LISTED]
    lines = [
        f"{labels[row]}\n   as {labels[column]}: {int(between[row, column]):,} ({share[row, column]:.0%})"
        for row, column in zip(*np.unravel_index(order, between.shape), strict=True)
        if between[row, column] > 0
    ]
    if not lines:
        say_nothing_to_show(ax, "no confusion\nbetween classes")
        return
    ax.set_title("Most frequent confusions", loc="left", fontsize=10)
    ax.text(0, 0.99, "\n\n".join(lines), transform=ax.transAxes, va="top", fontsize=9).set_in_layout(False)
