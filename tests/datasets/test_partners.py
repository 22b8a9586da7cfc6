"""Partners of mosaics: chosen by the order of the epoch alone, and found among the images that were read lately."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iifdet.datasets import DatasetIndex, DetectionDataset, Mixing, TrainTransform, load_index, make_loader
from iifdet.datasets.partners import LANES, WINDOW, RecentImages, others, partners
from iifdet.datasets.samplers import EpochSampler, SampleKey
from iifdet.types import Batch

IMAGES, BATCH = 300, 8


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """So many small images of their own that lanes have a history, each with a box."""
    root = tmp_path_factory.mktemp("many")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for n in range(IMAGES):
        height, width = (int(side) for side in rng.integers(40, 90, 2))
        cv2.imwrite(str(root / f"images/{n:03d}.png"), rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
        (root / f"labels/{n:03d}.txt").write_text(f"{n % 3} 0.5 0.4 0.6 0.5\n")
    return load_index({"path": str(root), "train": "images", "names": ["car", "bus", "tram"]}, "train")


def mixed(index: DatasetIndex, **options: object) -> DetectionDataset:
    return DetectionDataset(index, TrainTransform(64), seed=3, mixing=Mixing(mosaic=0.8, mixup=0.3), **options)  # type: ignore[arg-type]


def batches(dataset: DetectionDataset, workers: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
    """Those of epochs 0 and 1."""
    loader = make_loader(dataset, BATCH, workers, shuffle=True, seed=3, rank=rank, world_size=world)
    found = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch, start)  # type: ignore[attr-defined]
        found += list(loader)
    return found


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and a.infos == b.infos
        assert all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(a.targets, b.targets, strict=True))


@pytest.fixture(scope="module")
def alone(index: DatasetIndex) -> list[Batch]:
    return batches(mixed(index))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_no_mosaic(index: DatasetIndex, alone: list[Batch], workers: int) -> None:
    assert_equal(batches(mixed(index), workers), alone)


def test_processes_that_share_the_batches_change_no_mosaic(index: DatasetIndex, alone: list[Batch]) -> None:
    whole = IMAGES // BATCH // 2  # turns of two batches; the rest of an epoch is shared out otherwise
    for rank in (0, 1):
        found = batches(mixed(index), rank=rank, world=2)
        for epoch in (0, 1):
            of_one = alone[epoch * len(alone) // 2 :][rank : 2 * whole : 2]
            assert_equal(found[epoch * len(found) // 2 :][:whole], of_one)


def test_an_epoch_that_is_gone_on_with_changes_no_mosaic(index: DatasetIndex, alone: list[Batch]) -> None:
    skipped, half = 20, len(alone) // 2
    rest = batches(mixed(index), workers=2, start=skipped * BATCH)
    assert_equal(rest, alone[skipped:half] + alone[half + skipped :])


def test_kept_images_change_no_mosaic(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path))
    only = Mixing(mosaic=1)
    found = [
        batches(DetectionDataset(index, TrainTransform(64), seed=3, mixing=only, cache=cache))[:20]
        for cache in (False, "ram", "disk")
    ]
    assert_equal(found[0], found[1])
    assert_equal(found[0], found[2])


def test_a_mosaic_reads_about_one_image_a_sample(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., np.ndarray] = DetectionDataset.read
    reads: Counter[int] = Counter()

    def counted(dataset: DetectionDataset, row: int) -> np.ndarray:
        reads[row] += 1
        return read(dataset, row)

    monkeypatch.setattr(DetectionDataset, "read", counted)
    dataset = DetectionDataset(index, TrainTransform(64), seed=3, mixing=Mixing(mosaic=1))
    # What one worker of eight makes: every eighth batch, with no more images kept than its own lane needs.
    monkeypatch.setattr(RecentImages, "make_room", lambda images, count: setattr(images, "room", count * 5 // 4))
    samples = 0
    sampler = EpochSampler(IMAGES, seed=3, batch=BATCH, partners=True)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        for first in range(0, IMAGES, BATCH * LANES):
            samples += len([dataset[key] for key in keys[first : first + BATCH]])
    assert samples > 150
    assert reads.total() <= 1.15 * samples
    assert len(dataset._recent._images) <= WINDOW * 2


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    epoch_before=st.booleans(),
    place=st.floats(0, 1, exclude_max=True),
)
def test_partners_are_of_the_same_lane_and_enough_where_it_has_them(
    sizes: list[int], epoch_before: bool, place: float
) -> None:
    ends = np.cumsum(sizes)
    now = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    before = [rows + 10**6 for rows in now] if epoch_before else []
    number = int(place * len(now))
    found = partners(now, before, number)
    assert list(found) == sorted(found) and set(now[number].tolist()) <= set(found)
    if sum(sizes) <= 2 * WINDOW:
        assert found == tuple(range(sum(sizes)))
        return
    lane = list(range(number, -1, -LANES)), [n for n in range(len(now)) if n % LANES == number % LANES]
    of_lane = {row for n in lane[0] for row in now[n].tolist()}
    of_lane |= {row for n in lane[1] for row in before[n].tolist()} if epoch_before else set()
    assert set(found) <= of_lane
    assert len(found) >= WINDOW or set(found) == of_lane


def test_every_image_is_a_partner_in_time() -> None:
    sampler = EpochSampler(IMAGES, seed=0, batch=BATCH, partners=True)
    met = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        met |= {(key.row, other) for key in sampler for other in key.partners if other != key.row}
    assert {other for _, other in met} == set(range(IMAGES))
    assert len(met) > 0.3 * IMAGES * (IMAGES - 1)  # of three epochs with about 64 of 299 each


def test_images_that_the_sampling_repeats_are_partners_more_often() -> None:
    rare = np.arange(30)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(np.concatenate([np.arange(IMAGES), *[rare] * 4]))

    sampler = EpochSampler(IMAGES, seed=0, draw=draw, batch=BATCH, partners=True)
    counts = Counter(other for key in sampler for other in key.partners)
    often, seldom = (np.mean([counts[row] for row in rows]) for rows in (rare, range(30, IMAGES)))
    assert 4 < often / seldom < 6


def test_without_mosaic_and_mixup_keys_have_no_partners(index: DatasetIndex) -> None:
    def first(mixing: Mixing, shuffle: bool = True) -> SampleKey:
        dataset = DetectionDataset(index, TrainTransform(64), mixing=mixing)
        return next(iter(make_loader(dataset, BATCH, shuffle=shuffle).sampler))  # type: ignore[call-overload, no-any-return]

    assert not first(Mixing()).partners and not first(Mixing(mosaic=1), shuffle=False).partners
    assert len(first(Mixing(mosaic=1)).partners) >= BATCH and first(Mixing(mixup=0.1)).partners


@given(pool=st.lists(st.integers(0, 9), max_size=6), length=st.integers(1, 10), row=st.integers(0, 9))
def test_others_never_draws_the_row_itself_where_there_is_another(pool: list[int], length: int, row: int) -> None:
    row %= length
    found = set(others(np.random.default_rng(0), [n % length for n in pool], length, row, 20).tolist())
    of_pool = {n % length for n in pool} - {row}
    assert found <= (of_pool or set(range(length)) - {row} or {0})


def test_the_first_image_to_come_is_the_first_to_go() -> None:
    reads = []

    def read(row: int) -> np.ndarray:
        reads.append(row)
        return np.full((2, 2, 3), row, np.uint8)

    recent = RecentImages(read)
    recent.make_room(0)
    assert [int(recent(row)[0, 0, 0]) for row in (1, 1)] == [1, 1] and reads == [1, 1]  # no room, nothing kept
    recent.room = 2
    assert [int(recent(row)[0, 0, 0]) for row in (1, 2, 1, 3, 2, 1)] == [1, 2, 1, 3, 2, 1]
    assert reads[2:] == [1, 2, 3, 1]
