"""Where studies live, and the lock of a journal."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from iifdet.errors import InputError
from iifdet.tuning import describe_storage, open_storage
from iifdet.tuning.locking import OwnedLock
from iifdet.tuning.machine import Owner, here

GONE = Owner(here(), 2**22 + 1, "0")


def test_an_owner_is_dead_only_where_that_is_certain() -> None:
    me = Owner.current()
    assert not me.is_dead() and GONE.is_dead()
    assert Owner(here(), me.pid, "1").is_dead(), "another process had this number before"
    assert not Owner("elsewhere", 2**22 + 1, "0").is_dead()
    assert Owner.parse(str(me)) == me and Owner.parse(None) is None and Owner.parse("a b") is None


def test_a_killed_process_counts_as_dead_before_its_parent_has_noticed() -> None:
    child = subprocess.Popen(["sleep", "100"])
    owner = Owner(here(), child.pid, Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert not owner.is_dead()
    os.kill(child.pid, 9)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert owner.is_dead()
    child.wait()


def test_the_lock_of_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    lock = OwnedLock(tmp_path / "j", grace=1e9)
    os.symlink(str(GONE), lock.link)
    assert lock.acquire()
    assert os.readlink(lock.link) == str(Owner.current())
    lock.release()
    assert not os.path.lexists(lock.link)


def test_a_lock_that_nobody_can_judge_is_broken_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("iifdet.tuning.locking.time.monotonic", lambda: clock[0])
    tries = []

    def sleep(_: float) -> None:
        tries.append(clock[0])
        clock[0] += 10

    monkeypatch.setattr("iifdet.tuning.locking.time.sleep", sleep)
    lock = OwnedLock(tmp_path / "j", grace=25)
    os.symlink("elsewhere 1 0", lock.link)
    lock.acquire()
    assert tries == [0, 10, 20]


def _count(path: str, times: int) -> None:
    """Add to a number in a file, which goes wrong as soon as two do it at once."""
    lock, file = OwnedLock(f"{path}.j"), Path(path)
    for _ in range(times):
        lock.acquire()
        file.write_text(str(int(file.read_text()) + 1))
        lock.release()


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "n"
    file.write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(str(file), 60)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert file.read_text() == "240" and all(p.exitcode == 0 for p in processes)


def test_journals_and_databases_keep_a_study(tmp_path: Path) -> None:
    for where in (None, str(tmp_path / "other.log"), f"sqlite:///{tmp_path / 'study.db'}"):
        for _ in range(2):
            storage = open_storage(where, tmp_path / "study.journal")
            study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
            study.tell(study.ask(), 1.0)
        assert len(study.trials) == 2


PROXY = """
import optuna, sys
from optuna.storages import JournalStorage, run_grpc_proxy_server
from optuna.storages.journal import JournalFileBackend
run_grpc_proxy_server(JournalStorage(JournalFileBackend(sys.argv[1])), host="localhost", port=int(sys.argv[2]))
"""


def test_a_grpc_proxy_keeps_a_study(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROXY, str(tmp_path / "j"), str(port)], stderr=subprocess.DEVNULL
    )
    try:
        storage = open_storage(f"grpc://localhost:{port}", tmp_path / "unused")
        study = optuna.create_study(storage=storage, study_name="s")
        study.tell(study.ask(), 1.0)
        assert study.best_value == 1.0
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere/study.journal", "expected a file in an existing folder"),
        ("sqlite:////nowhere/study.db", "expected one that answers"),
        ("nosuchdb://host/db", "expected one that answers|expected the packages"),
        ("grpc://localhost", "expected grpc://host:port"),
        ("grpc://localhost:1", "expected one that answers"),
    ],
)
def test_a_storage_that_does_not_answer_is_refused_in_one_line(
    where: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iifdet.tuning.storage.PATIENCE", 0.2)
    with pytest.raises(InputError, match=f"^storage: ({message})") as caught:
        open_storage(where, tmp_path / "study.journal")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("once upon a time\nthere was no JSON\n")
    with pytest.raises(InputError, match=r"^storage: expected one that answers"):
        open_storage(None, tmp_path / "study.journal")


def test_passwords_are_not_shown() -> None:
    assert describe_storage("postgresql://me:secret@host/db", Path("x")) == "postgresql://me:***@host/db"
    assert describe_storage(None, Path("x/study.journal")) == "x/study.journal"
