"""What only a CUDA device can show: the same figures as on the CPU, exact resume, memory that really runs out."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import HARD, Interrupt, equal, last_of
from test_detector_contract import COUNTS, KINDS, SMALL, WEIGHTS, C, called, targets

import iifdet
from iifdet.checkpoint import read_checkpoint
from iifdet.detectors import Detector
from iifdet.detectors.rcnn import FasterRCNN
from iifdet.models import create_model
from iifdet.training import Callback, TrainState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Keys = Callable[..., dict[str, Any]]
CUDA = torch.device("cuda")


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[Detector, Detector]:
    """The same weights on the CPU and on the device, in eval mode, and full float32 on both."""
    torch.manual_seed(0)
    model: Detector = create_model(called(request.param), C, **KINDS[request.param])
    model.names, model.counts = COUNTS.names, COUNTS
    with torch.no_grad():
        for rows in model.classifier_rows():
            rows.weight.normal_(std=0.05)
    model.set_adjustment(WEIGHTS)
    model.eval()
    return model, copy.deepcopy(model).to(CUDA)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def images() -> torch.Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def moved(device: torch.device) -> list[dict[str, torch.Tensor]]:
    return [{k: v.to(device) for k, v in target.items()} for target in targets()]


def test_raw_predictions_are_those_of_the_cpu(pair: tuple[Detector, Detector]) -> None:
    """R-CNN's later rows may be of other proposals, where two have nearly equal scores."""
    cpu, gpu = pair
    with torch.inference_mode():
        ours, theirs = cpu.raw(images()), gpu.raw(images().to(CUDA))
    for one, other in zip(ours, theirs, strict=True):
        near = (one.class_logits - other.class_logits.cpu()).abs().amax(dim=1) < 1e-3
        assert near.float().mean() > (0.9 if hasattr(cpu, "net") else 0.9999)


def test_losses_are_those_of_the_cpu(pair: tuple[Detector, Detector]) -> None:
    """Where nothing is drawn by lot: R-CNN samples proposals with a generator of the device."""
    cpu, gpu = pair
    if isinstance(cpu, FasterRCNN):
        pytest.skip("samples by lot")
    ours, theirs = cpu.losses(images(), targets()), gpu.losses(images().to(CUDA), moved(CUDA))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name].cpu(), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_a_step_in_half_precision_has_finite_losses_and_gradients(
    pair: tuple[Detector, Detector], amp: torch.dtype
) -> None:
    model = pair[1].train()
    with torch.autocast("cuda", amp):
        losses = model(images().to(CUDA), moved(CUDA))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.inference_mode(), torch.autocast("cuda", amp):
        found = model.eval()(images().to(CUDA))
    assert all(f["boxes"].isfinite().all() and f["scores"].isfinite().all() for f in found)


@pytest.mark.parametrize("changes", [{}, {"amp": "fp16"}, {"amp": "bf16", "optimizer": "adamw", "workers": 2}])
def test_an_interrupted_run_resumes_to_the_same_bits_in_deterministic_mode(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any]
) -> None:
    keys = tiny_keys(tmp_path, **{**HARD, "mosaic": 0.7, "close_mosaic": 1, **changes})
    keys |= {"device": "cuda", "deterministic": True}
    whole = iifdet.train(**{**keys, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 4)], **keys)
    torch.manual_seed(12345)
    resumed = iifdet.train(resume=tmp_path / "run")
    one, other = (read_checkpoint(r.folder / "weights" / "last.pt") for r in (whole, resumed))
    for content in (one, other):
        content["recipe"].pop("name")
    equal(one, other)
    assert whole.metrics["AP"] == resumed.metrics["AP"]


@pytest.mark.parametrize("model", ["ssd300", "retinanet"])
def test_other_models_train_in_deterministic_mode(tiny_keys: Keys, tmp_path: Path, model: str) -> None:
    keys = tiny_keys(tmp_path, model=model, model_args=SMALL[model], device="cuda", deterministic=True, epochs=1)
    keys |= {"resize": "letterbox", "augment": "default", "lr": 1e-4}
    one = iifdet.train(**{**keys, "name": "one"})
    other = iifdet.train(**{**keys, "name": "other"})
    equal(*(read_checkpoint(r.folder / "weights" / "last.pt")["weights"] for r in (one, other)))


def test_memory_that_runs_out_halves_the_batch_and_the_run_ends(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second tenant takes all but a little of the card in the second epoch."""
    hoard: list[torch.Tensor] = []

    class Tenant(Callback):
        def on_batches(self, state: TrainState, group: Any) -> None:
            if state.epoch == 1 and not hoard:
                torch.cuda.empty_cache()
                free, _ = torch.cuda.mem_get_info()
                hoard.append(torch.empty(free - 1500 * 2**20, dtype=torch.uint8, device=CUDA))

    keys = tiny_keys(tmp_path, model="yolov3", model_args={"width": 0.5, "depth": 0.5}, imgsz=640, batch=24, epochs=2)
    try:
        result = iifdet.train(callbacks=[Tenant()], **{**keys, "device": "cuda", "val_every": 5, "accumulate": 1})
    finally:
        hoard.clear()
        torch.cuda.empty_cache()
    assert "out of memory with" in caplog.text
    assert result.metrics["epochs"] == 2


def test_batch_auto_measures_and_leaves_room(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, device="cuda", batch="auto", epochs=1)
    assert iifdet.train(**keys).metrics["epochs"] == 1


def test_one_process_under_torchrun_and_nccl_ends_as_one_alone(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, device="cuda", deterministic=True, epochs=1)
    alone = iifdet.train(**{**keys, "name": "alone"})
    words = [f"{k}={v}" for k, v in keys.items() if k not in ("model_args", "device", "name", "cache")]
    words += [f"model_args.{k}={v}" for k, v in keys["model_args"].items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "iifdet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [*command, "train", *words, "device=cuda", "name=nccl"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (read_checkpoint(f / "weights" / "last.pt")["weights"] for f in (alone.folder, tmp_path / "nccl"))
    equal(one, other)


def test_validation_gives_the_figures_of_the_cpu(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, device="cuda", epochs=3)).folder
    common = {"weights": run / "weights" / "last.pt", "project": tmp_path, "plots": False, "workers": 0}
    figures = [iifdet.val(**common, device=d, name=d).metrics["AP50"] for d in ("cpu", "cuda")]
    assert figures[0] == pytest.approx(figures[1], abs=0.02)


#: Classifiers whose steps do more than forward, loss and backward.
RECORDED: dict[str, dict[str, Any]] = {
    "plain": {},
    "experts": {"model_args": {"width": 0.25, "experts": 2}, "mixup": 0.0},
    "bilateral": {"model_args": {"width": 0.25, "bilateral": True}, "sampling": "bilateral", "mixup": 0.0},
    "views": {"model_args": {"width": 0.25, "contrast": "views"}, "sampling": "views", "batch": 12, "mixup": 0.0},
    "causal": {"model_args": {"width": 0.5, "head": "causal"}, "mixup": 0.0},
}


@pytest.mark.parametrize("name", RECORDED)
def test_steps_that_are_recorded_as_a_graph_end_as_those_that_are_not(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = small_classifier(tmp_path, cache="device", device="cuda", adjust="none", **RECORDED[name])
    plain, graphed = (iifdet.train(**keys, name=f"graph-{on}", graph=on).folder for on in (False, True))
    assert "no CUDA graph" not in caplog.text
    one, other = (last_of(run)["weights"] for run in (plain, graphed))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


def test_boxes_under_bf16_are_near_those_of_float32(pair: tuple[Detector, Detector]) -> None:
    """They are not rounded, whatever the maps are."""
    model = pair[1]
    with torch.inference_mode():
        plain = torch.cat([r.boxes.reshape(-1, 4) for r in model.raw(images().to(CUDA))])
        with torch.autocast("cuda", torch.bfloat16):
            half = torch.cat([r.boxes.reshape(-1, 4) for r in model.raw(images().to(CUDA))])
    assert half.dtype == torch.float32 and half.is_cuda
    if not hasattr(model, "net") or type(model).__name__ == "RetinaNet":  # others propose as they score
        assert (half - plain).abs().median() < 1
