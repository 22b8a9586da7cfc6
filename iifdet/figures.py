"""Figures of an evaluation on one line of a terminal."""

from __future__ import annotations

from collections.abc import Mapping

#: Figures that are no share of anything: a likelihood in nats, a sum of squares.
NO_SHARES = ("nll", "brier")


def describe_figures(figures: Mapping[str, float | None]) -> str:
    """Shares in percent, the others as they are, a dash where there is none.

    Example:
        >>> describe_figures({"top1": 0.375, "few": None, "nll": 25.9576})
        'top1 37.5  few -  nll 25.958'
    """
    return "  ".join(f"{name} {_cell(name, value)}" for name, value in figures.items())


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name in NO_SHARES else f"{100 * value:.1f}"
