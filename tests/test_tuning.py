"""Whole studies, with a double in place of training: repeatable, resumable, honest. And one with real trainings."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from tuning_doubles import plan, run, train, truth

import iifdet
from iifdet.build.tuning import PRELOAD, build_study
from iifdet.cli import main
from iifdet.config import TrainConfig, read_yaml, resolve
from iifdet.errors import InputError
from iifdet.tuning import StudyResult, lineages, open_storage, run_study

Keys = Callable[..., dict[str, Any]]


def rows(folder: Path) -> list[dict[str, str]]:
    """trials.csv, without clocks."""
    with (folder / "trials.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def history(result_folder: Path, target: int) -> list[Any]:
    storage = open_storage(None, result_folder / "study.journal")
    study = optuna.load_study(study_name=result_folder.name, storage=storage)
    return lineages(study.trials, target)


@pytest.fixture
def study(tmp_path: Path, tiny_data: str) -> Callable[..., StudyResult]:
    """study(**keys): a study of the double, to its end."""

    def _study(where: str = "", **keys: Any) -> StudyResult:
        folder = tmp_path / where
        folder.mkdir(exist_ok=True)
        return run(str(folder), tiny_data, {"study": "s", "trials": 6, **keys})

    return _study


def test_the_same_seed_makes_the_same_trials(study: Callable[..., StudyResult]) -> None:
    first, again, other = (study(where, trials=14, seed=seed) for where, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert rows(first.folder) == rows(again.folder) != rows(other.folder)
    assert first.best == again.best


def test_values_are_those_of_the_keys_and_best_is_the_best(study: Callable[..., StudyResult]) -> None:
    result = study(trials=14, pruner="none")
    assert result.counts == {"complete": 14, "pruned": 0, "failed": 0}
    found = [lin.last for lin in history(result.folder, 14)]
    assert [t.value for t in found] == pytest.approx([truth(t.params) for t in found])
    assert result.best[0].values["AP"] == max(t.value for t in found if t.value is not None)


def test_pruning_saves_epochs_and_says_how_many(study: Callable[..., StudyResult]) -> None:
    result = study(trials=20, epochs=6, pruner="median")
    trained, full = result.epochs
    assert result.counts["pruned"] > 0 and full == 120
    assert trained == sum(int(row["epochs"]) for row in rows(result.folder)) < full
    assert any(line.startswith(f"pruning: {trained} of 120 epochs") for line in result.lines())


def test_a_finished_study_goes_on_to_more_trials_with_what_it_knows(study: Callable[..., StudyResult]) -> None:
    whole = study("whole", trials=15, pruner="none")
    study("parts", trials=6, pruner="none")
    assert study("parts", trials=6, pruner="none").counts["complete"] == 6
    assert rows(study("parts", trials=15, pruner="none").folder) == rows(whole.folder)


def test_several_objectives_give_a_pareto_front(study: Callable[..., StudyResult]) -> None:
    result = study(objective=["AP", "tail10"], sampler="nsga2", trials=8, plots=True)
    points = [f.values for f in result.best]
    for a in points:
        assert not any(b != a and b["AP"] >= a["AP"] and b["tail10"] >= a["tail10"] for b in points)
    assert (result.folder / "pareto.png").stat().st_size > 1000
    assert len(list((result.folder / "front").iterdir())) == len(points)


def test_a_grid_is_tried_point_by_point(study: Callable[..., StudyResult]) -> None:
    result = study(sampler="grid", grid_points=2, trials=100, pruner="none")
    assert result.counts["complete"] == 8
    assert len({(row["key lr"], row["key momentum"], row["key optimizer"]) for row in rows(result.folder)}) == 8


def test_what_a_study_leaves_behind(study: Callable[..., StudyResult]) -> None:
    folder = study(trials=8, plots=True, pruner="none").folder
    pictures = ("history.png", "importance.png", "slice.png", "parallel.png")
    for name in (
        *pictures,
        "best.yaml",
        "trials.csv",
        "summary.json",
        "summary.html",
        "study.journal",
        "logs/0000.log",
    ):
        assert (folder / name).is_file(), name
    page = (folder / "summary.html").read_text()
    assert page.count("data:image/png;base64") == 4 and "8 complete" in page
    assert json.loads((folder / "summary.json").read_text())["trials"]["complete"] == 8


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "reason"), [(100, "killed by SIGKILL"), (101, "lr: expected a better one"), (102, "MemoryError")]
)
def test_bad_trials_fail_alone_and_the_study_says_why(
    seed: int, reason: str, study: Callable[..., StudyResult]
) -> None:
    result = study(seed=seed, trials=10, pruner="none")
    values = [truth(lin.last.params) for lin in history(result.folder, 10)]
    bad = [i for i, value in enumerate(values) if value <= 0.3]
    assert result.counts == {"complete": 10 - len(bad), "pruned": 0, "failed": len(bad)} and 0 < len(bad) < 10
    assert [n for n, _ in result.failures] == bad and all(r.startswith(reason) for _, r in result.failures)


def test_a_study_without_a_complete_trial_ends_with_exit_code_1(
    tiny_keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text("lr: {low: 0.1, high: 0.2}")
    keys = {k: v for k, v in tiny_keys(tmp_path).items() if k not in ("lr", "plots", "workers", "name")}
    args = {k: json.dumps(v) if isinstance(v, dict | bool) else v for k, v in keys.items()}
    words = [f"{k}={v}" for k, v in args.items()] + [f"space={tmp_path / 'space.yaml'}", "trials=2", "study=s"]
    # the file is there when keys are checked, and is not when a trial starts
    assert main(["tune", *words, "weights=nowhere.pt", "plots=false"]) == 1
    out = capsys.readouterr().out
    assert "2 failed" in out and "no trial completed" in out and "failed 2x: weights: " in out
    assert not (tmp_path / "s" / "best.yaml").exists()


@pytest.mark.parametrize(
    ("keys", "space", "message"),
    [
        ({}, "lrr: {low: 0.1, high: 1}", "space: unknown key 'lrr'"),
        ({}, "model_args.lambda_clss: {low: 0, high: 1}", "model_args.lambda_clss: unknown option"),
        ({}, "model_args.lambda_cls: {low: -1, high: 1}", "model_args: "),
        ({}, "momentum: {low: 0, high: 2}", "space: momentum=2: momentum: "),
        ({}, "data: [demo, coco]", "space: expected a key that trials may differ in, got data"),
        ({"momentum": 0.5}, "momentum: {low: 0, high: 1}", "momentum: expected it once"),
        ({"objective": "tail11"}, "", "objective: unknown metric 'tail11'"),
        ({"objective": "APl"}, "", "objective: expected a metric that this split has, got APl"),
        ({"objective": ["AP", "AP"]}, "", "objective: expected different ones"),
        ({"objective": "tail10.image", "pruner": "median"}, "", "pruner: expected none"),
        ({"objective": "AR100", "pruner": "median"}, "", "pruner: expected none"),
        ({"storage": "sqlite:////nowhere/x.db"}, "", "storage: expected one that answers"),
        ({"split": "val"}, "", "split: expected holdout:SHARE, got val"),
        ({"split": "holdout:2"}, "", "split: expected holdout:SHARE"),
        ({"space": "optimiser"}, "", "space: expected a YAML file, got optimiser; did you mean 'tune/optimizer'"),
        ({"space": None}, "", "space: expected a YAML file, got none"),
        ({"resume": "x"}, "", "resume: expected no such key"),
        ({"trails": 3}, "", "trails: unknown key; did you mean 'trials'"),
        ({"epoch": 3}, "", "epoch: unknown key; did you mean 'epochs'"),
        ({"sampler": "tpee"}, "", "sampler: expected one of"),
        ({"device": "cuda:77"}, "", "device: expected"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    keys: dict[str, Any], space: str, message: str, tmp_path: Path, tiny_data: str
) -> None:
    if space:
        (tmp_path / "space.yaml").write_text(space)
    with pytest.raises(InputError) as caught:
        plan(tmp_path, tiny_data, study="s", **keys)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["space.yaml"]


def test_another_study_under_the_same_name_is_refused(study: Callable[..., StudyResult]) -> None:
    study(trials=2)
    with pytest.raises(InputError, match=r"^study: expected s's own objective, \['AP'\], got \['tail10'\]"):
        study(trials=2, objective="tail10")
    with pytest.raises(InputError, match="own keys"):
        study(trials=2, imgsz=96)


# -- many processes, and their deaths ----------------------------------------------------------------------------------


def begin(folder: Path, data: str, **keys: Any) -> Any:
    """A process that works on a study. A plain fork would copy hotcoco's threads, which do not work there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "pytest"])
    process = context.Process(target=run, args=(str(folder), data, {"study": "s", **keys}))
    process.start()
    return process


def test_four_processes_on_one_journal_do_every_trial_once(tmp_path: Path, tiny_data: str) -> None:
    (tmp_path / "space.yaml").write_text("lr: {low: 0.0001, high: 0.1}\nmomentum: {low: 0, high: 1}\noptimizer: [sgd]")
    processes = [begin(tmp_path, tiny_data, trials=24, pruner="none") for _ in range(4)]
    for process in processes:
        process.join(200)
    assert [p.exitcode for p in processes] == [0] * 4
    found = history(tmp_path / "s", 24)
    assert len(found) == 24 and all(lin.last.state.name == "COMPLETE" and len(lin.attempts) == 1 for lin in found)
    ran = Counter((tmp_path / "s" / "ran.txt").read_text().split())
    assert len(ran) == 24 and set(ran.values()) == {1}
    owners = {lin.last.system_attrs["iifdet:owner"] for lin in found}
    assert len(owners) > 1, "more than one of them worked"


def kill_and_resume(folder: Path, data: str, rounds: int, trials: int) -> list[Any]:
    """Let a process work, kill it at a random moment, let the next one go on; the last one ends the study."""
    chance, journal = random.Random(0), folder / "s" / "study.journal"
    for _ in range(rounds):
        size = journal.stat().st_size if journal.exists() else 0
        process = begin(folder, data, trials=trials, pruner="none", sampler="random")
        while process.is_alive() and (not journal.exists() or journal.stat().st_size <= size):
            process.join(0.005)
        process.join(chance.uniform(0, 0.5))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    result = run(str(folder), data, {"study": "s", "trials": trials, "pruner": "none", "sampler": "random"})
    assert result.counts["complete"] == trials
    return history(folder / "s", trials)


def check_killed(found: list[Any], whole: StudyResult, trials: int) -> None:
    """No trial is lost or counted twice, and all are those of a study that nobody disturbed."""
    assert [lin.root for lin in found] == [lin.root for lin in history(whole.folder, trials)]
    for lineage in found:
        ended = [t for t in lineage.attempts if t.state.name == "COMPLETE"]
        assert len(ended) == 1 and ended[0].value == pytest.approx(truth(ended[0].params))
    undisturbed = [lin.last.params for lin in history(whole.folder, trials)]
    assert [lin.last.params for lin in found] == undisturbed


def test_killed_and_resumed_no_trial_is_lost_or_counted_twice(
    tmp_path: Path, tiny_data: str, study: Callable[..., StudyResult]
) -> None:
    whole = study("whole", trials=12, pruner="none", sampler="random")
    found = kill_and_resume(tmp_path, tiny_data, rounds=3, trials=12)
    check_killed(found, whole, 12)


@pytest.mark.slow
def test_killed_20_times_at_random_moments(tmp_path: Path, tiny_data: str, study: Callable[..., StudyResult]) -> None:
    whole = study("whole", trials=80, pruner="none", sampler="random")
    found = kill_and_resume(tmp_path, tiny_data, rounds=20, trials=80)
    check_killed(found, whole, 80)
    assert sum(len(lin.attempts) for lin in found) > 84, "some were killed in the middle of a trial"


def test_ctrl_c_puts_running_trials_back_and_writes_the_tables(tmp_path: Path, tiny_data: str) -> None:
    process = begin(tmp_path, tiny_data, trials=2000, pruner="none", sampler="random")
    journal = tmp_path / "s" / "trials.csv"
    while process.is_alive() and not journal.exists():
        process.join(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 1  # KeyboardInterrupt in a bare process; the command line makes 130 of it
    found = history(tmp_path / "s", 2000)
    states = Counter(lin.last.state.name for lin in found)
    assert states["RUNNING"] == 0 and states["FAIL"] == 0 and states["COMPLETE"] > 0
    assert len(rows(tmp_path / "s")) == 2000


# -- real trainings ----------------------------------------------------------------------------------------------------


def test_real_trials_leave_a_recipe_that_train_takes(
    tiny_keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text(
        "lr: {type: float, low: 1e-4, high: 1e-2, log: true, start: 0.002}\nmodel_args.lambda_cls: [0.5, 1.0]"
    )
    keys = {k: v for k, v in tiny_keys(tmp_path).items() if k not in ("lr", "workers", "name")}
    chosen = {"space": str(tmp_path / "space.yaml"), "trials": 2, "study": "s", "split": "holdout:0.25", "seed": 3}
    result = iifdet.tune(**{**keys, **chosen, "plots": True})
    assert result.counts["complete"] == 2 and result.tuned_on.endswith("training images held out (holdout:0.25)")
    best, params = read_yaml(result.folder / "best.yaml"), result.best[0].params
    assert best["tuned"] == {
        "study": "s",
        "trial": result.best[0].number,
        "on": "holdout:0.25",
        **result.best[0].values,
    }
    wanted = resolve(TrainConfig, {**keys, **params, "seed": 3}).model_dump()
    got = resolve(TrainConfig, {"model": str(result.folder / "best.yaml")}).model_dump()
    odd = {k for k in wanted if wanted[k] != got[k]}
    assert odd <= {"project", "name", "device", "plots", "verbose", "tuned", "exist_ok", "workers"}
    trial = yaml.safe_load((result.folder / "trials" / "0000" / "args.yaml").read_text())
    assert trial["holdout"] == 0.25 and trial["lr"] == 0.002
    assert not (result.folder / "trials" / "0000" / "weights").exists()
    final = iifdet.train(model=str(result.folder / "best.yaml"), project=str(tmp_path), name="final", plots=False)
    assert yaml.safe_load((final.folder / "args.yaml").read_text())["tuned"]["study"] == "s"


def test_tuned_on_val_is_written_down(tmp_path: Path, tiny_data: str) -> None:
    result = run_study(plan(tmp_path, tiny_data, study="s", trials=2, split="val", on_val=True))
    assert result.tuned_on == "val"
    assert read_yaml(result.folder / "best.yaml")["tuned"]["on"] == "val"


def test_the_double_is_the_seam_where_train_stands(tmp_path: Path, tiny_data: str) -> None:
    (tmp_path / "space.yaml").write_text("lr: {low: 0.1, high: 0.2}")
    keys = {"space": str(tmp_path / "space.yaml"), "data": tiny_data, "project": str(tmp_path), "device": "cpu"}
    job: Any = build_study({**keys, "split": "holdout:0.3"}, train).job
    assert job.train is train
    assert build_study({**keys, "split": "holdout:0.3"}, iifdet.train).job.train is iifdet.train  # type: ignore[attr-defined]
