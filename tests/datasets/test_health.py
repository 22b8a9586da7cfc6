"""Each fault planted by itself in a sound data set is found with its file and reason; the sound one gives nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import hotcoco
import numpy as np
import pytest
from PIL import Image
from planted import HEIGHT, WIDTH, Edit, Planted, Row, box, noise, short, square

from iifdet.datasets import load_index
from iifdet.datasets.findings import count_reasons
from iifdet.errors import InputError
from iifdet.evaluation.lookalikes import find_lookalikes
from iifdet.inspection import find_faults, read_splits


@pytest.mark.parametrize("decode", [True, False])
def test_a_sound_data_set_gives_nothing(planted: Planted, decode: bool) -> None:
    assert planted.found(decode=decode) == []


# -- files -------------------------------------------------------------------------------------------------------------


def cut(planted: Planted) -> None:
    data = planted.file(101).read_bytes()
    planted.file(101).write_bytes(data[: len(data) // 2])


def stranded(split: str, number: int) -> list[Row]:
    return [("notice", split, f"{split}.json", "box of a left-out image", 10 * number + c) for c in (0, 1)]


FILE_FAULTS: dict[str, tuple[Edit, list[Row]]] = {
    "truncated": (cut, [("error", "train", "101.png", "unreadable image", None)]),
    "no image": (
        lambda p: p.file(202).write_bytes(b"text"),
        [("error", "val", "202.png", "unreadable image", None)],
    ),
    "empty": (lambda p: p.file(202).write_bytes(b""), [("error", "val", "202.png", "unreadable image", None)]),
    "missing": (
        lambda p: p.file(202).unlink(),
        [("error", "val", "202.png", "missing image file", None), *stranded("val", 202)],
    ),
    "no file name": (
        lambda p: p.images[1].pop("file_name"),
        [("error", "train", "None", "image without file_name", None), *stranded("train", 101)],
    ),
    "other size": (
        lambda p: p.images[1].update(width=90),
        [("error", "train", "101.png", "size in the annotations is not the image's", None)],
    ),
    "sides swapped": (
        lambda p: cv2.imwrite(str(p.file(101)), noise(1, WIDTH, HEIGHT)),
        [("error", "train", "101.png", "size in the annotations is not the image's", None)],
    ),
    "scaled": (
        lambda p: cv2.imwrite(str(p.file(101)), noise(1, HEIGHT // 2, WIDTH // 2)),
        [("warning", "train", "101.png", "image of another scale than annotated", None)],
    ),
    "twice by bytes": (
        lambda p: p.file(103).write_bytes(p.file(101).read_bytes()),
        [("warning", "train", "103.png", "same image twice in a split", None)],
    ),
    "twice by name": (
        lambda p: p.images[3].update(file_name="101.png"),
        [("warning", "train", "101.png", "same image twice in a split", None)],
    ),
    "leak by bytes": (
        lambda p: p.file(201).write_bytes(p.file(103).read_bytes()),
        [("error", "val", "201.png", "same image in train and val", None)],
    ),
    "leak by pixels": (
        lambda p: cv2.imwrite(str(p.file(201)), noise(103), [cv2.IMWRITE_PNG_COMPRESSION, 0]),
        [("error", "val", "201.png", "same image in train and val", None)],
    ),
}


@pytest.mark.parametrize("name", FILE_FAULTS)
def test_faults_of_files_are_found(planted: Planted, name: str) -> None:
    spoil, expected = FILE_FAULTS[name]
    spoil(planted)
    assert planted.found() == expected


def test_without_decoding_headers_and_bytes_still_tell_size_rubbish_and_copies(planted: Planted) -> None:
    planted.file(100).write_bytes(b"text")
    planted.images[1]["width"] = 90
    planted.file(201).write_bytes(planted.file(103).read_bytes())
    assert {(row[2], row[3]) for row in planted.found(decode=False)} == {
        ("100.png", "unreadable image"),
        ("101.png", "size in the annotations is not the image's"),
        ("201.png", "same image in train and val"),
    }


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)])
def test_sizes_of_stored_and_of_displayed_pixels_are_both_right(
    planted: Planted, size: tuple[int, int], decode: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(101)).save(planted.file(101), exif=exif)
    planted.images[1].update(height=size[0], width=size[1])
    for annotation in planted.boxes[2:4]:
        annotation.update(bbox=[5, 6, 20, 30], segmentation=square(5, 6, 20, 30))
    assert planted.found(decode=decode) == []
    planted.images[1].update(height=50, width=50)
    assert [row[3] for row in planted.found(decode=decode)] == ["size in the annotations is not the image's"]


# -- boxes -------------------------------------------------------------------------------------------------------------


def repeat(planted: Planted, **changes: Any) -> None:
    planted.boxes.append({**copy.deepcopy(planted.boxes[2]), "id": 9, **changes})


BOX_FAULTS: dict[str, tuple[Edit, list[Row]]] = {
    "outside": (lambda p: p.boxes[2].update(bbox=[90, 6, 9, 9]), box(1010, "box outside the image")),
    "no area": (lambda p: p.boxes[2].update(bbox=[5, 6, 0, 9]), box(1010, "box without size")),
    "not numbers": (lambda p: p.boxes[2].update(bbox=[5, None]), box(1010, "box is not four finite numbers")),
    "clipped": (
        lambda p: p.boxes[2].update(bbox=[-9, 6, 34, 30], segmentation=square(0, 6, 25, 30)),
        box(1010, "box reaches beyond the image, clipped", "notice"),
    ),
    "unknown image": (
        lambda p: p.boxes[2].update(image_id=1),
        box(1010, "unknown image id", file="train.json"),
    ),
    "unknown category": (
        lambda p: p.boxes[2].update(category_id=1),
        box(1010, "unknown category id", "error"),
    ),
    "exact repetition": (repeat, box(9, "duplicate box")),
    "near repetition": (
        lambda p: repeat(p, bbox=[5, 6, 20, 30.5]),
        box(1010, "nearly the same box twice, same class") + box(9, "nearly the same box twice, same class"),
    ),
    "long": (
        lambda p: p.boxes[2].update(bbox=[0, 6, 80, 3], segmentation=square(0, 6, 80, 3)),
        box(1010, "box more than 20 times as long as wide", "notice"),
    ),
    "annotation id twice": (
        lambda p: p.boxes[2].update(id=1000),
        box(1000, "duplicate annotation id", file="train.json"),
    ),
    "annotation without id": (
        lambda p: p.boxes[2].pop("id"),
        [("warning", "train", "train.json", "annotation without a whole-number id", None)],
    ),
    "image id twice": (
        lambda p: p.images.append(dict(p.images[1])),
        [("error", "train", "101.png", "duplicate image id", None)],
    ),
    "no boxes": (
        lambda p: p.boxes.__delitem__(slice(2, 4)),
        [("notice", "train", "101.png", "image without boxes", None)],
    ),
}


@pytest.mark.parametrize("name", BOX_FAULTS)
def test_faults_of_boxes_are_found(planted: Planted, name: str) -> None:
    spoil, expected = BOX_FAULTS[name]
    spoil(planted)
    assert planted.found() == expected


def test_other_class_other_image_and_crowds_are_no_repetitions(planted: Planted) -> None:
    repeat(planted, category_id=3)
    repeat(planted, id=10, iscrowd=1)
    assert planted.found() == []


def test_lookalikes_agree_with_an_iou_counted_by_hand(planted: Planted) -> None:
    rng = np.random.default_rng(0)
    planted.documents["train"]["annotations"] = [
        {"id": m + 1, "image_id": 100 + m % 4, "category_id": 7, "bbox": xywh.round(1).tolist()}
        for m, xywh in enumerate(np.array([10, 10, 40, 30]) + rng.uniform(0, 2, (40, 4)))
    ]
    index = load_index(planted.description())
    expected = set()
    for image in range(len(index)):
        rows = range(len(index.labels))[index.boxes_of(image)]
        for a in rows:
            for b in rows:
                low = np.maximum(index.boxes[a, :2], index.boxes[b, :2])
                high = np.minimum(index.boxes[a, 2:], index.boxes[b, 2:])
                common = float((high - low).clip(0).prod())
                areas = (index.boxes[[a, b], 2:] - index.boxes[[a, b], :2]).prod(axis=1).sum()
                if a != b and common / (areas - common) > 0.95:
                    expected.add(int(index.ann_ids[a]))
    assert 0 < len(expected) < 40
    assert {finding.box for finding in find_lookalikes(index, "train")} == expected


def test_faults_of_boxes_agree_with_hotcocos_own_check_of_the_file(planted: Planted) -> None:
    planted.boxes[0].update(bbox=[5, 6, 0, 9])
    planted.boxes[1].update(image_id=1)
    planted.boxes[2].update(category_id=1)
    planted.boxes[3].update(bbox=[60, 6, 60, 30])
    planted.boxes[4].update(bbox=[200, 6, 9, 9])
    planted.boxes[5].update(id=1020)
    planted.description()
    report = hotcoco.COCO(str(planted.root / "train.json")).healthcheck()
    theirs = {entry["code"]: set(entry["affected_ids"]) for entry in report["errors"] + report["warnings"]}
    ours: dict[str, set[int | None]] = {}
    for row in planted.found():
        ours.setdefault(row[3], set()).add(row[4])
    assert ours["box without size"] == theirs["degenerate_bbox"]
    assert ours["unknown image id"] == theirs["orphan_image_id"]
    assert ours["unknown category id"] == theirs["orphan_category_id"]
    assert ours["duplicate annotation id"] == theirs["duplicate_ann_id"]
    beyond = ours["box outside the image"] | ours["box reaches beyond the image, clipped"]
    assert beyond == theirs["bbox_out_of_bounds"]


# -- classes and splits ------------------------------------------------------------------------------------------------


def only_cars(split: str) -> Edit:
    def edit(planted: Planted) -> None:
        document = planted.documents[split]
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] == 7]

    return edit


def rename(planted: Planted) -> None:
    planted.documents["val"]["categories"][0]["name"] = "tram"


def drop_class(planted: Planted) -> None:
    only_cars("val")(planted)
    planted.documents["val"]["categories"].pop()


SPLIT_FAULTS: dict[str, tuple[Edit, list[tuple[str, str, str, str]]]] = {
    "class without training boxes": (
        only_cars("train"),
        [("warning", "train", "class without training boxes", "bus")],
    ),
    "class without val boxes": (only_cars("val"), [("warning", "val", "class without val boxes", "bus")]),
    "other names": (
        rename,
        [("error", "val", "class names differ between splits", "class 1 is 'car' in train, 'tram' in val")],
    ),
    "fewer names": (
        drop_class,
        [("error", "val", "class names differ between splits", "class 0 is 'bus' in train, 'car' in val")],
    ),
}


@pytest.mark.parametrize("name", SPLIT_FAULTS)
def test_faults_of_classes_name_class_and_split(planted: Planted, name: str) -> None:
    spoil, expected = SPLIT_FAULTS[name]
    spoil(planted)
    found = find_faults(read_splits(planted.description()))
    assert [(f.severity, f.split, f.reason, f.detail) for f in found] == expected
    assert Path(found[0].file).name == f"{expected[0][1]}.json"


def test_a_split_without_boxes_is_one_error_and_not_one_for_each_class(planted: Planted) -> None:
    planted.documents["val"]["annotations"] = []
    groups = count_reasons(find_faults(read_splits(planted.description())))
    assert [(g.severity, g.reason, len(g.findings)) for g in groups] == [
        ("error", "split without boxes", 1),
        ("notice", "image without boxes", 4),
    ]


def test_splits_that_are_one_folder_throughout_are_one_warning(planted: Planted) -> None:
    planted.extra["val"] = {"images": "train", "annotations": "train.json"}
    assert planted.found() == [("warning", "val", "train.json", "train and val are the same images throughout", None)]


def test_a_test_split_is_checked_against_both_others(planted: Planted) -> None:
    document = copy.deepcopy(planted.documents["val"])
    (planted.root / "test").mkdir()
    for n, image in enumerate(document["images"]):
        cv2.imwrite(str(planted.root / "test" / image["file_name"]), noise(300 + n))
    planted.documents["test"] = document
    assert planted.found() == []
    (planted.root / "test" / "200.png").write_bytes(planted.file(100).read_bytes())
    (planted.root / "test" / "201.png").write_bytes(planted.file(203).read_bytes())
    assert planted.found() == [
        ("error", "test", "200.png", "same image in train and test", None),
        ("warning", "test", "201.png", "same image in val and test", None),
    ]


@pytest.mark.parametrize("bad", range(4))
def test_too_much_broken_data_is_an_error_exactly_where_training_refuses_them(planted: Planted, bad: int) -> None:
    for annotation in planted.boxes[:bad]:
        annotation["bbox"] = [5, 6, 0, 0]
    data = planted.description()
    reasons = {f.reason for f in find_faults(read_splits(data), max_bad=0.25)}
    try:
        load_index(data, max_bad=0.25)
        refused = False
    except InputError:
        refused = True
    assert refused == (bad == 3) == ("more broken boxes than max_bad" in reasons)


# -- text labels -------------------------------------------------------------------------------------------------------


@pytest.fixture
def text_labels(tmp_path: Path) -> Path:
    """Two splits of three images with text labels of two classes."""
    for number in range(6):
        split = "train" if number < 3 else "val"
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/{split}/im{number}.png"), noise(number))
        (tmp_path / f"labels/{split}/im{number}.txt").write_text("0 0.5 0.5 0.5 0.25\n1 0.3 0.3 0.2 0.2\n")
    return tmp_path


def found_in_text(root: Path) -> list[Row]:
    data = {"path": str(root), "train": "images/train", "val": "images/val", "names": ["car", "bus"]}
    return [short(f) for f in find_faults(read_splits(data), max_bad=1.0)]


@pytest.mark.parametrize(
    ("row", "reason", "severity"),
    [
        ("7 0.5 0.5 0.1 0.1", "class out of range", "error"),
        ("0 0.5 0.5 0.1 0", "box without size", "warning"),
        ("1 0.3 0.3 0.2 0.2", "duplicate box", "warning"),
        ("0 0.5 0.5 0.1", "label row has the wrong number of values", "warning"),
    ],
)
def test_rows_of_text_labels_are_named_by_file_and_line(
    text_labels: Path, row: str, reason: str, severity: str
) -> None:
    assert found_in_text(text_labels) == []
    with (text_labels / "labels/train/im1.txt").open("a") as file:
        file.write(row)
    assert found_in_text(text_labels) == [(severity, "train", "im1.txt:3", reason, 3)]


def test_images_of_text_labels_that_do_not_open_or_have_no_labels_are_named(text_labels: Path) -> None:
    (text_labels / "images/train/im0.png").write_bytes(b"text")
    (text_labels / "labels/train/im1.txt").unlink()
    (text_labels / "labels/train/im2.txt").write_text("")
    assert sorted(found_in_text(text_labels)[:1]) == [("error", "train", "im0.png", "unreadable image", None)]
    assert [row[2] for row in found_in_text(text_labels) if row[3] == "image without boxes"] == ["im1.png", "im2.png"]
