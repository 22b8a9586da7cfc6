"""Whole runs on a tiny data set: what they leave behind, that they repeat to the bit, and that they can be cut off."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import iifdet
from iifdet import build
from iifdet.checkpoint import read_checkpoint
from iifdet.config import TrainConfig, resolve
from iifdet.detectors.darknet_weights import save_darknet
from iifdet.detectors.yolov3 import YOLOv3
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.optim import AveragedWeights
from iifdet.rundir import RunDir
from iifdet.training import Callback, FitOptions, GracefulStop, TrainState, averaged, optimizer_step, rescale
from iifdet.training.multiscale import scale_of
from iifdet.types import Batch, ImageInfo, Target

Keys = Callable[..., dict[str, Any]]
#: Columns of results.csv that measure time.
CLOCKS = ("seconds", "images_per_s")


def last_of(run: Path) -> dict[str, Any]:
    return read_checkpoint(run / "weights" / "last.pt")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def same(a: Any, b: Any, where: str = "") -> None:
    """Assert that two nests of tensors and plain values are equal to the bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key not in CLOCKS:
                same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizer, counters and results are bit-equal; clocks aside."""
    one, other = last_of(a), last_of(b)
    for part in ("weights", "ema", "training", "names", "counts", "adjustment", "metrics"):
        same(one[part], other[part], part)
    assert rows_of(a) == rows_of(b)


class Interrupt(Callback):
    """Raise after batch ``batch`` of epoch ``epoch``, as a crash would: nothing is saved on the way out."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None:
        if (state.epoch, state.batch) == self.at:
            raise RuntimeError("power cut")


class Record(Callback):
    """Note every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, state: TrainState) -> None:
        self.calls.append("start")

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None:
        self.calls.append(f"step {state.epoch} {state.batch}/{batches}")

    def on_validate(self, state: TrainState) -> None:
        self.calls.append(f"validate {state.epoch}")

    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
        self.calls.append(f"epoch_end {row['epoch']}")

    def on_end(self, state: TrainState) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("close")


# -- what a run leaves behind ------------------------------------------------------------------------------------------


def test_validation_may_take_fewer_images_at_once_and_val_then_does_so_too(tiny_keys: Keys, tmp_path: Path) -> None:
    config = resolve(TrainConfig, tiny_keys(tmp_path, batch=8, val_batch=5))
    index = build.build_index(config, "val")
    assert [len(b) for b in build.build_val_batches(config, config, index, "detect")] == [5, 5, 2]
    run = iifdet.train(**tiny_keys(tmp_path, batch=8, val_batch=5, epochs=1)).folder
    again = iifdet.val(weights=run / "weights" / "last.pt", project=tmp_path, plots=False, workers=0)
    assert "batch: 5" in (again.folder / "args.yaml").read_text().splitlines()


def test_a_run_leaves_all_its_files_and_its_loss_falls(tiny_keys: Keys, tmp_path: Path) -> None:
    result = iifdet.train(**tiny_keys(tmp_path, epochs=6, lr=0.005, plots=True, ema=0.9, workers=2))
    run = result.folder
    pictures = {"labels.png", "results.png", "pr_curve.png", "confusion_matrix.png", "tail.png", "reliability.png"}
    pictures |= {"weight_norms.png", "train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg"}
    tables = {"args.yaml", "environment.json", "results.csv", "metrics.json", "per_class.csv", "predictions.json"}
    found = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert found == pictures | tables | {f"weights/{name}.pt" for name in ("last", "last.prev", "best")}
    assert all((run / name).stat().st_size > 500 for name in pictures)

    rows = rows_of(run)
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < 0.9 * float(rows[0]["loss"])
    assert float(rows[0]["loss"]) == pytest.approx(sum(float(v) for k, v in rows[0].items() if k.startswith("loss_")))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics == result.metrics and metrics["epochs"] == 6
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "tail5", "tail10", "tail20", "per_class"} <= set(metrics)
    assert float(rows[-1]["AP"]) == metrics["AP"] and 0 <= metrics["AP"] <= 1
    assert metrics["best"]["fitness"] == max(float(r["AP"]) for r in rows)
    with (run / "per_class.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["red", "green", "blue", "white"]
    args = yaml.safe_load((run / "args.yaml").read_text())
    assert resolve(TrainConfig, args).model_dump(mode="json") == args
    predictions = json.loads((run / "predictions.json").read_text())
    assert {p["category_id"] for p in predictions} <= {5, 15, 25, 35}
    last, best = last_of(run), read_checkpoint(run / "weights" / "best.pt")
    assert last["training"]["finished"] and best["training"] is None
    assert last["names"] == ["red", "green", "blue", "white"] and last["counts"]["images"].tolist() == [12, 7, 4, 1]


def test_validating_a_finished_run_repeats_its_figures(tiny_keys: Keys, tmp_path: Path) -> None:
    trained = iifdet.train(**tiny_keys(tmp_path, epochs=4, lr=0.005, ema=0.9, iou=0.5, max_det=50))
    checked = iifdet.val(weights=trained.folder / "weights" / "last.pt", project=tmp_path, plots=False, batch=5)
    assert trained.metrics["AP50"] > 0
    for name in ("AP", "AP50", "AP75", "tail5", "tail10", "groups"):
        assert checked.metrics[name] == trained.metrics[name], name


def test_names_are_counted_up_and_exist_ok_reuses_the_folder(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, epochs=1)
    folders = [iifdet.train(**keys).folder.name for _ in range(2)]
    assert folders == ["run", "run-2"]
    assert iifdet.train(**keys, exist_ok=True).folder.name == "run"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run-2"]


def test_a_locked_folder_refuses_a_second_run(tiny_keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with RunDir(tmp_path / "run").lock(), pytest.raises(InputError, match="in use by another run"):
        iifdet.train(**tiny_keys(tmp_path, exist_ok=True))
    assert not list((tmp_path / "run").iterdir())


def test_a_failing_picture_costs_no_run(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from iifdet import plots

    def fail(*_: Any) -> None:
        raise RuntimeError("no ink")

    for name in ("plot_labels", "plot_pr_curve", "plot_results", "mosaic_grid"):
        monkeypatch.setattr(plots, name, fail)
    result = iifdet.train(**tiny_keys(tmp_path, epochs=1, plots=True, verbose=False))
    assert (result.folder / "metrics.json").is_file() and "could not be drawn" in caplog.text


def test_tensorboard_gets_the_figures_of_each_epoch(tiny_keys: Keys, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = iifdet.train(**tiny_keys(tmp_path, tensorboard=True)).folder
    events = EventAccumulator(str(run)).Reload()
    written = [(e.step, e.value) for e in events.Scalars("loss")]
    assert written == [(i + 1, pytest.approx(float(r["loss"]))) for i, r in enumerate(rows_of(run))]


def test_tensorboard_without_the_package_is_refused_before_a_folder_is_made(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        iifdet.train(**tiny_keys(tmp_path, tensorboard=True))
    assert not list(tmp_path.iterdir())


def test_callbacks_are_called_in_order(tiny_keys: Keys, tmp_path: Path) -> None:
    record = Record()
    iifdet.train(callbacks=[record], **tiny_keys(tmp_path, epochs=2, val_every=2, batch=12))
    first = ["step 0 1/2", "step 0 2/2", "epoch_end 1"]
    second = ["step 1 1/2", "step 1 2/2", "validate 1", "epoch_end 2"]
    assert record.calls == ["start", *first, *second, "end", "close"]


# -- the same every time -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_keys: Keys, tmp_path: Path) -> None:
    a, b, c = (iifdet.train(**tiny_keys(tmp_path, ema=0.9, seed=seed)).folder for seed in (3, 3, 4))
    same_run(a, b)
    one, other = last_of(a)["weights"], last_of(c)["weights"]
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_deterministic_lasts_as_long_as_the_run(tiny_keys: Keys, tmp_path: Path) -> None:
    class Look(Callback):
        def on_step(self, *_: Any) -> None:
            seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))

    seen: list[tuple[bool, bool]] = []
    iifdet.train(callbacks=[Look()], **tiny_keys(tmp_path, epochs=1, deterministic=True))
    assert seen == [(True, False)] * 3 and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("keys", [{"rect": True}, {"multi_scale": [0.5, 1.5]}])
def test_compiling_a_detector_for_images_of_many_sizes_is_refused(
    tiny_keys: Keys, tmp_path: Path, keys: dict[str, Any]
) -> None:
    """torch gives up compiling after eight shapes."""
    with pytest.raises(InputError, match=r"^compile: expected images of one size, got (rect|multi_scale)"):
        iifdet.train(**tiny_keys(tmp_path, compile=True, **keys))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "keys", "searched"),
    [
        ("yolov3-nano", {}, True),
        ("yolov3-nano", {"deterministic": True}, False),
        ("yolov3-nano", {"rect": True}, False),
        ("yolov3-nano", {"multi_scale": [0.5, 1.5]}, False),
        ("fasterrcnn", {}, False),
        ("resnet32", {}, True),
    ],
)
def test_cudnn_searches_its_algorithms_only_where_batches_have_one_shape(
    model: str, keys: dict[str, Any], searched: bool
) -> None:
    before = torch.backends.cudnn.benchmark
    config = resolve(TrainConfig, {"model": model, "multi_scale": None, "rect": False, **keys})
    with build.deterministic(config, create_model(model, 3)):
        assert torch.backends.cudnn.benchmark == searched
    assert torch.backends.cudnn.benchmark == before


def test_the_number_of_workers_changes_nothing(tiny_keys: Keys, tmp_path: Path) -> None:
    changes = {"epochs": 3, "batch": 5, "degrees": 5, "multi_scale": [0.5, 1.5], "multi_scale_every": 1}
    same_run(*(iifdet.train(**tiny_keys(tmp_path, workers=n, **changes)).folder for n in (0, 2)))


def test_pictures_and_cache_change_nothing(tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path / "cache"))
    plain = iifdet.train(**tiny_keys(tmp_path)).folder
    same_run(plain, iifdet.train(**tiny_keys(tmp_path, cache="disk", verbose=False)).folder)
    same_run(plain, iifdet.train(**tiny_keys(tmp_path, cache="ram", verbose=False)).folder)
    same_run(plain, iifdet.train(**tiny_keys(tmp_path, plots=True, epochs=2)).folder)


@pytest.mark.parametrize("augment", ["paper", "ssd"])
def test_presets_train(tiny_keys: Keys, tmp_path: Path, augment: str) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, augment=augment, epochs=1, mosaic=0.3, resize="square"))
    assert math.isfinite(float(rows_of(run.folder)[0]["loss"]))


def test_rect_turns_off_what_needs_one_size_and_says_so(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"rect": True, "mosaic": 0.5, "mixup": 0.5, "multi_scale": [0.5, 1.5], "epochs": 1}
    config = resolve(TrainConfig, tiny_keys(tmp_path, **changes))
    with caplog.at_level(logging.WARNING, "iifdet"):
        mixing = build.build_mixing(config, build.build_index(config, "train"))
    assert "turns mosaic, mixup, multi_scale off" in caplog.text
    assert (mixing.mosaic, mixing.mixup) == (0, 0)
    assert build.fit_options(config, torch.device("cpu")).multi_scale is None
    with pytest.raises(InputError, match="resize=letterbox"):
        iifdet.train(**tiny_keys(tmp_path, rect=True, resize="square"))
    assert not (tmp_path / "run").exists()


def test_a_run_no_longer_than_close_mosaic_says_that_mosaic_never_acts(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve(TrainConfig, tiny_keys(tmp_path, mosaic=0.5, epochs=4))
    with caplog.at_level(logging.WARNING, "iifdet"):
        mixing = build.build_mixing(config, build.build_index(config, "train"))
    assert "never acts" in caplog.text and not mixing.open(0)


def test_validating_in_rect_batches_sees_every_image(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1))
    rect, plain = (
        iifdet.val(weights=run.folder / "weights/last.pt", rect=r, project=tmp_path, device="cpu", plots=False)
        for r in (True, False)
    )
    assert rect.metrics["AP"] == plain.metrics["AP"]  # square images: the same tensors


HARD = {
    "epochs": 3,
    "batch": 4,  # six batches an epoch
    "workers": 0,
    "ema": 0.9,
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 0.01,
    "multi_scale": [0.5, 1.5],
    "multi_scale_every": 2,
    "accumulate": 2,
    "clip": 1.0,
    "save_steps": 2,
}


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
    same(last_of(resumed.folder)["weights"], last_of(whole.folder)["weights"])


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


# -- the step ----------------------------------------------------------------------------------------------------------


def linear_state(scale: bool = False, average: float = 0.0) -> TrainState:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=scale)
    return TrainState(model, optimizer, scaler, AveragedWeights(model, average) if average else None)


def test_clip_bounds_the_gradient_s_norm() -> None:
    state = linear_state()
    before = torch.cat([p.detach().clone().flatten() for p in state.model.parameters()])
    (1000 * state.model(torch.ones(1, 3)).sum()).backward()
    optimizer_step(state, clip=0.5)
    after = torch.cat([p.detach().flatten() for p in state.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)


@pytest.mark.parametrize("scale", [False, True])
def test_a_gradient_that_is_not_finite_changes_nothing_under_clip(scale: bool) -> None:
    state = linear_state(scale)
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    state.scaler.scale(state.model(torch.full((1, 3), math.inf)).sum()).backward()
    optimizer_step(state, clip=1.0)
    same(before, state.model.state_dict())
    assert all(p.grad is None for p in state.model.parameters())


@pytest.mark.parametrize("scale", [False, True])
def test_a_step_without_any_gradient_is_no_step(scale: bool) -> None:
    state = linear_state(scale, average=0.9)
    optimizer_step(state, clip=1.0)
    assert state.average is not None and state.average.updates == 0


def test_accumulated_batches_make_one_step_and_an_epoch_s_rest_makes_its_own(tiny_keys: Keys, tmp_path: Path) -> None:
    """Twelve batches: by four they make three steps, by five two and one from the rest."""
    steps: dict[int, int] = {}
    for accumulate in (1, 4, 5):
        config = tiny_keys(tmp_path, epochs=1, batch=2, accumulate=accumulate, ema=0.5, name=f"a{accumulate}")
        run = iifdet.train(**config).folder
        steps[accumulate] = last_of(run)["training"]["average_updates"]
    assert steps == {1: 12, 4: 3, 5: 3}


def test_multi_scale_draws_multiples_of_32_within_its_bounds(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    true = YOLOv3.losses

    def spy(self: YOLOv3, images: Any, targets: Any) -> Any:
        sizes.append(tuple(images.shape[-2:]))
        for target in targets:
            boxes = target["boxes"]
            assert (boxes >= 0).all() and (boxes[:, 0::2] <= images.shape[-1] + 1e-3).all()
        return true(self, images, targets)

    monkeypatch.setattr(YOLOv3, "losses", spy)
    iifdet.train(**tiny_keys(tmp_path, epochs=2, batch=4, imgsz=96, multi_scale=[0.5, 1.5], multi_scale_every=2))
    drawn = sizes[::2]
    assert sizes[1::2] == drawn, "two steps share a size"
    assert {h for h, _ in drawn} <= {64, 96, 128, 160} and len(set(drawn)) > 1
    assert all(h == w and h % 32 == 0 for h, w in sizes)


def test_the_largest_seed_draws_sizes_too() -> None:
    options = FitOptions(epochs=1, device=torch.device("cpu"), multi_scale=(0.5, 1.5), imgsz=96, seed=2**63 - 1)
    assert len({scale_of(batch, options) for batch in range(200)}) > 1


def test_rescale_moves_boxes_and_masks_with_the_pixels() -> None:
    image = torch.zeros(1, 3, 64, 96)
    image[:, :, 16:32, 24:72] = 1
    mask = (image[0, :1] > 0).to(torch.uint8)
    target = Target(boxes=torch.tensor([[24.0, 16, 72, 32]]), labels=torch.tensor([2]), masks=mask)
    info = ImageInfo(1, 0, "a.png", (64, 96))
    moved = rescale(Batch(image, [target], [info]), 192)
    assert moved.images.shape == (1, 3, 128, 192) and moved.infos == [info]
    assert moved.targets[0]["boxes"].tolist() == [[48, 32, 144, 64]]
    assert moved.targets[0]["labels"].tolist() == [2]
    ys, xs = torch.where(moved.targets[0]["masks"][0] > 0)
    assert (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) == (48, 32, 144, 64)
    assert moved.images[0, 0, 40, 100] == 1 and moved.images[0, 0, 10, 10] == 0
    same_batch = Batch(image, [target], [info])
    assert rescale(same_batch, None) is same_batch and rescale(same_batch, 96) is same_batch


def nan_at(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Make the loss of those training steps NaN."""
    true, step = YOLOv3.losses, iter(range(10_000))

    def losses(self: YOLOv3, images: Any, targets: Any) -> Any:
        found = true(self, images, targets)
        return {k: v * math.nan for k, v in found.items()} if bad(next(step)) else found

    monkeypatch.setattr(YOLOv3, "losses", losses)


@pytest.mark.parametrize("amp", ["none", "fp16"])
def test_a_loss_that_is_not_finite_is_skipped_and_named(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, amp: str
) -> None:
    nan_at(monkeypatch, lambda step: step in (1, 2))
    run = iifdet.train(**tiny_keys(tmp_path, amp=amp)).folder
    assert all(v.isfinite().all() for v in last_of(run)["weights"].values() if v.is_floating_point())
    # A record reaches caplog once for each handler that earlier tests left on the way: count messages, not records.
    skipped = list(dict.fromkeys(r.getMessage() for r in caplog.records if r.getMessage().startswith("loss is")))
    assert len(skipped) == 2 and "epoch 0 batch 1 (" in skipped[0] and skipped[0].count(".png") == 8
    assert all(message.endswith("step skipped") for message in skipped)
    assert all(np.isfinite(float(r["loss"])) for r in rows_of(run))


def test_too_many_bad_steps_in_a_row_are_rolled_back_and_then_end_the_run_even_over_short_epochs(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at(monkeypatch, lambda step: step >= 3)  # three batches an epoch
    record = Record()
    with pytest.raises(FloatingPointError, match="lower lr"):
        iifdet.train(
            callbacks=[record], **tiny_keys(tmp_path, epochs=20, val_every=20, max_bad_steps=7, max_rollbacks=2)
        )
    assert [c for c in record.calls if c.startswith("step 1 1")] == ["step 1 1/3"] * 3
    assert len([c for c in record.calls if c.startswith("step")]) == 3 + 3 * 7
    assert record.calls[-1] == "close"


def test_early_stopping_counts_epochs_since_the_best(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    evaluator = type(build.build_evaluator(*_evaluator_parts(tiny_keys, tmp_path)))
    monkeypatch.setattr(evaluator, "fitness", staticmethod(lambda result: next(scores)))
    result = iifdet.train(**tiny_keys(tmp_path, epochs=20, patience=3))
    assert [int(r["epoch"]) for r in rows_of(result.folder)] == [1, 2, 3, 4, 5]
    assert result.metrics["best"] == {"epoch": 2, "fitness": 0.3, "chosen_on": "val"}
    assert last_of(result.folder)["training"]["finished"]
    assert iifdet.train(resume=result.folder).metrics == result.metrics


def test_early_stopping_looks_only_at_validated_epochs(
    tiny_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, 0.2, 0.9])
    evaluator = type(build.build_evaluator(*_evaluator_parts(tiny_keys, tmp_path)))
    monkeypatch.setattr(evaluator, "fitness", staticmethod(lambda result: next(scores)))
    result = iifdet.train(**tiny_keys(tmp_path, epochs=20, patience=1, val_every=3))
    assert len(rows_of(result.folder)) == 6


def _evaluator_parts(tiny_keys: Keys, tmp_path: Path) -> tuple[Any, Any, str]:
    config = resolve(TrainConfig, tiny_keys(tmp_path))
    return config, build.build_index(config, "val"), "detect"


@pytest.mark.parametrize("callbacks", [[], [Interrupt(0, 2)]])
def test_workers_end_with_the_run_however_it_ends(tiny_keys: Keys, tmp_path: Path, callbacks: list[Callback]) -> None:
    with contextlib.suppress(RuntimeError):
        iifdet.train(callbacks=callbacks, **tiny_keys(tmp_path, epochs=1, workers=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_frozen_layers_stay_bit_identical_batch_norms_included(tiny_keys: Keys, tmp_path: Path, ema: float) -> None:
    start = iifdet.train(**tiny_keys(tmp_path, epochs=1, name="start")).folder / "weights" / "last.pt"
    changes = {"optimizer": "sgd", "weight_decay": 0.1, "decay_all": True, "freeze": 7, "ema": ema}
    run = iifdet.train(**tiny_keys(tmp_path, weights=start, **changes)).folder
    content = last_of(run)
    before, after = read_checkpoint(start)["weights"], content["ema"] or content["weights"]
    model: Any = iifdet.load(start)
    layers = [(n, m) for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    frozen = tuple(f"{name}." for name, _ in layers[:7])
    assert any(isinstance(m, nn.BatchNorm2d) for _, m in layers[:7])
    assert any(k.startswith(frozen) and "running_mean" in k for k in before)
    for name, value in before.items():
        if name.startswith(frozen):
            assert torch.equal(after[name], value), name
    changed = [k for k, v in before.items() if not torch.equal(after[k], v)]
    assert any("running_mean" in k for k in changed) and any(k.endswith("conv.weight") for k in changed)


def test_bf16_trains_on_the_cpu(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, amp="bf16", epochs=5, lr=0.005)).folder
    losses = [float(r["loss"]) for r in rows_of(run)]
    assert losses[-1] < losses[0] and all(v.dtype != torch.bfloat16 for v in last_of(run)["weights"].values())


def test_averaged_weights_are_lent_for_validation_only() -> None:
    state = linear_state(average=0.9)
    assert state.average is not None
    state.average.weights = {k: v + 1 for k, v in state.model.state_dict().items()}
    raw = {k: v.clone() for k, v in state.model.state_dict().items()}
    with pytest.raises(RuntimeError), averaged(state) as model:
        same(state.average.weights, dict(model.state_dict()))
        assert not model.training
        raise RuntimeError
    same(raw, dict(state.model.state_dict()))


def test_validation_without_any_box_still_ends_well(tiny_keys: Keys, tiny_copy: Path, tmp_path: Path) -> None:
    document = json.loads((tiny_copy / "val.json").read_text())
    document["annotations"] = []
    (tiny_copy / "val.json").write_text(json.dumps(document))
    result = iifdet.train(**tiny_keys(tmp_path, epochs=1, plots=True, data=tiny_copy / "data.yaml"))
    assert result.metrics["AP"] is None and len(result.metrics["skipped"]) == 4
