"""A trial in a process of its own, forked from a server that has imported everything: a crash ends one trial only."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from iifdet.errors import InputError

#: Seconds that a process has to end when it is told to, before it is killed.
PATIENCE = 2.0
#: What multiprocessing gives as exit code where the fork server can no longer be asked.
LOST = 255


class Pruned(Exception):
    """The study has stopped this trial."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        kind: ``complete``, ``pruned``, ``failed``, or ``lost`` with the fork server, which is no fault of the trial.
        values: the objectives of a complete one.
        figures: further numbers of it.
        reason: why it failed, in one line.
    """

    kind: str
    values: tuple[float, ...] = ()
    figures: dict[str, Any] | None = None
    reason: str = ""


#: (step, value) -> None, or raises Pruned.
Report = Callable[[int, float], None]
#: Runs in the trial's process: (its keys, Report) -> (objectives, figures).
Job = Callable[[dict[str, Any], Report], tuple[Sequence[float], dict[str, Any]]]


def fork_server(preload: Sequence[str] = ()) -> Any:
    """Start the server that trials are forked from. It imports ``preload`` once and never touches a GPU.

    Where there is no such server (Windows), each trial starts an interpreter.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    forkserver.ensure_running()
    return context


class TrialProcess:
    """One trial that runs.

    Args:
        context: what :func:`fork_server` gave.
        job: the work, importable by name in another process.
        keys: the keys of the trial.
        threads: how many threads its CPU arithmetic may use.
        log: file for everything that it says.
    """

    def __init__(self, context: Any, job: Job, keys: dict[str, Any], threads: int, log: Path) -> None:
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, job, keys, threads, str(log)))
        self._process.start()
        theirs.close()

    @property
    def waits_for(self) -> list[Any]:
        """What :func:`multiprocessing.connection.wait` should look at."""
        return [self.pipe, self._process.sentinel]

    def read(self) -> tuple[int, float] | Outcome | None:
        """A report (step, value), the outcome, or None while there is neither. Answer reports with :meth:`answer`."""
        with contextlib.suppress(EOFError, OSError):
            if self.pipe.poll():
                message: tuple[int, float] | Outcome = self.pipe.recv()
                return message
        if self._process.is_alive():
            return None
        self._process.join()
        if self._process.exitcode == LOST:
            return Outcome("lost", reason="the server that trials are forked from has ended")
        return Outcome("failed", reason=_cause(self._process.exitcode))

    def answer(self, go_on: bool) -> None:
        """Let the trial go on, or stop it."""
        with contextlib.suppress(OSError):  # it has died meanwhile, which read() finds out
            self.pipe.send(go_on)

    def close(self) -> None:
        """End the process if it has not."""
        self.pipe.close()  # it takes this as the end of the study
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


# -- in the trial's process --------------------------------------------------------------------------------------------


def _main(pipe: Connection, job: Job, keys: dict[str, Any], threads: int, log: str) -> None:
    os.setsid()  # Ctrl-C is the study's business
    _write_into(log)
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, answers), daemon=True).start()
    _limit_threads(threads)

    def report(step: int, value: float) -> None:
        pipe.send((step, value))
        if not answers.get():
            raise Pruned

    outcome = _run(job, keys, report)
    pipe.send(outcome)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)  # torch takes seconds to say goodbye


def _run(job: Job, keys: dict[str, Any], report: Report) -> Outcome:
    try:
        values, figures = job(keys, report)
        return Outcome("complete", tuple(values), figures)
    except Pruned:
        return Outcome("pruned")
    except InputError as error:
        return Outcome("failed", reason=_line(str(error)))
    except (KeyboardInterrupt, SystemExit):
        return Outcome("failed", reason="interrupted by a signal")
    except BaseException as error:
        traceback.print_exc()
        return Outcome("failed", reason=_line(f"{type(error).__name__}: {error}"))


def _line(text: str, length: int = 300) -> str:
    return " ".join(text.split())[:length]


def _listen(pipe: Connection, answers: queue.SimpleQueue[bool]) -> None:
    """Hand answers over; when the study's process is gone, or what it was forked from, be gone as well."""
    parent = os.getppid()
    while True:
        try:
            if pipe.poll(1.0):
                answers.put(pipe.recv())
            elif os.getppid() != parent:
                os._exit(1)
        except (EOFError, OSError):
            os._exit(1)


def _write_into(log: str) -> None:
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1), os.dup2(file, 2)
    os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))


def _limit_threads(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
