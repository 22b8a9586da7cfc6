"""The optimizer step and what goes into it: clipping, accumulation, image sizes, losses that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Record, equal, last_of, rows_of
from torch import nn

import iifdet
from iifdet.detectors.yolov3 import YOLOv3
from iifdet.optim import AveragedWeights
from iifdet.training import FitOptions, TrainState, averaged, optimizer_step, rescale
from iifdet.training.multiscale import scale_of
from iifdet.types import Batch, ImageInfo, Target

Keys = Callable[..., dict[str, Any]]


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
    equal(before, dict(state.model.state_dict()))
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


def test_averaged_weights_are_lent_for_validation_only() -> None:
    state = linear_state(average=0.9)
    assert state.average is not None
    state.average.weights = {k: v + 1 for k, v in state.model.state_dict().items()}
    raw = {k: v.clone() for k, v in state.model.state_dict().items()}
    with pytest.raises(RuntimeError), averaged(state) as model:
        equal(state.average.weights, dict(model.state_dict()))
        assert not model.training
        raise RuntimeError
    equal(raw, dict(state.model.state_dict()))
