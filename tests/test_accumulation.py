"""Batches that are accumulated make the step of one large batch, however unevenly boxes are spread over them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from iifdet.models import create_model
from iifdet.training import FitOptions, TrainState, Undo, train_step
from iifdet.types import Batch, ImageInfo, Target

CPU = torch.device("cpu")
#: Boxes of the four images: the second half has none.
BOXES = (5, 1, 0, 0)


def images_of(size: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    targets = []
    for number in BOXES:
        corners = torch.rand(number, 2, generator=generator) * size / 2
        sides = size * (0.1 + 0.4 * torch.rand(number, 2, generator=generator))
        targets.append(Target(boxes=torch.cat([corners, corners + sides], 1), labels=torch.arange(number) % 3))
    infos = [ImageInfo(i, i, f"{i}.png", (size, size)) for i in range(len(BOXES))]
    return Batch(torch.rand(len(BOXES), 3, size, size, generator=generator), targets, infos)


def part(batch: Batch, a: int, b: int) -> Batch:
    return Batch(batch.images[a:b], batch.targets[a:b], batch.infos[a:b])


def step(name: str, args: dict[str, Any], parts: list[Batch], micro: int = 0) -> TrainState:
    torch.manual_seed(0)
    model = create_model(name, 3, **args).train()
    for module in model.modules():  # statistics of a batch would be others
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = TrainState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), micro=micro)
    options = FitOptions(epochs=1, device=CPU, accumulate=len(parts))
    assert train_step(state, parts, len(parts), options, Undo(model, CPU))
    return state


@pytest.mark.parametrize(
    ("name", "args", "size"),
    [("yolov3-nano", {"width": 0.0625, "depth": 0.1}, 64), ("ssd300", {"width": 0.0625}, 96)],
)
def test_ground_truth_is_counted_over_the_whole_step(name: str, args: dict[str, Any], size: int) -> None:
    batch = images_of(size)
    whole = step(name, args, [batch])
    halves = step(name, args, [part(batch, 0, 2), part(batch, 2, 4)])
    uneven = step(name, args, [batch], micro=3)  # as after memory has run out: pieces of two images
    for other in (halves, uneven):
        for loss, value in whole.sums.items():
            assert other.sums[loss] / other.trained == pytest.approx(value, rel=1e-5)
        for key, weight in whole.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[key], weight, rtol=1e-5, atol=1e-6, msg=key)
