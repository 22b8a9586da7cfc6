"""Runs that are cut off go on to the same bits; signals; what can be resumed, and with which keys."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import HARD, Interrupt, equal, last_of, rows_of, same_run

import iifdet
from iifdet.detectors.darknet_weights import save_darknet
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.training import Callback, GracefulStop, TrainState

Keys = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("changes", "at", "saved"),
    [
        ({}, (1, 4), (1, 2)),  # in mid-epoch, after batch 2 was saved
        ({"optimizer": "adamw", "workers": 2}, (2, 6), (2, 4)),
        ({}, (1, 2), (1, 0)),  # right after an epoch
        ({"strategy": "cost_sensitive", "freeze": 4}, (0, 6), (0, 4)),
        ({"mosaic": 0.7, "mixup": 0.3, "copy_paste": 0.5, "close_mosaic": 1, "workers": 2}, (2, 4), (2, 2)),
        ({"rect": True}, (1, 4), (1, 2)),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any], at: tuple[int, int], saved: tuple[int, int]
) -> None:
    keys = tiny_keys(tmp_path, **{**HARD, **changes})
    whole = iifdet.train(**{**keys, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(*at)], **keys)
    state = last_of(tmp_path / "run")["training"]
    assert (state["epoch"], state["batch"]) == saved and not (tmp_path / "run" / "metrics.json").exists()
    torch.manual_seed(12345)  # a new process would have another generator state
    resumed = iifdet.train(resume=tmp_path / "run")
    same_run(whole.folder, resumed.folder)
    whole.metrics.pop("notices"), resumed.metrics.pop("notices")
    assert resumed.metrics == whole.metrics and resumed.folder == tmp_path / "run"


def test_resume_takes_a_file_another_device_key_and_worker_count_but_nothing_else(
    tiny_keys: Keys, tmp_path: Path
) -> None:
    keys = tiny_keys(tmp_path)
    with pytest.raises(RuntimeError):
        iifdet.train(callbacks=[Interrupt(1, 1)], **keys)
    last = tmp_path / "run" / "weights" / "last.pt"
    for wrong in ({"epochs": 9}, {"epohcs": 9}, {"workers": -1}, {"device": "gpu"}):
        with pytest.raises(InputError):
            iifdet.train(resume=str(last), **wrong)
    assert iifdet.train(resume=str(last), workers=2, device="cpu", epochs=2).metrics["epochs"] == 2


def test_resuming_needs_neither_the_pretrained_file_nor_other_classes(
    tiny_keys: Keys, tiny_copy: Path, tmp_path: Path
) -> None:
    first = iifdet.train(**tiny_keys(tmp_path, epochs=1, name="first")).folder
    keys = tiny_keys(tmp_path, weights=first / "weights" / "last.pt", data=tiny_copy / "data.yaml")
    with pytest.raises(RuntimeError):
        iifdet.train(callbacks=[Interrupt(1, 1)], **keys)
    (first / "weights" / "last.pt").unlink()
    text = {split: (tiny_copy / f"{split}.json").read_text() for split in ("train", "val")}
    for split, content in text.items():
        (tiny_copy / f"{split}.json").write_text(content.replace('"white"', '"pale"'))
    with pytest.raises(InputError, match="data: expected the run's 4 classes"):
        iifdet.train(resume=tmp_path / "run")
    for split, content in text.items():
        (tiny_copy / f"{split}.json").write_text(content)
    assert iifdet.train(resume=tmp_path / "run").metrics["epochs"] == 2


def test_a_run_that_started_from_a_darknet_file_goes_on_with_that_file_s_loss(tiny_keys: Keys, tmp_path: Path) -> None:
    """A whole file of Darknet's brings sigmoid scores, whatever the model's own options say."""

    class Stop(Callback):
        def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
            if state.epoch == 1:
                raise RuntimeError("power cut")

    keys = tiny_keys(tmp_path, epochs=2)
    model: Any = create_model(keys["model"], 4, **keys["model_args"])
    save_darknet(model, tmp_path / "whole.weights")
    keys["weights"] = str(tmp_path / "whole.weights")
    whole = iifdet.train(**{**keys, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Stop()], **keys)
    resumed = iifdet.train(resume=str(tmp_path / "run"))
    for run in (whole, resumed):
        loaded: Any = iifdet.load(run.folder / "weights" / "last.pt")
        assert (loaded.class_loss, loaded.class_activation) == ("bce", "sigmoid")
    equal(last_of(resumed.folder)["weights"], last_of(whole.folder)["weights"])


def test_resuming_a_finished_run_says_so_and_ends_with_0(
    tiny_keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from iifdet.cli import main

    done = iifdet.train(**tiny_keys(tmp_path, epochs=1))
    before = (done.folder / "weights" / "last.pt").read_bytes()
    again = iifdet.train(resume=done.folder)
    assert again.metrics == done.metrics and (done.folder / "weights" / "last.pt").read_bytes() == before
    assert main(["train", f"resume={done.folder}"]) == 0
    assert "is finished (1 epochs); nothing to do" in capsys.readouterr().err


def test_a_run_cut_off_between_its_last_checkpoint_and_its_figures_still_gets_them(
    tiny_keys: Keys, tmp_path: Path
) -> None:
    keys = tiny_keys(tmp_path, ema=0.9, lr=0.005, epochs=3)
    done = iifdet.train(**keys)
    figures = json.loads((done.folder / "metrics.json").read_text())
    rows = rows_of(done.folder)
    for name in ("metrics.json", "results.csv"):
        (done.folder / name).unlink()
    again = iifdet.train(resume=done.folder)
    assert again.metrics == figures and rows_of(done.folder) == rows and len(rows) == 3


def test_a_best_checkpoint_cannot_be_resumed(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1)).folder
    with pytest.raises(InputError, match="holds no optimizer state"):
        iifdet.train(resume=run / "weights" / "best.pt")


# -- signals -----------------------------------------------------------------------------------------------------------


def test_a_signal_in_the_last_epoch_lets_the_run_end(tiny_keys: Keys, tmp_path: Path) -> None:
    class Ask(Callback):
        def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
            if state.finished:
                os.kill(os.getpid(), signal.SIGTERM)

    result = iifdet.train(callbacks=[Ask()], **tiny_keys(tmp_path, epochs=1))
    assert (result.folder / "metrics.json").is_file()


def test_a_second_signal_interrupts_at_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.asked
        stop.agree()
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as left:
            stop.leave_if_asked()
        assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
