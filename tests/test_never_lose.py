"""Runs that are killed, signalled or out of disk, each in a real process, end as if nothing had happened.

Where one promise of docs/reliability.md needs a process that really dies, it is kept here.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import ForkServer
from runs import same_run

import iifdet
from iifdet.checkpoint import read_checkpoint
from iifdet.errors import InputError
from iifdet.rundir import RunDir

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")

Keys = Callable[..., dict[str, Any]]
Place = tuple[int, int]
#: Six steps an epoch, saved after the third and the sixth; mosaic is open in all but the last epoch.
BATCHES = 6
MIXED = {
    "batch": 4,
    "save_steps": 3,
    "ema": 0.9,
    "imgsz": 32,
    "multi_scale": [1, 2],
    "multi_scale_every": 2,
    "mosaic": 0.7,
    "close_mosaic": 1,
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def make_runs(
    server: ForkServer, tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, int], Runs]:
    """make_runs(epochs, workers): a run to which things may happen, and one of as many epochs that is left alone."""
    whole: dict[int, Path] = {}

    def make(epochs: int, workers: int = 0) -> Runs:
        folder = tmp_path_factory.mktemp("runs")
        keys = tiny_keys(folder, **MIXED, epochs=epochs)
        if epochs not in whole:
            assert server.run(keys={**keys, "name": "whole"}, log=str(folder / "whole.log")) == 0
            whole[epochs] = folder / "whole"
        return Runs(server, {**keys, "workers": workers}, whole[epochs], folder / "run")

    return make


def equal_runs(a: Path, b: Path) -> None:
    """Everything that two runs leave behind, metrics.json too."""
    same_run(a, b, ("last", "best"))
    assert (a / "metrics.json").read_bytes() == (b / "metrics.json").read_bytes()


def diary_of(run: Path) -> list[tuple[Place, str]]:
    """(place, hash of the weights) of every step of a process."""
    rows = [line.split() for line in run.with_suffix(".log").read_text().splitlines()]
    return [((int(e), int(b)), " ".join(rest)) for kind, e, b, *rest in rows if kind == "step"]


@dataclass
class Runs:
    """A run to which things happen, and the one that was left alone; both wrote down every step."""

    server: ForkServer
    keys: dict[str, Any]
    whole: Path
    run: Path

    def __post_init__(self) -> None:
        self.steps = dict(diary_of(self.whole))

    def go(self, **request: Any) -> tuple[int, list[tuple[Place, str]]]:
        """Start, or go on; the exit code and the steps of this process."""
        log = self.run.with_suffix(".log")
        log.unlink(missing_ok=True)
        resume = (self.run / "weights" / "last.pt").is_file()
        keys = {"resume": str(self.run)} if resume else {**self.keys, "name": "run"}
        return self.server.run(keys=keys, log=str(log), **request), diary_of(self.run)

    def said(self) -> str:
        """What the last process wrote to the terminal."""
        return self.run.with_suffix(".err").read_text()

    def saved(self) -> Place:
        training = read_checkpoint(self.run / "weights" / "last.pt")["training"]
        return training["epoch"], training["batch"]

    def finish(self) -> list[tuple[Place, str]]:
        """Go on to the end and compare; the steps that it took."""
        code, diary = self.go()
        assert code == 0
        equal_runs(self.whole, self.run)
        half = [p.name for p in self.run.rglob(".*") if p.name != ".lock"]
        assert half == [], "what a dead process was writing is removed"
        return diary


def kill_until(runs: Runs, kills: int, seed: int) -> None:
    """Kill -9 at random moments of random steps and go on, until so many kills have cost a step that was replayed.

    Where a kill falls depends on the machine. One that cost nothing is checked like the others and then taken back.
    """
    draw, counted, saved, lost, died = random.Random(seed), 0, (0, 0), None, (0, 0)
    before = runs.run.with_name("before")
    for _ in range(8 * kills):
        shutil.rmtree(before, ignore_errors=True)
        if runs.run.is_dir():
            shutil.copytree(runs.run, before)
        ahead = [place for place in list(runs.steps)[:-BATCHES] if place > saved]  # the last epoch is for finishing
        near = ahead[: max(1, len(ahead) // (kills - counted))]  # so that kills reach from the first to the last epoch
        code, diary = runs.go(kill={"after": list(draw.choice(near)), "seed": draw.random(), "within": 0.08})
        assert code == -9, "it was killed and did not end"
        assert all(runs.steps[place] == digest for place, digest in diary), "each step is that of the whole run"
        assert lost is None or diary[0][0] <= lost, "a step that had been made was replayed"
        last, now = diary[-1][0], runs.saved()
        if not (now < last and 0 < last[1] < BATCHES):
            shutil.rmtree(runs.run)
            if before.is_dir():
                shutil.copytree(before, runs.run)
            continue
        counted, saved, lost, died = counted + 1, now, last, last
        if counted == kills:
            break
    shutil.rmtree(before, ignore_errors=True)
    assert counted == kills, f"{counted} of {kills} kills fell in mid-epoch after an unsaved step"
    assert runs.finish()[0][0] <= died


def test_a_run_killed_at_two_random_moments_ends_as_the_one_left_alone(make_runs: Callable[..., Runs]) -> None:
    kill_until(make_runs(3), kills=2, seed=7)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [(0, 12), (2, 12)])
def test_a_run_killed_at_many_random_moments_ends_as_the_one_left_alone(
    make_runs: Callable[..., Runs], workers: int, kills: int
) -> None:
    kill_until(make_runs(7, workers), kills, seed=workers)


@pytest.mark.parametrize(("name", "code", "at"), [("SIGTERM", 143, (1, 2)), ("SIGINT", 130, (1, 6))])
def test_a_signal_to_the_whole_group_saves_after_the_step_and_the_run_resumes(
    make_runs: Callable[..., Runs], name: str, code: int, at: Place
) -> None:
    runs = make_runs(3, workers=2)
    assert runs.go(signal=name, signal_at=list(at))[0] == code
    assert runs.saved() == at, "right after the step, before the validation of the epoch's last one"
    assert "Traceback" not in runs.said()
    assert runs.finish()[0][0] > at, "nothing is replayed"


def test_a_run_on_a_full_disk_stops_in_one_line_and_resumes(make_runs: Callable[..., Runs]) -> None:
    """The kernel refuses the write in the middle of the file."""
    runs = make_runs(3)
    assert runs.go(full_at=[1, 2])[0] == 1
    said = runs.said().strip().splitlines()
    assert len(said) == 1 and "last.pt cannot be written (File too large)" in said[0] and "resume=" in said[0]
    assert runs.saved() == (1, 0), "the last checkpoint before is untouched"
    assert {p.name for p in (runs.run / "weights").iterdir()} == {"last.pt", "last.prev.pt", "best.pt"}
    assert runs.finish()[0][0] == (1, 1), "three steps are replayed"


def test_a_second_process_is_refused_while_the_first_lives_and_not_while_its_workers_die(
    make_runs: Callable[..., Runs],
) -> None:
    runs = make_runs(3, workers=2)
    runs.go(kill={"after": [0, 2], "seed": 0, "within": 0})  # its workers take seconds to notice
    with RunDir(runs.run).lock():
        code, diary = runs.go()
    assert (code, diary) == (2, [])
    assert "in use by another run" in runs.said()
    runs.finish()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_a_damaged_last_pt_is_refused_and_the_one_before_goes_on_to_the_same_end(
    make_runs: Callable[..., Runs], damage: str, tmp_path: Path
) -> None:
    whole = make_runs(3).whole
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "metrics.json").unlink()
    last, previous = run / "weights" / "last.pt", run / "weights" / "last.prev.pt"
    if damage == "truncated":
        os.truncate(last, last.stat().st_size * 2 // 3)
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, last)
    else:
        last.unlink()
    with pytest.raises(InputError, match=rf"resume: expected .*last.pt.*; resume={previous} is the one before it$"):
        iifdet.train(resume=run)
    if damage == "truncated":  # one is enough
        iifdet.train(resume=previous)
        equal_runs(whole, run)
        assert all(read_checkpoint(path)["training"] for path in (last, previous)), "the damaged file is not kept"
