"""The disk cache: never wrong, never in the data folder, and any number of processes may share it."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from iifdet.datasets import DatasetIndex, DetectionDataset, EvalTransform, TrainTransform, caching, load_index
from iifdet.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, make_yolo: Callable[..., dict]) -> DatasetIndex:
    """Three noisy images of different sizes."""
    data = make_yolo({f"im{n}": "1 0.5 0.5 0.4 0.4" for n in range(3)})
    rng = np.random.default_rng(0)
    for n, (h, w) in enumerate([(60, 80), (80, 60), (50, 50)]):
        cv2.imwrite(str(tmp_path / f"images/train/im{n}.png"), rng.integers(0, 255, (h, w, 3)).astype(np.uint8))
    return load_index(data)


def cached(index: DatasetIndex, size: int = 64, resize: str = "letterbox") -> DetectionDataset:
    return DetectionDataset(index, EvalTransform(size, resize), cache="disk")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def assert_same(a: DetectionDataset, b: DetectionDataset) -> None:
    for row in range(len(a)):
        assert torch.equal(a[0, row].image, b[0, row].image)
        assert torch.allclose(a[0, row].target["boxes"], b[0, row].target["boxes"], atol=1e-3)


@pytest.mark.parametrize("resize", ["letterbox", "square"])
def test_images_from_disk_are_those_from_their_files(index: DatasetIndex, folder: Path, resize: str) -> None:
    plain = DetectionDataset(index, EvalTransform(64, resize))
    assert_same(cached(index, resize=resize), plain)
    assert len(files(folder)) == 3
    again = cached(index, resize=resize)
    again.read = lambda row: pytest.fail("decoded again")  # type: ignore[method-assign]
    assert_same(again, plain)


def test_nothing_is_written_beside_the_data(index: DatasetIndex, folder: Path, tmp_path: Path) -> None:
    before = {p for p in tmp_path.rglob("*") if folder not in (p, *p.parents)}
    _ = [cached(index)[0, row] for row in range(3)]
    assert {p for p in tmp_path.rglob("*") if folder not in (p, *p.parents)} == before


def test_a_changed_image_and_another_size_have_files_of_their_own(
    index: DatasetIndex, folder: Path, tmp_path: Path
) -> None:
    dataset = cached(index)
    first = dataset[0, 0].image
    path = tmp_path / "images/train/im0.png"
    cv2.imwrite(str(path), np.full((60, 80, 3), 9, np.uint8))
    os.utime(path, ns=(1, 1))
    assert (dataset[0, 0].image[:, 32] == 9).all()
    assert not torch.equal(first, dataset[0, 0].image)
    _ = cached(index, size=96)[0, 0]
    assert len(files(folder)) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "text"])
def test_a_broken_file_is_written_anew(index: DatasetIndex, folder: Path, damage: str) -> None:
    plain = DetectionDataset(index, EvalTransform(64))
    assert_same(cached(index), plain)
    for path in files(folder):
        content = bytearray(path.read_bytes())
        if damage == "other":
            caching.write_array(path, np.zeros((3, 3, 3), np.uint8))
            continue
        content[500] ^= 255
        path.write_bytes({"cut": content[:700], "flipped": content, "empty": b"", "text": b"hello"}[damage])
    assert_same(cached(index), plain)
    broken = cached(index)
    broken.read = lambda row: pytest.fail("was not written anew")  # type: ignore[method-assign]
    assert_same(broken, plain)


def _fill(index: DatasetIndex, barrier, failures) -> None:
    try:
        plain, dataset = DetectionDataset(index, EvalTransform(64)), cached(index)
        barrier.wait()
        for _ in range(20):
            for path in files(caching.cache_folder()):
                path.unlink(missing_ok=True)
            assert_same(dataset, plain)
    except BaseException as error:
        failures.put(repr(error))


def test_several_processes_may_fill_it_at_once(index: DatasetIndex, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_fill, args=(index, barrier, failures)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failures.empty(), failures.get()
    assert [p for p in folder.rglob(".*") if p.is_file()] == []  # no half-written files left


def test_a_disk_without_room_is_not_filled(
    index: DatasetIndex, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with caplog.at_level(logging.WARNING, "iifdet"):
        assert_same(cached(index), DetectionDataset(index, EvalTransform(64)))
    assert "cache=disk" in caplog.text and "not cached" in caplog.text
    assert files(folder) == []


def test_a_disk_that_fills_up_during_a_run_does_not_end_it(
    index: DatasetIndex, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, array: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    dataset = cached(index)
    monkeypatch.setattr(caching, "write_array", full)
    with caplog.at_level(logging.WARNING, "iifdet"):
        assert_same(dataset, DetectionDataset(index, EvalTransform(64)))
    assert caplog.text.count("No space left") == 1


def test_a_folder_that_cannot_be_made_is_said_once(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING, "iifdet"):
        assert_same(cached(index), DetectionDataset(index, EvalTransform(64)))
    assert "not cached" in caplog.text


def test_the_folder_is_the_users_cache_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IIFDET_CACHE_DIR", raising=False)
    assert caching.cache_folder() == Path.home() / ".cache" / "iifdet"


def test_an_image_that_goes_bad_after_it_was_cached_gives_way(
    index: DatasetIndex, folder: Path, tmp_path: Path
) -> None:
    dataset = DetectionDataset(index, TrainTransform(64), cache="disk")
    assert dataset[0, 0].info.index == 0
    (tmp_path / "images/train/im0.png").write_bytes(b"broken")
    assert dataset[0, 0].info.index == 1
    (tmp_path / "images/train/im0.png").unlink()
    assert dataset[0, 0].info.index == 1


def test_other_kinds_are_refused(index: DatasetIndex) -> None:
    with pytest.raises(InputError, match=r"ram, disk or False.*did you mean 'disk'"):
        DetectionDataset(index, EvalTransform(64), cache="dsik")
