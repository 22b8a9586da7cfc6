"""Whole runs on a tiny data set: what they leave behind, that they repeat to the bit, and when they end."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import logging
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import Interrupt, Record, last_of, rows_of, same_run
from torch import nn

import iifdet
from iifdet import build
from iifdet.checkpoint import read_checkpoint
from iifdet.config import TrainConfig, resolve
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.rundir import RunDir
from iifdet.training import Callback

Keys = Callable[..., dict[str, Any]]


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
    with build.fastest_algorithms(config, create_model(model, 3)):
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


# -- when a run ends ---------------------------------------------------------------------------------------------------


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


def test_validation_without_any_box_still_ends_well(tiny_keys: Keys, tiny_copy: Path, tmp_path: Path) -> None:
    document = json.loads((tiny_copy / "val.json").read_text())
    document["annotations"] = []
    (tiny_copy / "val.json").write_text(json.dumps(document))
    result = iifdet.train(**tiny_keys(tmp_path, epochs=1, plots=True, data=tiny_copy / "data.yaml"))
    assert result.metrics["AP"] is None and len(result.metrics["skipped"]) == 4
