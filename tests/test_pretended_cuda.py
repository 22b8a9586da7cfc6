"""Everything that runs on CUDA keeps its tensors together: shown on a device that is not there (pretended_cuda.py).

Runs end as on the CPU, so what is done otherwise on CUDA is done right; test_cuda.py asks the real device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classification_data import small_classifier
from pretended_cuda import CurrentDevice, OnDevice, pretended_cuda, recording
from runs import HARD, Interrupt, last_of
from test_detector_contract import COUNTS, SIZE, SLOW_TO_TRAIN, SMALL, WEIGHTS, C, settle, targets

import iifdet
from iifdet.detectors import Detector
from iifdet.models import create_model
from iifdet.optim import build_optimizer
from iifdet.training import graphed

Keys = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument")


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretended_cuda():
        yield torch.device("cuda", 0)


def test_what_cuda_refuses_is_refused(device: torch.device) -> None:
    """What the tests below lean on."""
    here, there = torch.ones(3, device=device), torch.ones(3)
    assert here.device == device and here.is_cuda and type(here + 1) is OnDevice
    assert (here + there.sum()).tolist() == [4, 4, 4], "a scalar may be anywhere"
    assert torch.equal(there[here.long().cpu()], there) and here[there.long()].is_cuda, "rows by indices of the CPU"
    mixtures: list[Callable[[], Any]] = [
        lambda: here + there,
        lambda: torch.stack([here, there]),
        lambda: there.mul_(here),
        lambda: there[here.long()],
        lambda: torch.nn.functional.linear(here, torch.ones(2, 3)),
    ]
    for mixture in mixtures:
        with pytest.raises(RuntimeError, match="on the same device"):
            mixture()
    with pytest.raises(TypeError, match="numpy"):
        here.numpy()
    assert type(here.cpu()) is torch.Tensor and type(here.to("cpu")) is torch.Tensor


def test_what_a_cuda_graph_cannot_hold_is_refused(device: torch.device) -> None:
    here, there = torch.ones(3, device=device), torch.ones(3)
    questions = [here.sum().item, here.tolist, here.cpu, lambda: bool(here.any()), lambda: here[here > 0]]
    copies = [lambda: there.to(device), lambda: torch.tensor([1.0], device=device)]
    for body in (*questions, *copies):
        with recording(), pytest.raises(RuntimeError, match="cannot be recorded"):
            body()
    with recording():
        here.copy_(here * 2 + torch.zeros(3, device=device).fill_(1))


def both(name: str, center: str) -> tuple[Detector, Detector]:
    """The same weights on the CPU and on the device, with class logits that differ."""
    torch.manual_seed(0)
    model: Detector = create_model(name, C, **SMALL[name])
    model.names, model.counts = COUNTS.names, COUNTS
    model.set_adjustment(WEIGHTS, center=center)
    model = settle(model.eval()) if model.has_background else model.eval()
    return model, copy.deepcopy(model).to("cuda:0")


@pytest.mark.parametrize("name", SMALL)
def test_losses_gradients_and_detections_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    cpu, cuda = both(name, "bg" if name in ("ssd300", "maskrcnn") else "mean")
    images = torch.rand(2, 3, SIZE, SIZE)
    found = []
    for model, place in ((cpu, torch.device("cpu")), (cuda, device)):
        torch.manual_seed(1)
        with torch.inference_mode():
            detections = [{k: v.cpu() for k, v in each.items()} for each in model(images.to(place))]
        torch.manual_seed(1)
        losses = model.train()(images.to(place), [{k: v.to(place) for k, v in t.items()} for t in targets()])
        torch.stack(list(losses.values())).sum().backward()
        gradients = {k: p.grad.cpu() for k, p in model.named_parameters() if p.grad is not None}
        found.append((detections, {k: v.item() for k, v in losses.items()}, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def weights_of(run: Any) -> dict[str, Any]:
    content = last_of(run.folder)
    return {"weights": content["weights"], "ema": content["ema"]}


#: Mask R-CNN has the run of Faster R-CNN, and takes three times as long.
TO_RUN = [name for name in SMALL if name != "maskrcnn"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_TO_TRAIN else n for n in TO_RUN])
def test_a_run_ends_as_on_the_cpu(name: str, tiny_keys: Keys, data_with_masks: Path, tmp_path: Path) -> None:
    """SGD: AdamW makes steps of one size of gradients that are nothing but rounding."""
    keys = tiny_keys(tmp_path, model=name, model_args=SMALL[name], epochs=1, data=str(data_with_masks), optimizer="sgd")
    keys |= {"ema": 0.9, "lr": 1e-4}
    cpu = iifdet.train(**{**keys, "name": "cpu", "channels_last": True})
    with pretended_cuda():
        cuda = iifdet.train(**{**keys, "name": "cuda", "device": "cuda"})
    torch.testing.assert_close(weights_of(cuda), weights_of(cpu), rtol=1e-3, atol=1e-5)
    assert cuda.metrics["AP"] == pytest.approx(cpu.metrics["AP"], abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"amp": "fp16"},
        pytest.param({"amp": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"mosaic": 0.7, "close_mosaic": 1, "workers": 2}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any], device: torch.device
) -> None:
    keys = {**tiny_keys(tmp_path, **{**HARD, **changes}), "device": "cuda"}
    whole = iifdet.train(**{**keys, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 4)], **keys)
    resumed = iifdet.train(resume=tmp_path / "run")
    torch.testing.assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)


@pytest.fixture
def unfilled_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_first_step_that_overflows_leaves_no_trace(
    name: str, device: torch.device, unfilled_memory_is_nan: None
) -> None:
    """fp16 begins with such steps: torch's fused SGD makes momentum buffers in them, and fills none."""
    ends = []
    for overflows in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 64).to(device)
        optimizer = build_optimizer(model, name, lr=0.1, scaled=True)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
        for step in range(0 if overflows else 1, 3):
            loss = model(torch.full((1, 64), float("inf") if step == 0 else 1.0, device=device)).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        ends.append(model.weight.cpu())
    assert torch.equal(*ends) and ends[0].isfinite().all()
    assert build_optimizer(model, name, lr=0.1).param_groups[0]["fused"], "where no scaler is in the way"


def test_validation_and_prediction_are_those_of_the_cpu(tiny_keys: Keys, tiny_data: str, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, epochs=3)
    run = iifdet.train(**keys).folder
    weights = {"weights": run / "weights" / "last.pt"}
    pictures = sorted(Path(tiny_data).parent.rglob("*.png"))[:3]
    cpu = iifdet.val(**weights, device="cpu", plots=False, workers=0, project=tmp_path)
    seen = iifdet.predict(**weights, source=pictures, conf=0.001, device="cpu")
    with pretended_cuda():
        cuda = iifdet.val(**weights, device="cuda", plots=True, workers=0, project=tmp_path)
        for one, other in zip(seen, iifdet.predict(**weights, source=pictures, conf=0.001, device="cuda"), strict=True):
            torch.testing.assert_close(other.boxes, one.boxes, rtol=1e-3, atol=1e-2)
            assert other.boxes.device.type == "cpu", "results are to be used without a device"
    assert cuda.metrics["AP"] == pytest.approx(cpu.metrics["AP"], abs=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigencam"])
def test_maps_are_those_of_the_cpu(method: str, tiny_keys: Keys, tiny_data: str, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path)).folder
    keys = {"weights": run / "weights" / "last.pt", "data": tiny_data, "limit": 2, "conf": 0.001, "method": method}
    keys |= {"project": tmp_path, "plots": False, "curves": 2 if method == "gradcam" else 0}
    iifdet.cam(**keys, device="cpu", name="cpu")
    with pretended_cuda():
        iifdet.cam(**keys, device="cuda", name="cuda")
    maps = [sorted((tmp_path / place).rglob("*.npz")) for place in ("cpu", "cuda")]
    assert len(maps[0]) == len(maps[1]) > 0
    for one, other in zip(*maps, strict=True):
        with np.load(one) as ours, np.load(other) as theirs:
            assert set(ours) == set(theirs)
            for key in (k for k in ours if ours[k].dtype.kind == "f"):
                np.testing.assert_allclose(theirs[key], ours[key], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cache", ["device", False])
def test_a_classifier_ends_as_on_the_cpu(cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its images on the device whole steps are recorded; the record is run step by step here."""
    replayed: list[int] = []

    def record(body: Callable[[], None]) -> Callable[[], None]:
        assert CurrentDevice.inside == [torch.device("cuda", 0)] * 2, "of the run, and of the recording"

        def rerun() -> None:
            with recording():
                body()
            replayed.append(1)

        return rerun

    monkeypatch.setattr(graphed, "record_graph", record)
    keys = small_classifier(tmp_path, cache=cache)
    cpu = iifdet.train(**keys, name="cpu", device="cpu")
    with pretended_cuda():
        cuda = iifdet.train(**keys, name="cuda", device="cuda")
        iifdet.val(weights=cuda.folder / "weights" / "last.pt", device="cuda", project=tmp_path, plots=True)
    assert len(replayed) == (3 * 4 - graphed.WARM_UP if cache == "device" else 0)
    torch.testing.assert_close(weights_of(cuda), weights_of(cpu), rtol=1e-3, atol=1e-4)
    assert cuda.metrics["top1"] == pytest.approx(cpu.metrics["top1"], abs=0.07)
