"""tail.png: how AP, or accuracy, falls from the most frequent class to the rarest."""

from __future__ import annotations

import re
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
    GREEN,
    GREY,
    MAX_NAMES,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    as_array,
    mean_of_finite,
    name_classes,
    new_figure,
    number,
    save,
    say_nothing_to_show,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Classes that have a panel of their own where there are too many to name.
RAREST = 20
GROUP_COLOURS = (GREEN, ORANGE, RED, PURPLE, SKY, GREY)
#: The groups of classifiers, in the colours that those of detectors get by their order: rare, common, frequent.
SAME_COLOUR = {"few": GREEN, "medium": ORANGE, "many": RED}


def plot_tail(
    ap: Any,
    counts: ClassCounts,
    names: Sequence[str],
    tails: Mapping[str, float | None],
    path: str | Path,
    groups: Mapping[str, Sequence[int]] | None = None,
    by: str = "image",
    what: str = "AP",
) -> None:
    """AP of each class, or another figure, over its frequency rank in training, tails' means and groups marked.

    Args:
        ap: (C,) AP of each class; NaN or negative without ground truth. Such classes have no rank, as in tail-k.
        counts: class counts of the *training* set.
        names: the C class names.
        tails: ``{"tail5": 0.12, …}``: mean AP of the k rarest classes; k is the number in the key.
        path: the picture.
        groups: name -> class indices, for example frequent, common and rare.
        by: ``"image"`` or ``"instance"``: the counts that rank the classes; the tails must be of the same order.
        what: name of the figure.
    """
    ap = as_array(ap)
    ap = np.where(ap < 0, np.nan, ap)
    order = np.array([c for c in by_frequency(counts, by) if np.isfinite(ap[c])], dtype=int)
    named = len(order) <= MAX_NAMES
    figure = new_figure(min(14.0, max(9.0, 2 + 0.3 * len(order))) if named else 15.0, 6)
    panels = [figure.subplots()] if named else list(figure.subplots(1, 2, width_ratios=[3, 1]))
    ax, closer = panels[0], None if named else panels[1]
    unit = "images" if by == "image" else "instances"
    tidy(ax, title=_title(ap, tails, what), ylabel=what, xlabel=f"classes, by number of training {unit}")
    if len(order) == 0:
        say_nothing_to_show(ax, "no class has ground truth")
        save(figure, path)
        return
    top = max(0.05, float(ap[order].max()) * 1.25)
    ax.set(xlim=(-0.7, len(order) - 0.3), ylim=(0, top))
    _draw_counts(ax, as_array(counts.by(by))[order], unit)
    shade_groups(ax, order, ap, groups or {}, top * 0.985)
    _draw_ap(ax, ap[order], named, what)
    _mark_tails(closer or ax, tails, min(len(order), RAREST) if closer else len(order))
    if closer is not None:
        _draw_rarest(closer, ap, order[-RAREST:], names)
    else:
        name_classes(ax, [names[c] for c in order])
    figure.legend(loc="outside lower right", ncols=8, frameon=False, fontsize=9)
    save(figure, path)


def _draw_rarest(ax: Axes, ap: np.ndarray, rarest: np.ndarray, names: Sequence[str]) -> None:
    """The tail by name: among more than a thousand classes twenty are a hair's breadth."""
    tidy(ax, title=f"the {len(rarest)} rarest", ylabel="", xlabel="")
    ax.bar(np.arange(len(rarest)), ap[rarest], 0.7, color=BLUE)
    ax.set(xlim=(-0.7, len(rarest) - 0.3), ylim=(0, max(0.05, float(ap[rarest].max()) * 1.1)))
    name_classes(ax, [names[c] for c in rarest])


def _title(ap: np.ndarray, tails: Mapping[str, float | None], what: str) -> str:
    parts = [f"{what} {number(mean_of_finite(ap))}", *(f"{key} {number(_value(v))}" for key, v in tails.items())]
    missing = int((~np.isfinite(ap)).sum())
    text = ", ".join(parts) + f"; {counted(len(ap) - missing, 'class', 'classes')}"
    return f"{text}, {missing} without ground truth left out" if missing else text


def _draw_counts(ax: Axes, n: np.ndarray, unit: str) -> None:
    """Training counts as a pale step line behind, on a log axis of their own."""
    twin = ax.twinx()
    twin.step(np.arange(len(n)), np.maximum(n, 0.5), where="mid", color=GREY, linewidth=1.5, label=f"training {unit}")
    twin.set_yscale("log")
    twin.set_ylim(0.5, max(n.max(), 1) * 4)
    twin.set_ylabel(f"training {unit} (log)", color="#666666")
    twin.spines["top"].set_visible(False)
    ax.set_zorder(twin.get_zorder() + 1)
    ax.patch.set_visible(False)


def shade_groups(
    ax: Axes,
    order: np.ndarray,
    values: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    top: float,
    form: str = "{:.3f}",
) -> None:
    """Tint each frequency group's stretch of the ranks and write its name, mean and number of classes at the top.

    Args:
        ax: classes stand at 0, 1, … in ``order``.
        order: the (K,) classes drawn.
        values: (C,) what the mean is taken of; NaN is left out.
        groups: name -> class indices.
        top: where the text hangs.
        form: how a mean is written.
    """
    for i, (name, members) in enumerate(groups.items()):
        inside = np.isin(order, np.asarray(list(members), dtype=int))
        runs = _runs(inside)
        if not runs:
            continue
        colour = SAME_COLOUR.get(name, GROUP_COLOURS[i % len(GROUP_COLOURS)])
        for start, stop in runs:
            ax.axvspan(start - 0.5, stop - 0.5, color=colour, alpha=0.12, linewidth=0)
            if start > 0:  # a line too, for eyes that see no difference between the tints
                ax.axvline(start - 0.5, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
        start, stop = max(runs, key=lambda run: run[1] - run[0])
        mean = mean_of_finite(values[order[inside]])
        text = f"{name}\n{form.format(mean) if np.isfinite(mean) else '–'} ({int(inside.sum())})"
        ax.text((start + stop - 1) / 2, top, text, ha="center", va="top", fontsize=9, color=BLACK)


def _runs(inside: np.ndarray) -> list[tuple[int, int]]:
    """Half-open ranges of neighbouring True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _draw_ap(ax: Axes, ap: np.ndarray, named: bool, what: str) -> None:
    x = np.arange(len(ap))
    if named:
        ax.bar(x, ap, 0.7, color=BLUE, label=what)
        return
    ax.plot(x, ap, ".", color=BLUE, markersize=3, alpha=0.5, label=what)
    window = max(len(ap) // 30, 5)
    sums = np.convolve(ap, np.ones(window), mode="same")
    ax.plot(
        x,
        sums / np.convolve(np.ones(len(ap)), np.ones(window), mode="same"),
        color=BLACK,
        label=f"mean of {window} neighbours",
    )


def _mark_tails(ax: Axes, tails: Mapping[str, float | None], num_ranked: int) -> None:
    """A bracket over the k rarest classes at the height of their mean AP."""
    for (key, value), colour in zip(tails.items(), (RED, PURPLE, ORANGE, GREEN, SKY), strict=False):
        digits = re.search(r"\d+", key)
        value = _value(value)
        if digits is None or not np.isfinite(value):
            continue
        left, right = num_ranked - min(int(digits.group()), num_ranked) - 0.5, num_ranked - 0.5
        ax.plot([left, left, right], [0, value, value], color=colour, linewidth=2, label=f"{key} {number(value)}")


def _value(value: float | None) -> float:
    return float("nan") if value is None else float(value)
