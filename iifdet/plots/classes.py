"""Charts of the class counts and of the weights they turn into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from iifdet.errors import counted
from iifdet.longtail import ClassCounts
from iifdet.plots.figure import (
    BLUE,
    COLOURS,
    LINE_STYLES,
    MAX_NAMES,
    RED,
    SKY,
    as_array,
    name_classes,
    new_figure,
    save,
    say_nothing_to_show,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_labels(counts: ClassCounts, weights: Tensor | None, path: str | Path, variant: str = "") -> None:
    """Image and instance counts of each class, most frequent first, and the classes' weights on a second axis.

    Where every class has as many instances as images, as in classification, images alone are drawn.

    Args:
        counts: class counts of the training set.
        weights: (C,), or None for a chart without them.
        path: the picture.
        variant: what the weights are called.
    """
    order = by_frequency(counts)
    images, instances = as_array(counts.images)[order], as_array(counts.instances)[order]
    figure = new_figure(min(14.0, max(8.0, 2 + 0.3 * len(counts))), 5.5)
    ax = figure.subplots()
    tidy(ax, title=_counts_title(counts), ylabel="count (log)", xlabel="classes, by number of images")
    if len(counts) == 0:
        say_nothing_to_show(ax, "no classes")
    elif len(counts) <= MAX_NAMES:
        _draw_count_bars(ax, images, None if counts.alike else instances)
        name_classes(ax, [counts.names[c] for c in order])
    else:
        _draw_count_areas(ax, images, None if counts.alike else instances)
    _set_count_limits(ax, images, instances)
    handles, labels = ax.get_legend_handles_labels()
    if weights is not None and len(counts):
        twin = _draw_weights(ax, as_array(weights)[order], f"{variant} weight".strip())
        more = twin.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    if handles:
        figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False)
    save(figure, path)


def plot_weight_curves(
    counts: ClassCounts, path: str | Path, weights_by_variant: Mapping[str, Tensor], by: str = "image"
) -> None:
    """Weights of every variant, over the class frequency p (the paper's Figure 2) and over the classes' rank.

    Args:
        counts: class counts of the training set.
        path: the picture.
        weights_by_variant: name of the variant -> (C,) weights.
        by: ``"image"`` or ``"instance"``: the counts that p and the ranks come from.
    """
    order = by_frequency(counts, by)
    n = as_array(counts.by(by))[order]
    p = n / n.sum() if n.sum() > 0 else np.full(len(n), np.nan)
    figure = new_figure(13, 5.2)
    left, right = figure.subplots(1, 2, sharey=True)
    unit = "images" if by == "image" else "instances"
    title = f"{counted(len(counts), 'class', 'classes')}, imbalance {counts.imbalance(by):.4g} ({unit})"
    tidy(left, title=title, xlabel=f"class frequency p = n / Σn ({unit}, log)", ylabel="weight", grid="both")
    tidy(right, title=_weights_title(weights_by_variant), xlabel=f"classes, by number of {unit}", grid="both")
    if not weights_by_variant or len(counts) == 0:
        say_nothing_to_show(left, "no weights")
    elif (p > 0).any():
        left.set_xscale("log")
    for i, (variant, weights) in enumerate(weights_by_variant.items()):
        w, colour, style = as_array(weights)[order], COLOURS[i % len(COLOURS)], LINE_STYLES[i % len(LINE_STYLES)]
        seen = p > 0  # a class that never appears has no place on a log axis
        width = 4.5 - 0.5 * min(i, 6)  # some variants all but coincide: later ones lie thin on earlier ones
        left.plot(p[seen], w[seen], style, color=colour, linewidth=width, label=variant)
        right.plot(np.arange(len(w)), w, style, color=colour, linewidth=width)
    if 0 < len(counts) <= MAX_NAMES:
        name_classes(right, [counts.names[c] for c in order])
    for ax in (left, right):
        ax.axhline(1, color="#666666", linewidth=0.8)
    text = left.get_yaxis_transform()
    left.text(0.005, 1, "1: logit unchanged", transform=text, va="bottom", fontsize=8, color="#666666")
    if weights_by_variant:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    save(figure, path)


def by_frequency(counts: ClassCounts, by: str = "image") -> np.ndarray:
    """(C,) class indices, most frequent first; its reverse is the tail's order: ascending, ties by class order."""
    return np.argsort(as_array(counts.by(by)), kind="stable")[::-1]


def _counts_title(counts: ClassCounts) -> str:
    images, boxes = counts.imbalance("image"), counts.imbalance("instance")
    title = f"{counted(len(counts), 'class', 'classes')}, {counted(counts.num_images, 'image')}"
    if counts.alike:
        title += f"; imbalance {images:,.0f}"
    else:
        title += f", {int(counts.instances.sum()):,} boxes; imbalance {images:,.0f} (images), {boxes:,.0f} (boxes)"
    empty = int((counts.images == 0).sum())
    return f"{title}; {empty} never appear" if empty else title


def _weights_title(weights_by_variant: Mapping[str, Tensor]) -> str:
    ranges = [(v, as_array(w)) for v, w in weights_by_variant.items() if len(w)]
    texts = [f"{v} {np.nanmin(w):.2f}…{np.nanmax(w):.2f}" for v, w in ranges if np.isfinite(w).any()]
    return "\n".join(", ".join(texts[i : i + 4]) for i in range(0, len(texts), 4))


def _draw_count_bars(ax: Axes, images: np.ndarray, instances: np.ndarray | None) -> None:
    x = np.arange(len(images))
    if instances is None:
        ax.bar(x, images, 0.7, color=BLUE, label="images")
        return
    ax.bar(x - 0.2, images, 0.4, color=BLUE, label="images")
    ax.bar(x + 0.2, instances, 0.4, color=SKY, label="instances")


def _draw_count_areas(ax: Axes, images: np.ndarray, instances: np.ndarray | None) -> None:
    """Too many classes for bars: images fall steadily and fill an area, instances scatter above it."""
    x = np.arange(len(images))
    ax.fill_between(x, images, 0.5, step="mid", color=BLUE, linewidth=0, label="images")
    if instances is not None:
        ax.plot(x, instances, ".", color=SKY, markersize=3, label="instances")


def _set_count_limits(ax: Axes, images: np.ndarray, instances: np.ndarray) -> None:
    top = max(instances.max(initial=0), images.max(initial=0), 1)
    ax.set_ylim(0.5, top * 2)  # a count of 1 keeps a visible bar, a count of 0 has none
    ax.set_yscale("log")
    ax.set_xlim(-0.7, max(len(images) - 0.3, 0.7))


def _draw_weights(ax: Axes, weights: np.ndarray, label: str) -> Axes:
    twin = ax.twinx()
    style = "o-" if len(weights) <= MAX_NAMES else "-"
    twin.plot(np.arange(len(weights)), weights, style, color=RED, markersize=4, linewidth=1.5, label=label)
    twin.spines["top"].set_visible(False)
    twin.set_ylabel(label, color=RED)
    twin.tick_params(axis="y", colors=RED)
    high = np.nanmax(weights) if np.isfinite(weights).any() else 1.0
    low = np.nanmin(weights) if np.isfinite(weights).any() else 0.0
    twin.set_ylim(min(0.0, low * 1.1), max(high, 1.0) * 1.1)
    return twin
