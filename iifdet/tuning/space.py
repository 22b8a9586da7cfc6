"""What a study searches: keys with ranges or choices, some of them only where another key has a certain value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from optuna.trial import Trial

from iifdet.errors import InputError, suggest

#: Words that describe a key, by its type.
WORDS = {"float": {"low", "high", "log", "step"}, "int": {"low", "high", "log", "step"}, "categorical": {"choices"}}
COMMON = {"type", "when", "start"}
EXAMPLE = "write {type: float, low: 0, high: 1}, [a, b], or a value that stays"


@dataclass(frozen=True)
class Parameter:
    """One key that is searched.

    Attributes:
        name: the key, dotted for one inside a dictionary (``model_args.lambda_xy``).
        kind: ``float``, ``int`` or ``categorical``.
        low, high, log, step: the range of a number.
        choices: the values of a categorical.
        when: other key -> values; the key is searched only where all of these hold.
        start: the value of the first trial, None for none.
    """

    name: str
    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    start: Any = None

    @property
    def numeric(self) -> bool:
        return self.kind != "categorical"

    def suggest(self, trial: Trial) -> Any:
        """A value from the sampler."""
        if self.kind == "categorical":
            return trial.suggest_categorical(self.name, self.choices)
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    def edges(self) -> list[Any]:
        """Values that show whether the key takes all others: the ends of a range, or every choice."""
        if self.kind == "categorical":
            return list(self.choices)
        return [int(v) if self.kind == "int" else v for v in (self.low, self.high)]

    def grid(self, points: int) -> list[Any]:
        """At most ``points`` values from end to end; every choice of a categorical."""
        if self.kind == "categorical":
            return list(self.choices)
        spaced = np.geomspace if self.log else np.linspace
        values = spaced(self.low, self.high, points)
        if self.kind == "float" and self.step is None:
            return [float(v) for v in values]
        step = self.step or 1
        snapped = np.unique(self.low + step * np.floor((values - self.low) / step + 1e-9))
        return [round(v) if self.kind == "int" else float(v) for v in snapped]


@dataclass(frozen=True)
class Space:
    """Keys that are searched, those that decide over others first, and keys that stay.

    Attributes:
        parameters: what is searched.
        fixed: key -> value of every trial.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """All keys of one trial."""
        values = dict(self.fixed)
        for parameter in self._active(values):
            values[parameter.name] = parameter.suggest(trial)
        return values

    def start(self) -> dict[str, Any]:
        """Searched keys of the first trial, as far as they are in play and have a ``start``."""
        values, found = dict(self.fixed), {}
        for parameter in self._active(values):
            if parameter.start is not None:
                values[parameter.name] = found[parameter.name] = parameter.start
        return found

    def grid(self, points: int) -> list[dict[str, Any]]:
        """Every combination of the parameters' grids, each once; conditional keys only where they are in play."""
        combinations: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            grown = []
            for values in combinations:
                choices = parameter.grid(points) if _holds(parameter, {**self.fixed, **values}) else None
                grown += [values] if choices is None else [{**values, parameter.name: v} for v in choices]
            combinations = grown
        return combinations

    def without(self, names: set[str], why: str) -> Space:
        """A space without some keys, and without those that hang on them.

        Raises:
            InputError: nothing is left to search; ``why`` explains it.
        """
        kept = [p for p in self.parameters if p.name not in names and not names & set(p.when)]
        if not kept:
            raise InputError(f"space: expected a key to search beside {', '.join(sorted(names))}, got none; {why}")
        return Space(tuple(kept), {k: v for k, v in self.fixed.items() if k not in names})

    def without_choice(self, name: str, value: Any) -> Space:
        """A space in which a categorical never has this value, nor starts with it; a key with one choice left stays."""
        kept, fixed = [], dict(self.fixed)
        for p in self.parameters:
            if p.name == name and value in p.choices:
                choices = tuple(c for c in p.choices if c != value)
                p = replace(p, choices=choices, start=None if p.start == value else p.start)
            kept.append(p)
        return Space(tuple(kept), fixed)

    def _active(self, values: Mapping[str, Any]) -> Iterator[Parameter]:
        """Parameters in play; ``values`` grows while this goes on."""
        return (p for p in self.parameters if _holds(p, values))


def _holds(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    return all(key in values and values[key] in allowed for key, allowed in parameter.when.items())


def parse_space(content: Mapping[str, Any]) -> Space:
    """A space from the content of its YAML file: key -> description, list of choices, or a value that stays.

    Raises:
        InputError: an unknown word or type, an empty or upside-down range, a condition on what is not searched.
    """
    described = {str(k): v for k, v in content.items()}
    searched = {k: _parse(k, v) for k, v in described.items() if isinstance(v, dict | list)}
    fixed = {k: _number(v) for k, v in described.items() if k not in searched}
    if not searched:
        raise InputError(f"space: expected a key to search, got none; {EXAMPLE}")
    for parameter in searched.values():
        _check_conditions(parameter, searched, fixed)
    return Space(tuple(searched[name] for name in _sorted(searched)), fixed)


def _parse(name: str, value: Any) -> Parameter:
    if isinstance(value, list):
        value = {"type": "categorical", "choices": value}
    kind = value.get("type", "float" if "low" in value else "categorical")
    if kind not in WORDS:
        raise InputError(f"space: {name}: expected type float, int or categorical, got '{kind}'{suggest(kind, WORDS)}")
    for word in value:
        known = WORDS[kind] | COMMON
        if word not in known:
            raise InputError(f"space: {name}: unknown word '{word}'{suggest(str(word), known)}")
    when = {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in (value.get("when") or {}).items()}
    start = _number(value.get("start"))
    parameter = (_choices if kind == "categorical" else _range)(name, kind, value, when, start)
    if start is not None and not _contains(parameter, start):
        raise InputError(f"space: {name}: expected a start inside the range, got {start}; {EXAMPLE}")
    return parameter


def _choices(name: str, kind: str, value: Mapping[str, Any], when: Any, start: Any) -> Parameter:
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InputError(f"space: {name}: expected choices such as [a, b], got {choices}; {EXAMPLE}")
    choices = [_number(v) for v in choices]
    odd = [v for v in choices if not isinstance(v, str | int | float | None)]
    if odd or len({repr(v) for v in choices}) < len(choices):
        raise InputError(f"space: {name}: expected plain values, each once, got {choices}; {EXAMPLE}")
    return Parameter(name, kind, choices=tuple(choices), when=when, start=start)


def _range(name: str, kind: str, value: Mapping[str, Any], when: Any, start: Any) -> Parameter:
    low, high, step = (_number(value.get(word)) for word in ("low", "high", "step"))
    log = value.get("log", False)
    if not (_is_number(low) and _is_number(high) and low < high):
        raise InputError(f"space: {name}: expected numbers low < high, got low={low} high={high}; {EXAMPLE}")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise InputError(f"space: {name}: expected log: true with low above 0 and no step, got log={log} low={low}")
    if step is not None and not (_is_number(step) and 0 < step <= high - low):
        raise InputError(f"space: {name}: expected a step between 0 and high - low, got {step}")
    if kind == "int" and any(v is not None and int(v) != v for v in (low, high, step)):
        raise InputError(f"space: {name}: expected whole numbers for type int, got low={low} high={high} step={step}")
    return Parameter(name, kind, low, high, log, step, when=when, start=start)


def _contains(parameter: Parameter, value: Any) -> bool:
    if parameter.kind == "categorical":
        return value in parameter.choices
    whole = parameter.kind != "int" or (_is_number(value) and int(value) == value)
    return _is_number(value) and whole and parameter.low <= value <= parameter.high


def _check_conditions(parameter: Parameter, searched: Mapping[str, Parameter], fixed: Mapping[str, Any]) -> None:
    for key, wanted in parameter.when.items():
        if key not in searched and key not in fixed:
            known = {*searched, *fixed}
            raise InputError(f"space: {parameter.name}: 'when' names {key}, which is not here{suggest(key, known)}")
        possible = searched[key].choices if key in searched else (fixed[key],)
        if key in searched and searched[key].numeric:
            raise InputError(f"space: {parameter.name}: expected 'when' on a key with choices, got {key}, a number")
        for value in wanted:
            if value not in possible:
                near = suggest(str(value), {str(v) for v in possible})
                raise InputError(f"space: {parameter.name}: 'when' wants {key}={value}, which it never is{near}")


def _sorted(searched: Mapping[str, Parameter]) -> list[str]:
    """Names in the file's order, each after those that it hangs on."""
    sorter = TopologicalSorter({n: [k for k in p.when if k in searched] for n, p in searched.items()})
    try:
        depth: dict[str, int] = {}
        for name in sorter.static_order():
            depth[name] = 1 + max((depth[k] for k in searched[name].when if k in searched), default=-1)
    except CycleError as error:
        raise InputError(f"space: expected conditions without a circle, got {' -> '.join(error.args[1])}") from error
    names = list(searched)
    return sorted(names, key=lambda name: (depth[name], names.index(name)))


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text."""
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if is_number else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
