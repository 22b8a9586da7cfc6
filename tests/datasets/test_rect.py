"""Rect batches: every image once, shapes shared and no larger than needed, the order seeded and resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iifdet.datasets import (
    DatasetIndex,
    DetectionDataset,
    EvalTransform,
    RectBatchSampler,
    TrainTransform,
    load_index,
    make_loader,
)
from iifdet.datasets.resizing import letterbox_shape

SIDES = st.tuples(st.integers(1, 900), st.integers(1, 900))


@given(sizes=st.lists(SIDES, min_size=1, max_size=40), batch=st.integers(1, 9), shuffle=st.booleans())
def test_every_image_comes_once_in_a_shape_that_holds_it(
    sizes: list[tuple[int, int]], batch: int, shuffle: bool
) -> None:
    sampler = RectBatchSampler(np.array(sizes, np.int32), 320, batch, seed=3, shuffle=shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler) == -(-len(sizes) // batch)
    assert sorted(key.row for keys in batches for key in keys) == list(range(len(sizes)))
    for keys in batches:
        assert 1 <= len(keys) <= batch
        assert len({key.shape for key in keys}) == 1
        height, width = keys[0].shape or (0, 0)
        assert height % 32 == width % 32 == 0
        needed = np.max([letterbox_shape(*sizes[key.row], 320) for key in keys], axis=0)
        assert needed[0] <= height < needed[0] + 32 and needed[1] <= width < needed[1] + 32


def test_batches_are_seeded_and_resumable() -> None:
    rng = np.random.default_rng(0)
    sizes = np.stack([np.full(50, 60), rng.choice([60, 80, 120], 50)], axis=1).astype(np.int32)

    def batches(seed: int, epoch: int, start: int = 0) -> list:
        sampler = RectBatchSampler(sizes, 128, 8, seed)
        sampler.set_epoch(epoch, start)
        assert len(sampler) == 7 - min(start, 7)
        return [[key.row for key in keys] for keys in sampler]

    assert batches(0, 2) == batches(0, 2)
    assert batches(0, 2) != batches(0, 3) and batches(0, 2) != batches(1, 2)
    assert batches(0, 2)[3:] == batches(0, 2, start=3)
    assert batches(0, 2, start=9) == []
    # Images of one shape meet others from epoch to epoch.
    first = {row: frozenset(rows) for rows in batches(0, 0) for row in rows}
    second = {row: frozenset(rows) for rows in batches(0, 1) for row in rows}
    assert sum(first[row] == second[row] for row in first) < 10


@pytest.fixture
def index(tmp_path: Path, make_yolo: Callable[..., dict]) -> DatasetIndex:
    """Fifteen images, wide, tall and square, the value of whose pixels is 10 times their number."""
    data = make_yolo({})
    for path in (tmp_path / "images/train").iterdir():
        path.unlink()
    for n in range(15):
        shape = [(40, 80), (80, 40), (60, 60)][n % 3]
        cv2.imwrite(str(tmp_path / f"images/train/n{n:02d}.png"), np.full((*shape, 3), 10 * n, np.uint8))
        (tmp_path / f"labels/train/n{n:02d}.txt").write_text(f"{n % 3} 0.5 0.5 0.5 0.25\n")
    return load_index(data)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transform", [EvalTransform(64), TrainTransform(64, hsv=(0, 0, 0))])
def test_rect_batches_hold_the_images_they_name(index: DatasetIndex, workers: int, transform: EvalTransform) -> None:
    loader = make_loader(DetectionDataset(index, transform), 4, workers, shuffle=transform.training, rect=True)
    seen, shapes = [], set()
    for batch in loader:
        shapes.add(tuple(batch.images.shape[-2:]))
        for image, target, info in zip(batch.images, batch.targets, batch.infos, strict=True):
            middle = (
                tuple(int(v) for v in target["boxes"][0].reshape(2, 2).mean(0).flip(0))
                if len(target["boxes"])
                else None
            )
            assert middle is None or (image[:, middle[0], middle[1]] == 10 * info.index).all()
            assert index.files[info.index].endswith(f"n{info.index:02d}.png")
            if not transform.training:
                back = info.to_original(target["boxes"])
                assert torch.allclose(back, torch.from_numpy(index.boxes[index.boxes_of(info.index)]), atol=1e-3)
            seen.append(info.index)
    assert sorted(seen) == list(range(15))
    assert len(shapes) > 1 and (32, 64) in shapes


def test_a_cache_changes_nothing_in_rect_batches(index: DatasetIndex) -> None:
    plain, cached = (
        list(make_loader(DetectionDataset(index, EvalTransform(64), cache=cache), 4, rect=True))
        for cache in (False, "ram")
    )
    for a, b in zip(plain, cached, strict=True):
        assert torch.equal(a.images, b.images) and [i.index for i in a.infos] == [i.index for i in b.infos]
