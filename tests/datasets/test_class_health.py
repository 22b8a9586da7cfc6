"""``check`` on data of classification: planted faults are found, each with its file, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from classification_data import NAMES, TEST, TRAIN, write_cifar, write_folders, write_lists, write_picture, write_zip

import iifdet
from iifdet.datasets.findings import Finding
from iifdet.inspection import find_faults, read_splits


def faults(content: dict[str, Any], **keys: Any) -> list[tuple[str, str, str, str]]:
    """Severity, split, reason, the end of the file's path."""
    found: list[Finding] = find_faults(read_splits(content), **keys)
    return [(f.severity, f.split, f.reason, "/".join(Path(f.file).parts[-2:])) for f in found]


@pytest.mark.parametrize("write", [write_folders, write_zip, write_lists])
@pytest.mark.parametrize("decode", [True, False])
def test_sound_data_have_no_findings(write: Any, decode: bool, tmp_path: Path) -> None:
    assert faults(write(tmp_path / "data"), decode=decode) == []


def test_missing_and_unreadable_images_are_errors(tmp_path: Path) -> None:
    content = write_lists(tmp_path)
    (tmp_path / "train" / "ant" / "001.png").unlink()
    (tmp_path / "train" / "bee" / "002.png").write_bytes(b"")
    file = tmp_path / "test" / "cow" / "000.png"
    file.write_bytes(file.read_bytes()[:90])
    assert faults(content) == [
        ("error", "train", "missing image file", "ant/001.png"),
        ("error", "train", "unreadable image", "bee/002.png"),
        ("error", "test", "unreadable image", "cow/000.png"),
    ]


def test_labels_outside_and_classes_without_images_are_found(tmp_path: Path) -> None:
    content = write_lists(tmp_path)
    lines = (tmp_path / "test.txt").read_text().splitlines()
    (tmp_path / "test.txt").write_text("\n".join(line.replace(" 2", " 9") for line in lines))
    found = find_faults(read_splits(content))
    assert [(f.severity, f.reason, f.detail) for f in found] == [
        ("error", "class out of range", "expected 0…2, got 9"),
        ("warning", "class without test images", "cow"),
    ]
    named = {**content, "names": [*NAMES, "dodo"]}
    assert ("error", "train", "class without training images", f"{tmp_path.name}/train.txt") in faults(named)


def test_folders_of_unknown_classes_and_empty_ones_are_errors(tmp_path: Path) -> None:
    content = write_folders(tmp_path)
    write_picture(tmp_path / "test" / "dog" / "0.png", 999)
    (tmp_path / "train" / "elk").mkdir()
    assert faults(content) == [
        ("error", "train", "folder of a class without images", "train/elk"),
        ("error", "test", "folder of an unknown class", "test/dog"),
    ]


@pytest.mark.parametrize("write", [write_folders, write_zip])
def test_the_same_image_again_is_found_by_its_content(write: Any, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if write is write_folders:
        content = write(root)
    else:
        content = write_folders(root)
    train, test = root / "train", root / "test"
    shutil.copy(train / "ant" / "000.png", train / "ant" / "again.png")
    shutil.copy(train / "ant" / "000.png", train / "bee" / "other.png")
    pixels = cv2.imread(str(train / "cow" / "001.png"))
    cv2.imwrite(str(test / "cow" / "leak.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    if write is write_zip:
        archive = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
        content = {**content, "path": archive}
    expected = [
        ("warning", "train", "same image twice in a split", "ant/again.png"),
        ("warning", "train", "same image in two classes", "bee/other.png"),
        ("error", "test", "same image in train and test", "cow/leak.png"),
    ]
    assert faults(content) == expected
    assert faults(content, decode=False) == expected[:2], "other bytes, and nothing was decoded"
    detail = next(f.detail for f in find_faults(read_splits(content)) if f.reason == "same image in two classes")
    assert detail.startswith("equal bytes: ") and detail.endswith("is ant, this is bee")


def test_a_file_that_is_listed_twice_with_two_labels_is_in_two_classes(tmp_path: Path) -> None:
    content = write_lists(tmp_path)
    with (tmp_path / "train.txt").open("a") as file:
        file.write("train/ant/000.png 1\ntrain/bee/001.png 1\ntrain/bee/002.png 0\n")
    shutil.copy(tmp_path / "train" / "bee" / "002.png", tmp_path / "train" / "cow" / "like.png")
    with (tmp_path / "train.txt").open("a") as file:
        file.write("train/cow/like.png 2\n")
    found = find_faults(read_splits({**content, "names": NAMES}))
    assert [(f.reason, f.detail.partition(" is ")[2]) for f in found] == [
        ("same image in two classes", "ant, this is bee"),
        ("same image twice in a split", ""),
        ("same image in two classes", "bee, this is ant"),
        ("same image in two classes", "bee, this is cow"),
    ]


def test_pixels_of_cifar_files_are_compared(tmp_path: Path) -> None:
    content = write_cifar(tmp_path)
    assert faults(content) == []
    folder = Path(content["path"])
    shutil.copy(folder / "data_batch_2", folder / "test_batch")
    found = faults(content)
    assert len(found) == 20 and found[0] == ("error", "test", "same image in train and test", "test/00000")


def test_two_splits_that_are_one_are_said_once(tmp_path: Path) -> None:
    content = write_folders(tmp_path)
    assert faults({**content, "test": "train"}) == [
        ("warning", "test", "train and test are the same images throughout", f"{tmp_path.name}/train")
    ]


def test_check_reports_images_and_classes_and_cuts_no_tail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    content = write_folders(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, "imbalance": 50}))
    keys: dict[str, Any] = {"data": str(tmp_path / "mine.yaml"), "project": str(tmp_path / "runs")}
    report = iifdet.check(**keys)
    assert report.errors == []
    assert report.splits["train"] == {"images": sum(TRAIN), "classes": 3}
    assert iifdet.check(**keys, split="test").splits == {"test": {"images": sum(TEST), "classes": 3}}
    report.print()
    assert f"train: {sum(TRAIN)} images, 3 classes" in capsys.readouterr().out
    assert (report.folder / "problems.json").is_file()
    (tmp_path / "data" / "train" / "ant" / "000.png").write_bytes(b"no")
    assert [f.reason for f in iifdet.check(**keys).errors] == ["unreadable image"]


def test_progress_counts_every_image_once(tmp_path: Path) -> None:
    seen: list[int] = []
    find_faults(read_splits(write_folders(tmp_path)), seen=seen.append)
    assert seen == list(range(1, sum(TRAIN) + sum(TEST) + 1))
    assert np.all(np.diff(seen) == 1)
