"""Names, files and lock of a run folder."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from iifdet.config import ValConfig, resolve
from iifdet.errors import InputError
from iifdet.rundir import RunDir
from iifdet.running.folder import validation_folder


def test_names_are_counted_up(tmp_path: Path) -> None:
    made = [RunDir.create("train", str(tmp_path), "run").path.name for _ in range(3)]
    assert made == ["run", "run-2", "run-3"]


def test_a_name_may_hold_a_folder_and_defaults_to_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDir.create("val", None, None).path == Path("runs/val/val")
    assert RunDir.create("val", None, "a/b").path == Path("runs/val/a/b")


def test_exist_ok_takes_the_folder_there_is(tmp_path: Path) -> None:
    first = RunDir.create("train", str(tmp_path), "run")
    (first.path / "mine.txt").write_text("kept")
    again = RunDir.create("train", str(tmp_path), "run", exist_ok=True)
    assert again.path == first.path and (again.path / "mine.txt").read_text() == "kept"


def test_a_validation_does_not_write_over_a_training(tmp_path: Path) -> None:
    run = RunDir.create("train", str(tmp_path), "run")
    run.last.parent.mkdir()
    keys = {"weights": "x.pt", "project": tmp_path, "name": "run"}
    with pytest.raises(InputError, match="exist_ok: expected the folder of a validation, got the training"):
        validation_folder(resolve(ValConfig, {**keys, "exist_ok": True}))
    assert validation_folder(resolve(ValConfig, keys)).path.name == "run-2"
    assert RunDir.create("train", str(tmp_path), "run", exist_ok=True).path == run.path


@pytest.mark.parametrize("exist_ok", [True, False])
def test_a_file_in_the_way_is_refused(tmp_path: Path, exist_ok: bool) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="got the file"):
        RunDir.create("train", str(tmp_path), "run", exist_ok)
    with pytest.raises(InputError, match="choose another"):
        RunDir.create("train", str(tmp_path / "run"), "x", exist_ok)


def test_rows_keep_columns_in_order_of_appearance(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": None, "AP": 0.1}]
    path = RunDir(tmp_path).write_rows("results.csv", rows)
    assert path.read_text().splitlines()[0] == "epoch,loss,AP"
    with path.open() as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": "2.5", "AP": ""},
            {"epoch": "2", "loss": "", "AP": "0.1"},
        ]


def test_floats_survive_a_csv_to_the_last_bit(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    path = RunDir(tmp_path).write_rows("results.csv", [{"loss": value}])
    assert float(path.read_text().split()[1]) == value


def test_json_and_yaml_come_back_as_written(tmp_path: Path) -> None:
    run, value = RunDir(tmp_path), {"AP": 0.25, "tail5": {"image": None}, "name": "Ü"}
    assert json.loads(run.write_json("a.json", value).read_text()) == value
    assert yaml.safe_load(run.write_yaml("a.yaml", value).read_text()) == value


def test_nan_is_no_json_and_the_old_file_stays(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_json("metrics.json", {"AP": 1})
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("metrics.json", {"AP": float("nan")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"AP": 1}


def test_the_environment_names_versions_but_no_machine(tmp_path: Path) -> None:
    RunDir(tmp_path).write_environment()
    noted = json.loads((tmp_path / "environment.json").read_text())
    assert {"python", "torch", "torchvision", "device"} <= set(noted)


def test_a_held_folder_refuses_a_second_holder_and_opens_after(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.lock(), pytest.raises(InputError, match="in use by another run"), run.lock():
        pass
    with run.lock():
        pass


def test_what_a_dead_process_was_writing_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    half = [
        "weights/.last.pt.x7_3ka2b",
        "weights/.last.prev.pt.4711",
        ".results.csv.abcd1234",
        ".metrics.json.0a0a0a0a",
    ]
    whole = [".lock", "weights/last.pt", "weights/.mine", "notes.txt", ".notes.txt.swp"]
    for name in (*half, *whole):
        (tmp_path / name).touch()
    RunDir(tmp_path).sweep()
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(whole)


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from iifdet.rundir import RunDir\n"
    code += "RunDir(pathlib.Path(sys.argv[1])).lock().__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    with RunDir(tmp_path).lock():
        pass


def test_a_lock_that_was_let_go_of_leaves_no_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.lock():
        assert (tmp_path / ".lock").is_file()
    assert not list(tmp_path.iterdir())


def test_a_lock_on_a_file_that_was_just_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process lets go between the opening of its file and the lock on it: that lock would keep nobody out."""
    fcntl = pytest.importorskip("fcntl", reason="no such locks here")
    run, taken, flock = RunDir(tmp_path), [], fcntl.flock

    def late(file: Any, flags: int) -> None:
        taken.append(file)
        if len(taken) == 1:
            (tmp_path / ".lock").unlink()
        flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with run.lock():
        assert len(taken) == 2
        with pytest.raises(InputError, match="in use by another run"), run.lock():
            pass


def test_a_folder_that_went_away_with_its_lock_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with RunDir(folder).lock():
        shutil.rmtree(folder)


def test_errors_call_the_name_as_the_user_wrote_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^study: expected a folder inside"):
        RunDir.create("tune", str(tmp_path), "../x", key="study")
