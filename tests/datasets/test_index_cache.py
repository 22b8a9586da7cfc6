"""The index cache: the same index without reading, and never an old one."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_helpers import Document, MakeCoco, MakeYolo, document, index_of, painted_piece
from dataset_writers import write_voc

from iifdet.datasets import READERS, DatasetIndex, index_cache, index_store, load_index, mask_store, segments, watching
from iifdet.datasets.index_cache import cache_folder
from iifdet.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats that were read, one entry a reading."""
    read: list[str] = []
    for name, reader in list(READERS.items()):

        def spy(*args: Any, _name: str = name, _reader: Callable[..., DatasetIndex] = reader, **options: Any) -> Any:
            read.append(_name)
            return _reader(*args, **options)

        monkeypatch.setitem(READERS, name, spy)
    return read


def with_masks() -> Document:
    content = document()
    masks = [
        [[5, 6, 25.25, 6, 9, 36]],
        {"size": [60, 80], "counts": [10, 20, 4770]},
        {"size": [60, 80], "counts": "abc"},
    ]
    for row, mask in zip(content["annotations"], masks, strict=True):
        row["segmentation"] = mask
    content["annotations"].append({**content["annotations"][0], "id": 11, "bbox": [900, 900, 5, 5]})
    return content


def assert_equal(a: Any, b: Any) -> None:
    """Field by field, arrays with their types."""
    assert type(a) is type(b)
    for name in (f.name for f in fields(a)):
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and np.array_equal(left, right), name
        elif hasattr(left, "__dataclass_fields__"):
            assert_equal(left, right)
        else:
            assert left == right, name


def the_file(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


@pytest.mark.parametrize("many", [False, True])
def test_the_second_time_nothing_is_read_and_the_index_is_the_same(
    make_coco: MakeCoco, readings: list[str], monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    if many:
        for module in (segments, mask_store):
            monkeypatch.setattr(module, "SHARED_FROM", 1)
        monkeypatch.setattr(index_store, "MAPPED_FROM", 1)
    data = make_coco(with_masks())
    first, second = load_index(data, max_bad=0.5), load_index(data, max_bad=0.5)
    assert readings == ["coco"]
    assert_equal(first, second)
    assert first.segments is not None and (first.segments.order is not None) == many
    assert first.digest() == second.digest()


def test_lvis_lists_and_yolo_polygons_come_back(make_coco: MakeCoco, make_yolo: MakeYolo, readings: list[str]) -> None:
    content = document()
    content["images"][1]["neg_category_ids"] = [3, 17]
    content["categories"][0] |= {"frequency": "r", "image_count": 4}
    for data in ({**make_coco(content), "format": "lvis"}, make_yolo({"im0": "1 0.1 0.1 0.8 0.1 0.5 0.9\n"})):
        assert_equal(load_index(data), load_index(data))
    assert readings == ["lvis", "yolo"]


def test_problems_are_reported_again(make_coco: MakeCoco, readings: list[str], caplog: Any) -> None:
    data = make_coco(with_masks())
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "iifdet"):
            load_index(data, max_bad=0.5)
        assert "1 box outside the image" in caplog.text
        with pytest.raises(InputError, match=r"1 of 4.*box outside the image"):
            load_index(data)
    assert readings == ["coco"]


def test_every_question_has_its_own_answer(make_coco: MakeCoco, cache: Path, readings: list[str]) -> None:
    data = make_coco(document())
    for _ in range(2):
        assert load_index(data).names == ["car", "tram", "bus"]
        assert load_index({**data, "names": ["bus", "car"]}).names == ["bus", "car"]
        assert load_index({**data, "format": "lvis"}).federated is not None
        assert load_index(make_coco(document()), segments=False).segments is None
    assert len(readings) == len(list(cache.iterdir())) == 4


def test_it_can_be_left_out(make_coco: MakeCoco, cache: Path, readings: list[str]) -> None:
    data = make_coco(document())
    load_index(data, cache_index=False)
    assert not cache.exists()
    load_index(data)
    load_index(data, cache_index=False)
    assert len(readings) == 3


# -- what must make it read again --------------------------------------------------------------------------------------


def edit(file: Path, old: str, new: str) -> None:
    """Change the content and neither the size nor the time of modification."""
    before, text = file.stat(), file.read_text()
    assert len(old) == len(new) and text.count(old) >= 1
    with open(file, "r+") as same:  # in place: the inode stays too
        same.write(text.replace(old, new))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("grain", [2_000_000_000, -(10**18)], ids=["young file", "old file"])
def test_an_edit_of_the_same_size_and_time_is_seen(
    make_coco: MakeCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grain: int
) -> None:
    monkeypatch.setattr(watching, "_GRAIN", grain)
    data = make_coco(document())
    assert load_index(data).names[0] == "car"
    edit(tmp_path / "train.json", '"car"', '"cat"')
    assert load_index(data).names[0] == "cat"


def test_an_old_file_with_the_same_stats_is_not_read_again(make_coco: MakeCoco, monkeypatch: Any) -> None:
    data = make_coco(document())
    monkeypatch.setattr(watching, "_GRAIN", -(10**18))
    first, whole = load_index(data), watching._bytes
    monkeypatch.setattr(watching, "_bytes", None)
    assert_equal(load_index(data), first)
    monkeypatch.setattr(watching, "_bytes", whole)


def test_a_file_that_was_only_touched_keeps_its_index(make_coco: MakeCoco, tmp_path: Path, readings: list[str]) -> None:
    data = make_coco(document())
    load_index(data)
    os.utime(tmp_path / "train.json", (1, 1))
    load_index(data)
    assert readings == ["coco"]


def test_images_that_vanish_or_appear_count(make_coco: MakeCoco, tmp_path: Path, readings: list[str]) -> None:
    data = make_coco(document())
    assert len(load_index(data)) == 3
    image = tmp_path / "images" / "1.png"
    image.rename(tmp_path / "away.png")
    assert len(load_index(data, max_bad=0.5)) == 2
    (tmp_path / "away.png").rename(image)
    assert len(load_index(data)) == 3
    assert len(readings) == 3


def test_images_missing_with_their_whole_folder_count_when_they_appear(
    make_coco: MakeCoco, tmp_path: Path, readings: list[str]
) -> None:
    content = document()
    content["images"][2]["file_name"] = "more/2.png"
    data = make_coco(content)
    for _ in range(2):
        assert len(load_index(data, max_bad=0.5)) == 2
    (tmp_path / "images" / "more").mkdir()
    (tmp_path / "images" / "2.png").rename(tmp_path / "images" / "more" / "2.png")
    assert len(load_index(data)) == 3
    assert len(readings) == 2


def test_a_size_that_was_measured_is_measured_again(make_coco: MakeCoco, tmp_path: Path, readings: list[str]) -> None:
    content = document()
    del content["images"][2]["height"]
    data = make_coco(content)
    for _ in range(2):
        assert load_index(data).sizes[2].tolist() == [50, 50]
    cv2.imwrite(str(tmp_path / "images" / "2.png"), np.zeros((70, 90, 3), np.uint8))
    assert load_index(data).sizes[2].tolist() == [70, 90]
    assert len(readings) == 2


@pytest.mark.parametrize("train", ["images/train", "list.txt", "l*t.txt", "images/*/*.png"])
def test_label_files_are_watched(make_yolo: MakeYolo, tmp_path: Path, readings: list[str], train: str) -> None:
    data = {**make_yolo({"im0": "0 0.5 0.5 0.2 0.2\n"}), "train": train}
    (tmp_path / "list.txt").write_text("".join(f"images/train/im{n}.png\n" for n in (0, 1)))
    changes: list[Callable[[], Any]] = [
        lambda: (tmp_path / "labels/train/im0.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.4 0.4\n"),
        lambda: (tmp_path / "labels/train/im1.txt").write_text("2 0.5 0.5 0.2 0.2\n"),
        lambda: (tmp_path / "labels/train/im0.txt").unlink(),
    ]
    for number, (change, labels) in enumerate(zip(changes, ([0, 1], [0, 1, 2], [2]), strict=True), start=2):
        load_index(data)
        change()
        assert load_index(data).labels.tolist() == labels
        assert len(readings) == number


def test_new_folders_of_images_are_seen(make_yolo: MakeYolo, tmp_path: Path) -> None:
    data = {**make_yolo({"im0": "0 0.5 0.5 0.2 0.2\n"}), "train": "images"}
    (tmp_path / "images" / "empty").mkdir()
    assert len(load_index(data)) == 3
    (tmp_path / "images" / "train" / "im2.png").rename(tmp_path / "images" / "empty" / "im9.png")
    assert [Path(file).stem for file in load_index(data).files] == ["im9", "im0", "im1"]


def test_data_that_change_during_the_reading_are_not_kept(
    make_coco: MakeCoco, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, reader = make_coco(document()), READERS["coco"]

    def slow(*args: Any, **options: Any) -> DatasetIndex:
        index = reader(*args, **options)
        (tmp_path / "train.json").write_text(json.dumps(document(), indent=1))
        return index

    monkeypatch.setitem(READERS, "coco", slow)
    load_index(data)
    assert not cache.exists()


def test_a_large_index_is_kept_in_the_background_and_only_if_the_data_are_still_the_same(
    make_coco: MakeCoco, tmp_path: Path, cache: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "BESIDE_FROM", 0)
    data, hold, write = make_coco(with_masks()), threading.Event(), index_cache.take_record

    def late(*args: Any) -> Any:
        assert hold.wait(60)
        return write(*args)

    monkeypatch.setattr(index_cache, "take_record", late)

    def load_and_let_go(between: Callable[[], Any]) -> DatasetIndex:
        hold.clear()
        index = load_index(data, max_bad=0.5)
        between()
        hold.set()
        for thread in threading.enumerate():
            if thread.name.startswith("index-cache"):
                thread.join()
        return index

    load_and_let_go(lambda: (tmp_path / "train.json").write_text(json.dumps(with_masks(), indent=1)))
    assert not cache.exists()
    first = load_and_let_go(lambda: None)
    assert_equal(load_index(data, max_bad=0.5), first)
    assert readings == ["coco", "coco"]


@pytest.mark.parametrize("names", [["dog", "cat"], None])
def test_voc_folders_are_watched(tmp_path: Path, readings: list[str], names: list[str] | None) -> None:
    content, rng = index_of([painted_piece(seed) for seed in range(2)], names=3), np.random.default_rng(0)
    content = replace(content, root=str(tmp_path), files=[str(tmp_path / f"{n}.png") for n in range(2)])
    for file, (height, width) in zip(content.files, content.sizes.tolist(), strict=True):
        cv2.imwrite(file, rng.integers(0, 255, (height, width, 3), np.uint8))
    for split in ("train", "val"):
        write_voc(content, tmp_path / split)
    data = {"format": "voc", "path": str(tmp_path), "train": "train", "val": {"path": "val", "list": "train"}}
    data |= {} if names is None else {"names": ["c0", "c1", "c2"]}
    xml = tmp_path / "val" / "Annotations" / "0.xml"
    first = load_index(data, "val")
    assert_equal(load_index(data, "val"), first)
    assert readings == ["voc"]
    xml.write_text(xml.read_text().replace("<name>c0</name>", "<name>c2</name>"))
    os.utime(xml, ns=(0, 0))
    assert load_index(data, "val").labels.tolist() != first.labels.tolist()
    other = tmp_path / "train" / "Annotations" / "0.xml"
    other.write_text(other.read_text().replace("<name>c0</name>", "<name>extra</name>"))
    assert load_index(data, "val").names == (["c0", "c1", "c2"] if names else ["c0", "c1", "c2", "extra"])
    assert len(readings) == (2 if names else 3)


# -- what must not matter ----------------------------------------------------------------------------------------------


def damages(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    place = whole.find(b"\x93NUMPY") + 140  # in the first array
    flipped[place if len(whole) > place else 0] ^= 0xFF
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "cut by a byte": whole[:-1],
        "flipped": bytes(flipped),
        "foreign": b"hello",
        "longer": whole + b"\0" * 5000,
    }


@pytest.mark.parametrize("kind", damages(b"PK"))
def test_a_damaged_file_is_replaced(
    make_coco: MakeCoco, cache: Path, readings: list[str], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    data = make_coco(with_masks())
    first, file = load_index(data, max_bad=0.5), the_file(cache)
    whole = file.read_bytes()
    file.write_bytes(damages(whole)[kind])
    with caplog.at_level(logging.INFO, "iifdet"):
        assert_equal(load_index(data, max_bad=0.5), first)
    assert ("cannot be used" in caplog.text) == (len(readings) == 2)
    assert len(readings) == 2 or kind == "longer"
    assert_equal(load_index(data, max_bad=0.5), first)


def test_no_flipped_byte_gets_through(make_coco: MakeCoco, cache: Path, readings: list[str]) -> None:
    """Either the index is the same (the byte lies between the arrays), or the data are read again."""
    data = make_coco(with_masks())
    first, file = load_index(data, max_bad=0.5), the_file(cache)
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        broken = bytearray(whole)
        broken[place] ^= 0x40
        file.write_bytes(broken)
        assert_equal(load_index(data, max_bad=0.5), first)
    assert len(readings) > 50


def test_pickles_are_not_opened(make_coco: MakeCoco, cache: Path, readings: list[str]) -> None:
    data = make_coco(document())
    load_index(data)
    with np.load(the_file(cache), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert all(array.dtype != object for array in arrays.values())
    arrays["labels"] = np.array([Trap()] * 3, dtype=object)
    np.savez(the_file(cache), **arrays)  # type: ignore[arg-type]
    load_index(data)
    assert len(readings) == 2


class Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def test_a_cache_that_cannot_be_written_is_no_error(
    make_coco: MakeCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path / "file"))
    assert len(load_index(make_coco(document()))) == 3
    monkeypatch.setenv("IIFDET_CACHE_DIR", str(tmp_path / "cache"))
    cache_folder().mkdir(parents=True)
    data = make_coco(document())
    load_index(data)
    file = the_file(cache_folder())
    file.unlink()
    file.mkdir()  # nothing can be renamed over a folder
    assert len(load_index(data)) == 3
    assert [path.name for path in cache_folder().iterdir()] == [file.name]


def test_many_at_once_get_whole_indexes(make_coco: MakeCoco, cache: Path) -> None:
    data = make_coco(with_masks())

    def load(number: int) -> str:
        if number % 5 == 0:
            for file in cache.glob("*.npz"):
                file.unlink(missing_ok=True)
        return load_index(data, max_bad=0.5).digest()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(60)))) == 1
    assert [file.suffix for file in cache.iterdir()] == [".npz"]
