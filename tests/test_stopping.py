"""Signals while a run validates: it does not wait for the end of it, and loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from runs import equal
from torch import nn
from toy_run import Loader, everything, run_toy

import iifdet
from iifdet.checkpoint import read_checkpoint
from iifdet.cli import main
from iifdet.distributed import World
from iifdet.evaluation import DetectionEvaluator
from iifdet.training import GracefulStop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_during_validation_leaves_after_the_batch_and_replays_no_step(
    tmp_path: Path, number: signal.Signals, code: int | None
) -> None:
    """Of 6 batches of the first validation the second brings the signal; the third is not begun."""
    batches, sent = [], []

    def validation(model: nn.Module, before_batch: Callable[[], None]) -> None:
        for batch in Loader().epoch(0):
            before_batch()
            model(batch.images, batch.targets)
            batches.append(len(batch))
            if len(batches) == 2 and not sent:
                sent.append(True)
                os.kill(os.getpid(), number)

    whole = everything(run_toy(tmp_path / "whole"))
    with pytest.raises(SystemExit if code else KeyboardInterrupt) as left:
        run_toy(tmp_path / "run", validation=validation)
    assert code is None or left.value.code == code
    assert len(batches) == 2
    training = read_checkpoint(tmp_path / "run" / "weights" / "last.pt")["training"]
    assert (training["epoch"], training["batch"]) == (0, 6), "all steps of the epoch, and its validation still to come"
    equal(whole, everything(run_toy(tmp_path / "run")))


def test_a_signal_while_processes_agree_is_agreed_on_the_next_time() -> None:
    """Where a process waits for the others is where most of its signals come."""

    class Waiting(World):
        size = 2

        def largest(self, values: Sequence[int]) -> list[int]:
            if not any(values):
                os.kill(os.getpid(), signal.SIGTERM)
            return list(values)

    with GracefulStop(Waiting()) as stop:
        stop.agree()
        assert not stop.asked, "the others know nothing of it yet"
        assert not stop.agree(False) and stop.signal == signal.SIGTERM
        assert stop.agree(True), "another question is answered along with it"


def test_sigterm_ends_a_validation_of_its_own_and_its_workers(
    tiny_keys: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = iifdet.train(**tiny_keys(tmp_path, epochs=1)).folder / "weights" / "last.pt"
    met = []

    def update(*_: object) -> None:
        met.append(len(multiprocessing.active_children()))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DetectionEvaluator, "update", update)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["val", f"weights={weights}", f"project={tmp_path}", "workers=2", "batch=2", "verbose=false"]) == 143
    assert met == [2] and not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is before
