"""What a study maximises: a metric by name, or a weighted sum of several."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from iifdet.errors import InputError, suggest

EXAMPLE = "write AP, tail10, mean(AP, tail10) or 0.7*AP + 0.3*tail10"
_NAME = r"[A-Za-z][\w.]*"
_TERM = re.compile(rf"([+-])\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*\*\s*)?({_NAME})\s*")


@dataclass(frozen=True)
class Objective:
    """A number made of metrics; more is better.

    Attributes:
        text: as it was written.
        weights: metric -> weight.
    """

    text: str
    weights: Mapping[str, float]

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The number, or None where one of the metrics is missing or null."""
        total = 0.0
        for name, weight in self.weights.items():
            value = figures.get(name)
            if value is None or not math.isfinite(value):
                return None
            total += weight * value
        return total


def parse_objective(text: str) -> Objective:
    """``AP``, ``mean(AP, tail10)`` or ``0.7*AP + 0.3*tail10``; a minus turns a metric around.

    Raises:
        InputError: neither of these.
    """
    means = re.fullmatch(rf"\s*mean\(\s*({_NAME}(?:\s*,\s*{_NAME})*)\s*\)\s*", text)
    if means:
        names = [name.strip() for name in means[1].split(",")]
        return Objective(text, {name: names.count(name) / len(names) for name in names})
    rest = text.strip()
    rest = rest if rest.startswith(("+", "-")) else f"+{rest}"
    terms = _TERM.findall(rest)
    if "".join(m.group(0) for m in _TERM.finditer(rest)) != rest or not terms:
        raise InputError(f"objective: expected metrics, got '{text}'; {EXAMPLE}")
    weights: dict[str, float] = {}
    for sign, factor, name in terms:
        weights[name] = weights.get(name, 0.0) + (-1 if sign == "-" else 1) * float(factor or 1)
    return Objective(text, weights)


def check_objectives(objectives: Iterable[Objective], figures: Mapping[str, Any]) -> None:
    """Refuse metrics that an evaluation does not give, and those that are null on this data.

    Args:
        figures: metrics of an evaluation of the very split, of whatever detections.
    """
    known = {name for name, value in figures.items() if value is not None}
    for objective in objectives:
        for name in objective.weights:
            if name in figures and name not in known:
                raise InputError(f"objective: expected a metric that this split has, got {name}, which is null on it")
            if name not in known:
                raise InputError(f"objective: unknown metric '{name}'{suggest(name, known)}")


def flatten(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of a metrics.json by dotted name; tails by image under their plain names too, as in results.csv.

    Example:
        >>> flatten({"AP": 0.5, "tail5": {"image": 0.25, "instance": 0.5}, "names": ["a"]})
        {'AP': 0.5, 'tail5.image': 0.25, 'tail5.instance': 0.5, 'tail5': 0.25}
    """
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            inner = flatten(value)
            found |= {f"{name}.{key}": v for key, v in inner.items()}
            if "image" in inner:
                found[name] = inner["image"]
            if name == "groups":
                found |= inner
        elif (value is None or isinstance(value, int | float)) and not isinstance(value, bool):
            found[name] = value
    return found
