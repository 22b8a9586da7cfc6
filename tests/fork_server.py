"""A process that has imported everything and forks one child for each run it is asked for.

Importing torch costs seconds, forking milliseconds: so a test can afford to kill real processes. Started as a script
with one thread (a fork would lose the others), it reads one JSON request a line and answers each with one line.

Request: ``{"keys": {…}, "log": file, …}``, see :func:`make_diary`. Answer: ``{"codes": [exit code, or minus the
signal]}``, one for each of the ``world`` processes of the run. Those after the first log into ``<log>.<rank>.log``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: How long a child may take in all, seconds.
PATIENCE = 120


class ForkServer:
    """The test's end of it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parent.parent,
        )

    def run(self, **request: Any) -> int:
        """Run one child to its end; its exit code, minus the signal's number where one ended it."""
        return self.run_many(world=1, **request)[0]

    def run_many(self, **request: Any) -> list[int]:
        """Run the children of one run to their ends; their exit codes."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the server has died"
        return [int(code) for code in json.loads(answer)["codes"]]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def serve() -> None:
    import torch

    from iifdet import api, build, cli  # noqa: F401  imported for the children

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = {**json.loads(line), "port": _free_port()}
        read, write = os.pipe()
        children = [_fork(request, rank, read, write) for rank in range(request["world"])]
        os.close(write)
        if "kill" in request:
            _kill_at(children[0], read, request["kill"])
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        os.close(read)
        print(json.dumps({"codes": codes}), flush=True)


def _fork(request: dict[str, Any], rank: int, read: int, write: int) -> int:
    log = Path(request["log"])
    request = {**request, "rank": rank, "log": str(log.with_suffix(f".{rank}.log") if rank else log)}
    child = os.fork()
    if child:
        return child
    os.close(read)
    os.setsid()
    said = os.open(Path(request["log"]).with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1), os.dup2(said, 2)  # the pipe of answers is the server's own
    os._exit(_child(request, write))


def _child(request: dict[str, Any], pipe: int) -> int:
    from iifdet import api, cli

    signal.alarm(PATIENCE)
    if request["world"] > 1:  # as torchrun sets them
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (request["rank"], request["rank"], request["world"], "127.0.0.1", request["port"])
        os.environ |= {name: str(value) for name, value in zip(names, values, strict=True)}
    true = api.train
    api.VERBS["train"] = lambda **keys: true(callbacks=[make_diary(request, pipe)], **keys)
    try:
        return cli.main([request.get("verb", "train"), "verbose=false", *words(request["keys"])])
    except BaseException:
        traceback.print_exc()
        return 1


def words(keys: dict[str, Any]) -> list[str]:
    return [f"{k}={json.dumps(v) if isinstance(v, dict | list | bool) else v}" for k, v in keys.items()]


def make_diary(request: dict[str, Any], pipe: int) -> Any:
    """A callback that notes every step with a hash of the weights, and does what the request asks at one of them.

    With ``only``, it is done by the process of this rank alone.
    """
    from iifdet.training import Callback

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    act = request.get("only", request["rank"]) == request["rank"]

    class Diary(Callback):
        def on_batches(self, state: Any, batches: Any) -> None:
            if act and [state.epoch, state.batch] in request.get("poison_at", []):
                batches[0].images = batches[0].images / 255 * float("nan")

        def on_step(self, state: Any, losses: Any, lr: float, batches: int) -> None:
            weights = hashlib.sha256()
            for value in state.model.state_dict().values():
                weights.update(value.numpy().tobytes())
            place = [state.epoch, state.batch]
            os.write(log, f"step {state.epoch} {state.batch} {weights.hexdigest()[:16]} {lr!r}\n".encode())
            scale = state.model.adjust.batch_scale
            note = {"losses": losses, "online": None if scale is None else scale.tolist()}
            os.write(log, f"note {state.epoch} {state.batch} {json.dumps(note, separators=(',', ':'))}\n".encode())
            if act and place == request.get("signal_at"):
                _signal_group(request["signal"])
            if place == request.get("full_at"):  # no file may grow any more: the write fails in the kernel
                resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
            if place == request.get("kill", {}).get("after"):
                os.write(pipe, b"!")

        def on_validate(self, state: Any) -> None:
            calls = itertools.count(1)

            def hook(*_: Any) -> None:
                os.write(log, f"validated {state.epoch}\n".encode())
                if act and next(calls) == request.get("signal_after_val_batch"):
                    _signal_group(request["signal"])

            if "signal_after_val_batch" in request:
                state.model.register_forward_hook(hook)

    return Diary()


def _signal_group(name: str) -> None:
    """To this process and its workers, from another process: of their parent's SIGTERM workers do not die."""
    subprocess.run(["kill", "-s", name, "--", f"-{os.getpgrp()}"], start_new_session=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kill_at(child: int, read: int, kill: dict[str, Any]) -> None:
    """SIGKILL at a random moment after a step: in a forward or backward pass, in the optimizer, in a write."""
    if select.select([read], [], [], PATIENCE)[0] and os.read(read, 1):
        time.sleep(random.Random(kill["seed"]).uniform(0, kill["within"]))
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    serve()
    os._exit(0)  # torch takes seconds to say goodbye
