"""Partners of mosaics: chosen by the order of the epoch alone, and found among the images that were read lately."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from dataset_helpers import assert_equal, epochs_of
from hypothesis import given
from hypothesis import strategies as st

from iifdet.datasets import DatasetIndex, DetectionDataset, Mixing, TrainTransform, load_index, make_loader, partners
from iifdet.datasets.partners import BATCHES, BYTES, LANES, SMALL, WINDOW, Lanes, Pool, RecentImages, others
from iifdet.datasets.samplers import EpochSampler, SampleKey
from iifdet.types import Batch

IMAGES, BATCH = 700, 8


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """More small images than are chosen from as a whole, each with a box."""
    root = tmp_path_factory.mktemp("many")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for n in range(IMAGES):
        height, width = (int(side) for side in rng.integers(20, 50, 2))
        cv2.imwrite(str(root / f"images/{n:03d}.png"), rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
        (root / f"labels/{n:03d}.txt").write_text(f"{n % 3} 0.5 0.4 0.6 0.5\n")
    return load_index({"path": str(root), "train": "images", "names": ["car", "bus", "tram"]}, "train")


def mixed(index: DatasetIndex, **options: object) -> DetectionDataset:
    return DetectionDataset(index, TrainTransform(32), seed=3, mixing=Mixing(mosaic=0.8, mixup=0.3), **options)  # type: ignore[arg-type]


def batches(dataset: DetectionDataset, workers: int = 0, start: int = 0, **shares: int) -> list[Batch]:
    loader = make_loader(dataset, BATCH, workers, shuffle=True, seed=3, **shares)  # type: ignore[arg-type]
    return epochs_of(loader, (0, 1), start)


@pytest.fixture(scope="module")
def alone(index: DatasetIndex) -> list[Batch]:
    return batches(mixed(index))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_no_mosaic(index: DatasetIndex, alone: list[Batch], workers: int) -> None:
    assert_equal(batches(mixed(index), workers), alone)


def test_processes_make_the_mosaics_of_one_that_accumulates(index: DatasetIndex) -> None:
    alone = batches(mixed(index), accumulate=2)
    whole = IMAGES // BATCH // 2  # turns of two batches; the rest of an epoch is shared out otherwise
    for rank in (0, 1):
        found = batches(mixed(index), rank=rank, world_size=2)
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
        batches(DetectionDataset(index, TrainTransform(32), seed=3, mixing=only, cache=cache))[:20]
        for cache in (False, "ram", "disk")
    ]
    assert_equal(found[0], found[1])
    assert_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("workers", "world", "accumulate"), [(1, 1, 1), (2, 1, 1), (8, 1, 1), (4, 2, 1), (8, 8, 1), (2, 1, 4), (8, 2, 2)]
)
def test_a_mosaic_reads_about_one_image_a_sample(
    index: DatasetIndex, workers: int, world: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Counter[int]()
    read: Callable[..., np.ndarray] = DetectionDataset.read

    def counted(dataset: DetectionDataset, row: int) -> np.ndarray:
        reads[row] += 1
        return read(dataset, row)

    monkeypatch.setattr(DetectionDataset, "read", counted)
    monkeypatch.setattr(partners, "get_worker_info", lambda: SimpleNamespace(num_workers=workers))
    dataset = DetectionDataset(index, TrainTransform(32), seed=3, mixing=Mixing(mosaic=1))
    samples = most = 0
    options = {"batch": 2, "pools": lambda _: True, "accumulate": accumulate}
    sampler = EpochSampler(IMAGES, seed=3, world_size=world, **options)  # type: ignore[arg-type]
    for epoch in range(4):  # what the first worker of the first process makes; the first epoch fills its memory
        sampler.set_epoch(epoch)
        keys = list(sampler)
        if epoch == 1:
            reads.clear()
            samples = 0
        for first in range(0, len(keys), 2 * workers):
            samples += len([dataset[key] for key in keys[first : first + 2]])
            most = max(most, len(dataset._recent))
    assert samples >= 3 * IMAGES // world // workers - 6
    assert reads.total() <= 1.1 * samples
    assert most <= -(-LANES * accumulate // workers) * (WINDOW + 2) * 5 // 4


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=90),
    together=st.integers(1, 3),
    place=st.floats(0, 1, exclude_max=True),
)
def test_partners_are_of_the_same_lane_and_enough_where_it_has_them(
    sizes: list[int], together: int, place: float
) -> None:
    ends = np.cumsum(sizes)
    now = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    before = [rows + 10**6 for rows in now]
    number = int(place * len(now))
    pool = Lanes(now, before, together, 1).pool(number)
    found = pool.rows
    assert list(found) == sorted(found) and set(now[number].tolist()) <= set(found)
    if sum(sizes) <= SMALL:
        assert found == tuple(range(sum(sizes)))
        return
    same = [n for n in range(len(now)) if n % (LANES * together) == number % (LANES * together)]
    of_now = {row for n in same if n <= number for row in now[n].tolist()}
    of_lane = of_now | {row for n in same for row in before[n].tolist()}
    enough = max(WINDOW, BATCHES * sizes[0])
    assert set(found) <= of_lane
    assert len(found) >= enough or set(found) == of_lane
    assert len(found) < enough or len(of_now) >= enough or of_now <= set(found)  # the latest batches first


@pytest.mark.parametrize(("images", "batch"), [(600, 16), (2000, 16), (2000, 64), (1000, 4), (1000, 1)])
def test_from_the_first_epoch_on_there_are_many_to_choose_from(images: int, batch: int) -> None:
    sampler = EpochSampler(images, seed=0, batch=batch, pools=lambda _: True)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        sizes = [len(set(key.pool.rows)) for key in sampler]
        assert min(sizes) >= 32 and np.mean(sizes) >= 0.75 * max(WINDOW, BATCHES * batch)


def test_a_small_data_set_is_chosen_from_as_a_whole(index: DatasetIndex) -> None:
    assert {key.pool.rows for key in EpochSampler(SMALL, batch=BATCH, pools=lambda _: True)} == {tuple(range(SMALL))}


def test_a_sample_never_asks_for_its_own_picture_as_a_partner(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    tile = DetectionDataset.tile

    def noted(dataset: DetectionDataset, row: int) -> object:
        asked.append(row)
        return tile(dataset, row)

    monkeypatch.setattr(DetectionDataset, "tile", noted)
    dataset = DetectionDataset(index, TrainTransform(32), seed=3, mixing=Mixing(mosaic=1))
    for key in [SampleKey(epoch, row, pool=Pool((5, 6, 7))) for epoch in range(20) for row in (5, 6)]:
        asked.clear()
        _ = dataset[key]
        assert asked[0] == key.row and len(asked) == 4 and key.row not in asked[1:]


def test_every_image_is_a_partner_in_time() -> None:
    sampler = EpochSampler(IMAGES, seed=0, batch=BATCH, pools=lambda _: True)
    met = set()
    for epoch in range(8):
        sampler.set_epoch(epoch)
        met |= {(key.row, other) for key in sampler for other in key.pool.rows if other != key.row}
    assert {other for _, other in met} == set(range(IMAGES))
    assert len(met) > 0.4 * IMAGES * (IMAGES - 1)  # of eight epochs with about 64 of 699 each


def test_images_that_the_sampling_repeats_are_partners_more_often() -> None:
    rare = np.arange(30)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(np.concatenate([np.arange(IMAGES), *[rare] * 4]))

    sampler = EpochSampler(IMAGES, seed=0, draw=draw, batch=BATCH, pools=lambda _: True)
    counts = Counter(other for key in sampler for other in key.pool.rows)
    often, seldom = (np.mean([counts[row] for row in rows]) for rows in (rare, range(30, IMAGES)))
    assert 4 < often / seldom < 6


def test_only_epochs_with_mosaics_have_pools_and_keep_images(index: DatasetIndex) -> None:
    def pools(mixing: Mixing, epoch: int = 0, shuffle: bool = True) -> set[int]:
        loader = make_loader(DetectionDataset(index, TrainTransform(32), mixing=mixing), BATCH, shuffle=shuffle)
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return {len(key.pool.rows) for key in loader.sampler}  # type: ignore[attr-defined]

    closing = Mixing(mosaic=1, epochs=4, close=2)
    assert pools(Mixing()) == pools(Mixing(mixup=1)) == pools(closing, 2) == pools(closing, 0, shuffle=False) == {0}
    assert min(pools(closing, 0)) >= BATCH
    dataset = DetectionDataset(index, TrainTransform(32), mixing=closing)
    _ = dataset[SampleKey(0, 3, pool=Pool(tuple(range(64))))]
    assert len(dataset._recent) == 4 and len(pickle.loads(pickle.dumps(dataset))._recent) == 0
    _ = dataset[SampleKey(2, 3)]
    assert len(dataset._recent) == 0


@given(pool=st.lists(st.integers(0, 9), max_size=6), length=st.integers(1, 10), row=st.integers(0, 9))
def test_others_never_draws_the_row_itself_where_there_is_another(pool: list[int], length: int, row: int) -> None:
    row %= length
    found = set(others(np.random.default_rng(0), [n % length for n in pool], length, row, 20).tolist())
    of_pool = {n % length for n in pool} - {row}
    assert found <= (of_pool or set(range(length)) - {row} or {0})


def test_the_first_image_to_come_is_the_first_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def read(row: int) -> np.ndarray:
        reads.append(row)
        return np.full((2, 2, 3), row, np.uint8)

    recent = RecentImages(read)
    assert [int(recent(row)[0, 0, 0]) for row in (1, 1)] == [1, 1] and reads == [1, 1]  # no room, nothing kept
    recent.make_room(Pool((1, 2)))
    assert [int(recent(row)[0, 0, 0]) for row in (1, 2, 1, 3, 2, 1)] == [1, 2, 1, 3, 2, 1]
    assert reads[2:] == [1, 2, 3, 1]
    monkeypatch.setattr(partners, "BYTES", 12)
    recent.make_room(Pool((1, 2)))  # one image has 12 bytes
    assert len(recent) == 1 and BYTES > 1e9
    recent.make_room(Pool())
    assert len(recent) == 0
