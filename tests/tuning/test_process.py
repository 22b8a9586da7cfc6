"""Trials in processes: whatever one of them does, the study hears how it ended."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from tuning_doubles import quiet_server

from iifdet.errors import InputError
from iifdet.tuning import Outcome, Report, TrialProcess


def job(keys: dict[str, Any], report: Report) -> tuple[list[float], dict[str, Any]]:
    """Do what ``fate`` says."""
    fate = keys["fate"]
    print("I am", fate, flush=True)
    if fate == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "exit":
        os._exit(3)
    if fate == "input":
        raise InputError("lr: expected less,\n  got more")
    if fate == "memory":
        raise MemoryError("out of it")
    if fate == "quit":
        raise SystemExit(0)
    for step in range(1, keys.get("steps", 3) + 1):
        report(step, step / 10)
    return [1.0, 2.0], {"AP": 0.5, "threads": __import__("torch").get_num_threads()}


@pytest.fixture
def context() -> Any:
    """From a server: a copy of this process may wait for ever for threads that other tests have started in it."""
    return quiet_server()


def finish(process: TrialProcess, go_on: int = 99) -> tuple[list[Any], Outcome]:
    """All reports and the outcome; after ``go_on`` reports it is stopped."""
    reports: list[Any] = []
    while True:
        wait(process.waits_for, 60)
        message = process.read()
        if isinstance(message, Outcome):
            process.close()
            return reports, message
        if message is not None:
            reports.append(message)
            process.answer(len(reports) < go_on)


def start(context: Any, folder: Path, fate: str, **keys: Any) -> TrialProcess:
    return TrialProcess(context, job, {"fate": fate, **keys}, 1, folder / f"{fate}.log")


def test_reports_values_figures_and_what_it_says(context: Any, tmp_path: Path) -> None:
    reports, outcome = finish(start(context, tmp_path, "good"))
    assert reports == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert outcome == Outcome("complete", (1.0, 2.0), {"AP": 0.5, "threads": 1})
    assert (tmp_path / "good.log").read_text() == "I am good\n"


def test_it_ends_when_it_is_told_to(context: Any, tmp_path: Path) -> None:
    reports, outcome = finish(start(context, tmp_path, "good", steps=9), go_on=2)
    assert (len(reports), outcome.kind) == (2, "pruned")


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("kill", "killed by SIGKILL, as the system does when memory runs out"),
        ("exit", "ended with exit code 3"),
        ("input", "lr: expected less, got more"),
        ("memory", "MemoryError: out of it"),
        ("quit", "interrupted by a signal"),
    ],
)
def test_a_bad_end_is_one_trials_alone_and_has_a_reason(context: Any, fate: str, reason: str, tmp_path: Path) -> None:
    neighbour = start(context, tmp_path, "good")
    assert finish(start(context, tmp_path, fate))[1] == Outcome("failed", reason=reason)
    assert finish(neighbour)[1].kind == "complete"
    assert ("Traceback" in (tmp_path / f"{fate}.log").read_text()) == (fate == "memory")


def test_a_trial_that_is_given_up_is_gone(context: Any, tmp_path: Path) -> None:
    process = start(context, tmp_path, "good")
    wait(process.waits_for, 60)
    assert process.read() == (1, 0.1)  # and now it waits for an answer
    pid = process._process.pid
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
