"""confusion_matrix.png: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iifdet.plots.figure import DPI, MAX_NAMES, as_array, new_figure, save, say_nothing_to_show, shorten, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Up to this many rows every cell shows its percentage.
MAX_CELL_TEXT = 40
#: How many confusions the list beside the matrix names.
LISTED = 12
#: Rows of a matrix without background; more classes than that are put together.
MOST_BLOCKS = 128


def plot_confusion(
    matrix: Any,
    names: Sequence[str],
    path: str | Path,
    order: Sequence[int] | None = None,
    background: bool = True,
    point: str = "",
) -> None:
    """Confusion matrix in percent of each row, with the most frequent confusions spelled out beside it.

    Args:
        matrix: (C+1, C+1) counts; rows are true classes, columns predicted ones, the last of each is background:
            the last column holds missed objects, the last row false alarms. (C, C) without ``background``.
        names: the C class names.
        path: the picture.
        order: the C classes in the order they are drawn; most frequent first shows what the tail is taken for.
        background: whether there is background, as in detection.
        point: in words, from which score and overlap on a detection counts.
    """
    size = len(names) + background
    counts = np.nan_to_num(as_array(matrix)).reshape(size, size)
    if order is not None:
        rows = [*order, *([len(names)] if background else [])]
        counts, names = counts[np.ix_(rows, rows)], [names[c] for c in order]
    share = _shares(counts)
    labels = [*(shorten(name, 20) for name in names), *(["background"] if background else [])]
    side = min(max(5.0, 1.5 + 0.27 * len(labels)), 12.0)
    figure = new_figure(side + 4.8, side + 0.8)
    ax, text = figure.subplots(1, 2, width_ratios=[side, 2.8])
    if background:
        # Below one pixel a class a plain picture would drop rows: keep the strongest confusion of each block instead.
        block = max(1, -(-len(labels) // int(side * DPI * 0.8)))
        title, cells = _title(counts), _strongest(share, block)
    else:  # with many classes every confusion is rare; together they show where the tail goes
        block = max(1, -(-len(labels) // MOST_BLOCKS))
        title, cells = _image_title(counts, block), _shares(_summed(counts, block))
    tidy(ax, title=title, xlabel=f"predicted{point and f' ({point})'}", ylabel="true", grid="")
    _draw_cells(figure, ax, cells, block, len(labels))
    if len(labels) <= MAX_NAMES + 1:
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        ax.set_yticks(range(len(labels)), labels, fontsize=8)
    if len(labels) <= MAX_CELL_TEXT:
        _write_cells(ax, share)
    text.axis("off")
    _list_confusions(text, counts[:-1, :-1] if background else counts, share, labels)
    save(figure, path)


def _draw_cells(figure: Figure, ax: Axes, cells: np.ndarray, block: int, rows: int) -> None:
    """Shares as colours; each cell stands for ``block`` x ``block`` of the matrix's ``rows`` x ``rows``."""
    if rows == 0:
        return
    end = len(cells) * block - 0.5
    image = ax.imshow(
        np.sqrt(cells),  # lets rare confusions show
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(-0.5, end, end, -0.5),
        interpolation="nearest",
        aspect="auto",
    )
    ax.set(xlim=(-0.5, rows - 0.5), ylim=(rows - 0.5, -0.5))
    bar = figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01)
    bar.set_ticks([0, 0.1**0.5, 0.5, 0.5**0.5, 1], labels=["0 %", "10 %", "25 %", "50 %", "100 %"])


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


def _image_title(counts: np.ndarray, block: int) -> str:
    images, right = counts.sum(), np.trace(counts)
    if not images:
        return "no images"
    together = f"; {block} neighbouring classes together" if block > 1 else ""
    return f"{int(images):,} images: {right / images:.1%} right{together}"


def _shares(counts: np.ndarray) -> np.ndarray:
    """Each row as shares of its sum."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _strongest(share: np.ndarray, block: int) -> np.ndarray:
    """Maximum over blocks of block x block cells."""
    return _blocks(share, block).max(axis=(1, 3))


def _summed(counts: np.ndarray, block: int) -> np.ndarray:
    """Sum over blocks of block x block cells."""
    return _blocks(counts, block).sum(axis=(1, 3))


def _blocks(cells: np.ndarray, block: int) -> np.ndarray:
    """(S, block, S, block), zeros behind the last class."""
    padded = np.pad(cells, (0, -len(cells) % block))
    size = len(padded) // block
    return padded.reshape(size, block, size, block)


def _write_cells(ax: Axes, share: np.ndarray) -> None:
    size = 8 if len(share) <= 16 else 5.5
    for row, column in np.argwhere(share >= 0.005):
        value = share[row, column]
        colour = "white" if value > 0.35 else "black"
        ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=colour)


def _list_confusions(ax: Axes, counts: np.ndarray, share: np.ndarray, labels: Sequence[str]) -> None:
    """The most frequent confusions between two classes, in words; misses and false alarms are in the title."""
    between = counts.copy()
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
