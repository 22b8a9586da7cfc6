"""What a study found: how its trials ended, which are best, what stopping early saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from iifdet.figures import describe_figures
from iifdet.tuning.queue import Lineage

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Found:
    """A complete trial.

    Attributes:
        number: its number in the study.
        values: objective -> value.
        params: key -> value, of the searched keys.
        figures: further numbers of it.
    """

    number: int
    values: dict[str, float]
    params: dict[str, Any]
    figures: dict[str, Any]


@dataclass(frozen=True)
class StudyResult:
    """What ``tune`` returns.

    Attributes:
        folder: everything that the study leaves behind.
        study: its name in the storage.
        storage: where it lives.
        objectives: what was maximised.
        tuned_on: the images that the values are about.
        counts: ``complete``, ``pruned``, ``failed`` and, where somebody else works on or Ctrl-C came, ``open`` trials.
        failures: (number, reason) of the failed ones.
        best: the best trial, or with several objectives the Pareto front, the best sum first; empty without any.
        epochs: epochs trained, and those that the same trials would have taken without pruning.
        apply: a command that uses the best values.
        val: figures of the ``reported`` split, taken once, by name of the adjustment; of a post-process study alone.
        reported: what that split is called; data without a val split have a test split.
    """

    folder: Path
    study: str
    storage: str
    objectives: tuple[str, ...]
    tuned_on: str
    counts: dict[str, int]
    failures: list[tuple[int, str]]
    best: list[Found]
    epochs: tuple[int, int]
    apply: str = ""
    val: dict[str, dict[str, Any]] = field(default_factory=dict)
    reported: str = "val"

    @property
    def succeeded(self) -> bool:
        """Whether any trial completed."""
        return self.counts.get("complete", 0) > 0

    def lines(self) -> list[str]:
        """The result in words."""
        lines = ["trials: " + ", ".join(f"{count} {kind}" for kind, count in self.counts.items())]
        reasons = Counter(reason for _, reason in self.failures)
        lines += [f"failed {count}x: {reason}" for reason, count in reasons.most_common(5)]
        lines += [_best_line(found) for found in self.best[:10]]
        trained, full = self.epochs
        if self.counts.get("pruned") and full:
            lines.append(f"pruning: {trained} of {full} epochs trained, {1 - trained / full:.0%} saved")
        lines += [f"{self.reported}, {name}: {describe_figures(figures)}" for name, figures in self.val.items()]
        if not self.succeeded:
            return [*lines, "no trial completed"]
        return [*lines, f"found on {self.tuned_on}", *([f"use it: {self.apply}"] if self.apply else [])]

    def print(self) -> None:
        """Say all of it."""
        print("\n".join([*self.lines(), f"pictures and tables: {self.folder}"]))


def _best_line(found: Found) -> str:
    values = ", ".join(f"{name} {value:.4f}" for name, value in found.values.items())
    params = " ".join(f"{k}={_short(v)}" for k, v in found.params.items())
    return f"trial {found.number}: {values} with {params}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def count_states(history: Sequence[Lineage]) -> dict[str, int]:
    """How many trials ended in which way; ``open`` only where there are any."""
    counts = dict.fromkeys(STATES.values(), 0)
    for lineage in history:
        kind = STATES[lineage.last.state] if lineage.is_done else "open"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def list_failures(history: Sequence[Lineage]) -> list[tuple[int, str]]:
    """(number, reason) of the trials that failed."""
    done = [lineage for lineage in history if lineage.is_done]
    return [(lin.root, lin.reason) for lin in done if lin.last.state == TrialState.FAIL]


def find_best(history: Sequence[Lineage], objectives: Sequence[str]) -> list[Found]:
    """The best trial, or the trials that no other one beats in every objective, by their sum."""
    complete = [lin for lin in history if lin.last.state == TrialState.COMPLETE]
    points = {lin.root: lin.last.values or [] for lin in complete}
    front = [lin for lin in complete if not any(_dominates(p, points[lin.root]) for p in points.values())]
    front.sort(key=lambda lin: (-sum(points[lin.root]), lin.root))
    if len(objectives) == 1:
        front = front[:1]
    return [to_found(lin.root, lin.last, objectives) for lin in front]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def to_found(root: int, trial: FrozenTrial, objectives: Sequence[str]) -> Found:
    """A complete trial as plain values."""
    values = dict(zip(objectives, trial.values or [], strict=True))
    return Found(root, values, dict(trial.params), dict(trial.user_attrs.get("figures", {})))


def count_epochs(history: Sequence[Lineage], epochs: int) -> tuple[int, int]:
    """Epochs that complete and pruned trials took, and what they would have taken without pruning."""
    ended = [lin.last for lin in history if lin.last.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    taken = [epochs if t.state == TrialState.COMPLETE else t.last_step or 0 for t in ended]
    return sum(taken), epochs * len(ended)


def trial_rows(history: Sequence[Lineage], objectives: Sequence[str], epochs: int) -> list[dict[str, Any]]:
    """One row a trial for trials.csv."""
    rows = []
    for lineage in history:
        trial = lineage.last
        began, ended = trial.datetime_start, trial.datetime_complete
        values = trial.values or [None] * len(objectives)
        row: dict[str, Any] = {
            "trial": lineage.root,
            "state": STATES[trial.state] if lineage.is_done else "open",
            "attempts": len(lineage.attempts),
            "seconds": round((ended - began).total_seconds(), 2) if began and ended else None,
            "epochs": (epochs or None) if trial.state == TrialState.COMPLETE else trial.last_step,
            **dict(zip(objectives, values, strict=False)),
            **{f"key {k}": v for k, v in trial.params.items()},
            **{k: v for k, v in trial.user_attrs.get("figures", {}).items() if k not in objectives},
            "reason": lineage.reason if lineage.is_done and trial.state == TrialState.FAIL else "",
        }
        rows.append(row)
    return rows
