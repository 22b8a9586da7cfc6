"""Batches of one size and of several: both move, pin, collate and rescale."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from iifdet.datasets.loader import Sample, collate
from iifdet.training import rescale
from iifdet.types import Batch, ImageInfo, Target

SIZES = [(8, 12), (10, 6)]


def sample(size: tuple[int, int], boxes: int) -> Sample:
    generator = torch.Generator().manual_seed(boxes)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    corners = torch.rand(boxes, 2, generator=generator)
    target = Target(boxes=torch.cat((corners, corners + 3), dim=1), labels=torch.arange(boxes))
    target["masks"] = (torch.rand(boxes, *size, generator=generator) > 0.5).to(torch.uint8)
    return Sample(image, target, ImageInfo(boxes, boxes, f"{boxes}.png", size))


@pytest.mark.parametrize("sizes", [SIZES, [SIZES[0]] * 2], ids=["different", "same"])
def test_collating_keeps_every_sample_as_it_is(sizes: list[Any]) -> None:
    samples = [sample(sizes[0], 2), sample(sizes[1], 0)]
    batch = collate(samples)
    assert isinstance(batch.images, list) == (sizes is SIZES)
    for image, target, info, one in zip(batch.images, batch.targets, batch.infos, samples, strict=True):
        assert torch.equal(image, one.image) and info == one.info
        assert target.keys() == one.target.keys()
        assert all(torch.equal(target[name], one.target[name]) for name in target)  # type: ignore[literal-required]
    again = pickle.loads(pickle.dumps(batch))
    assert all(torch.equal(a, b) for a, b in zip(again.images, batch.images, strict=True))


def test_a_batch_of_different_sizes_shares_one_memory_for_all_images() -> None:
    images = collate([sample(SIZES[0], 1), sample(SIZES[1], 2)]).images
    assert images[0].untyped_storage().data_ptr() == images[1].untyped_storage().data_ptr()


@pytest.mark.parametrize("sizes", [SIZES, [SIZES[0]] * 2], ids=["different", "same"])
def test_moving_makes_floats_in_0_to_1_and_touches_nothing_else(sizes: list[Any]) -> None:
    batch = collate([sample(sizes[0], 2), sample(sizes[1], 1)])
    moved = batch.to("cpu")
    for before, after in zip(batch.images, moved.images, strict=True):
        assert before.dtype == torch.uint8 and after.dtype == torch.float32
        assert torch.equal((after * 255).round().to(torch.uint8), before) and after.max() <= 1
    assert moved.targets[0]["masks"].dtype == torch.uint8 and moved.infos == batch.infos
    assert len(moved) == 2
    twice = moved.to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(moved.images, twice.images, strict=True))


@pytest.mark.parametrize("sizes", [SIZES, [SIZES[0]] * 2], ids=["different", "same"])
def test_pinning_reaches_every_tensor(sizes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning itself needs a CUDA driver: here it adds one, to see where it has been."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = collate([sample(sizes[0], 2), sample(sizes[1], 1)])
    pinned = batch.pin_memory()
    assert all(torch.equal(a + 1, b) for a, b in zip(batch.images, pinned.images, strict=True))
    for before, after in zip(batch.targets, pinned.targets, strict=True):
        assert all(torch.equal(before[k] + 1, after[k]) for k in ("boxes", "labels", "masks"))  # type: ignore[literal-required]


def test_rescaling_a_list_does_to_each_image_what_it_does_to_it_alone() -> None:
    batch = collate([sample(SIZES[0], 2), sample(SIZES[1], 1)]).to("cpu")
    together = rescale(batch, 24)
    assert [tuple(image.shape[-2:]) for image in together.images] == [(16, 24), (24, 14)]
    for i in range(2):
        alone = rescale(Batch(batch.images[i][None], [batch.targets[i]], [batch.infos[i]]), 24)
        assert torch.equal(together.images[i], alone.images[0])
        for name, value in alone.targets[0].items():
            assert torch.equal(together.targets[i][name], value), name  # type: ignore[literal-required]
    assert rescale(batch, None) is batch
