"""Memory that runs out, simulated: the batch of a step stays, and so does every bit of what it does."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import equal
from torch import nn
from toy_run import Loader, everything, new_state, run_toy

import iifdet
from iifdet import build
from iifdet.config import TrainConfig, ValConfig, resolve
from iifdet.errors import InputError
from iifdet.training import Callback, FitOptions, TrainState, has_room, largest_fitting, pieces_of
from iifdet.validation import fitting

CPU = torch.device("cpu")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_run_whose_memory_runs_out_ends_as_one_with_small_batches_from_the_start(tmp_path: Path, where: str) -> None:
    """Batches of 4 and room for 2, against batches of 2 and twice the accumulation: weights, averages, statistics."""
    one = everything(run_toy(tmp_path / "small", size=2, accumulate=4))
    state = new_state()
    state.model.room, state.model.where = 2, where  # type: ignore[assignment]
    other = everything(run_toy(tmp_path / "halved", state, size=4, accumulate=2))
    assert other["micro"] == 2 and state.model.failures == 1, "and it is not tried again"
    for part in ("weights", "average", "optimizer", "generators", "average_updates"):
        equal(one[part], other[part], part)
    assert [r["lr"] for r in one["rows"]] == [r["lr"] for r in other["rows"]]
    assert [r["loss"] for r in one["rows"]] == pytest.approx([r["loss"] for r in other["rows"]], rel=1e-6)


def test_a_resumed_run_keeps_to_the_smaller_batch(tmp_path: Path) -> None:
    class Cut(Callback):
        def on_step(self, state: TrainState, *_: Any) -> None:
            if (state.epoch, state.batch) == (1, 2):
                raise RuntimeError("power cut")

    def cramped() -> TrainState:
        state = new_state()
        state.model.room = 1  # type: ignore[assignment]
        return state

    whole = everything(run_toy(tmp_path / "whole", cramped()))
    with pytest.raises(RuntimeError, match="power cut"):
        run_toy(tmp_path / "run", cramped(), [Cut()])
    resumed = cramped()
    equal(whole, everything(run_toy(tmp_path / "run", resumed)))
    assert whole["micro"] == 1 and resumed.model.failures == 0


def test_no_room_for_one_image_ends_in_one_line(tmp_path: Path) -> None:
    state = new_state()
    state.model.room = 0  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"batch: expected memory for one image of 640 px.*lower imgsz"):
        run_toy(tmp_path, state)
    assert state.model.failures == 3  # 4, 2 and 1 images


@pytest.mark.parametrize(("images", "most", "sizes"), [(4, 0, [4]), (4, 4, [4]), (5, 2, [1, 2, 2]), (6, 4, [3, 3])])
def test_pieces_are_the_batch_in_order_and_of_nearly_equal_length(images: int, most: int, sizes: list[int]) -> None:
    batch = next(Loader(24).epoch(0))
    batch = pieces_of(batch, 0)[0]
    batch.images, batch.targets, batch.infos = batch.images[:images], batch.targets[:images], batch.infos[:images]
    pieces = pieces_of(batch, most)
    assert sorted(map(len, pieces)) == sizes
    assert torch.equal(torch.cat([p.images for p in pieces]), batch.images)
    assert [i.index for p in pieces for i in p.infos] == list(range(images))


# -- batch=auto --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effective", "room", "expected"), [(16, 99, 16), (16, 15, 8), (24, 7, 6), (7, 6, 1), (16, 0, 1)]
)
def test_batch_auto_takes_the_largest_divisor_of_a_step_s_images_that_fits(
    effective: int, room: int, expected: int
) -> None:
    assert largest_fitting(effective, lambda images: images <= room) == expected


def test_measuring_counts_the_optimizer_s_moments_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 10,000 bytes of which 8,000 may be used, where each image takes 1,000."""
    state, options = new_state(), FitOptions(epochs=1, device=CPU, imgsz=32)
    before, model = everything(state), state.model
    before["weights"] = {k: v.clone() for k, v in before["weights"].items()}
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (10_000, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 5_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 5_000 + 1_000 * model.largest)
    moments = 4 * sum(p.numel() for p in model.parameters())
    assert 0 < moments < 1_000
    fits = []
    for images in (2, 7, 8):
        model.largest = 0  # type: ignore[assignment]
        fits.append(has_room(state, images, options, masks=False))
    assert fits == [True, True, False], "8 images fill the 8,000 bytes, and the moments come on top"
    model.room = 1  # type: ignore[assignment]
    assert not has_room(state, 2, options, masks=False) and model.failures == 1
    equal(before, everything(state))
    assert all(p.grad is None for p in model.parameters())


def test_batch_auto_keeps_the_images_of_a_step_and_settles_for_good(
    tiny_keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(TrainConfig, {**tiny_keys(tmp_path), "batch": "auto", "accumulate": 2})
    assert config.auto_batch and config.batch == 16, "the recipe's"
    from iifdet.build import batch as module

    asked: list[int] = []
    monkeypatch.setattr(module, "has_room", lambda state, images, *_: asked.append(images) or images <= 5)
    settled = build.settle_batch(config, new_state(), torch.device("cuda"))
    assert asked == [32, 16, 8, 4] and (settled.batch, settled.accumulate, settled.auto_batch) == (4, 8, False)
    assert resolve(TrainConfig, settled.model_dump(mode="json")) == settled, "a resumed run does not measure again"


def test_batch_auto_without_cuda_takes_the_recipe_s_batch_and_says_so(
    tiny_keys: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve(TrainConfig, {**tiny_keys(tmp_path), "batch": "auto"})
    with caplog.at_level(logging.WARNING, "iifdet"):
        settled = build.settle_batch(config, new_state(), CPU)
    assert (settled.batch, settled.accumulate, settled.auto_batch) == (16, 1, False)
    assert "batch: auto measures CUDA memory, got device=cpu; batch=16" in caplog.text
    with pytest.raises(InputError, match=r"batch: .* got 'auto'"):
        resolve(ValConfig, {"weights": "x.pt", "batch": "auto"})


def test_batch_auto_measures_with_the_operations_the_run_will_use(
    tiny_keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuBLAS reads its workspace's size at its first use, which is the measuring."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    settle, seen = build.settle_batch, []

    def watched(*args: Any) -> TrainConfig:
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return settle(*args)

    monkeypatch.setattr(build, "settle_batch", watched)
    iifdet.train(**tiny_keys(tmp_path, batch="auto", deterministic=True, epochs=1))
    assert seen == [(True, ":4096:8")] and not torch.are_deterministic_algorithms_enabled()


# -- elsewhere ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when",
    ],
)
def test_memory_that_runs_out_inside_a_library_halves_the_batch_too(tmp_path: Path, said: str) -> None:
    state = new_state()

    def run_out(*_: Any) -> None:
        state.model.failures += 1  # type: ignore[operator]
        raise RuntimeError(said)

    state.model.room, state.model.run_out = 2, run_out  # type: ignore[assignment]
    assert run_toy(tmp_path, state).micro == 2 and state.model.failures == 1


def test_other_errors_of_a_step_are_not_taken_for_it(tmp_path: Path) -> None:
    state = new_state()

    def fail(*_: Any) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    state.model.room, state.model.run_out = 2, fail  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        run_toy(tmp_path, state)


def test_no_memory_for_the_optimizer_s_state_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state()

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate moments")

    monkeypatch.setattr(state.optimizer, "step", run_out)
    with pytest.raises(InputError, match=r"optimizer: expected memory for its state .*; use optimizer=sgd"):
        run_toy(tmp_path, state)


@pytest.mark.parametrize(("room", "calls"), [(5, [5]), (4, [5, 3, 2]), (1, [5, 3, 2, 1, 1, 1, 2, 1, 1])])
def test_a_validation_whose_memory_runs_out_goes_on_in_halves(
    room: int, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    class Doubles(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            if len(images) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return 2 * images

    images = torch.arange(5.0)
    with caplog.at_level(logging.WARNING, "iifdet"):
        assert torch.equal(fitting(Doubles(), images), 2 * images)
    assert seen == calls and bool(caplog.messages) == (room < 5)


def test_a_validation_without_memory_for_one_image_ends_in_one_line() -> None:
    class None_(nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    with pytest.raises(InputError, match=r"val_batch: expected memory for one image"):
        fitting(None_(), [torch.zeros(3, 4, 4)] * 3)
