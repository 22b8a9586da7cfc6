"""Each fault planted by itself in a sound data set is found with its file and reason; the sound one gives nothing."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import hotcoco
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from iifdet.datasets import load_index
from iifdet.datasets.contents import find_repetitions, find_repetitions_within, read_contents
from iifdet.datasets.findings import Finding, count_reasons
from iifdet.datasets.mask_faults import run_lengths
from iifdet.errors import InputError
from iifdet.evaluation.lookalikes import find_lookalikes
from iifdet.inspection import find_faults, read_splits

HEIGHT, WIDTH = 60, 80
Row = tuple[str, str, str, str, int | None]
#: A planted fault: what to do to the data set, and the findings it must give.
Edit = Callable[["Planted"], Any]


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def square(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


class Planted:
    """A sound data set of two splits on disk, four images each, that a test may spoil.

    Image n of a split shows two boxes with masks, one of class ``car`` and one of ``bus``. Ids: train's images from
    100, val's from 200; annotation ids 10 * image + 0 or 1.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents = {split: self._split(split, start) for split, start in (("train", 100), ("val", 200))}
        self.extra: dict[str, Any] = {}

    def _split(self, split: str, start: int) -> dict[str, Any]:
        (self.root / split).mkdir()
        images, annotations = [], []
        for number in range(start, start + 4):
            cv2.imwrite(str(self.root / split / f"{number}.png"), noise(number))
            images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
            for c, (x, y, w, h) in enumerate([(5, 6, 20, 30), (40, 10, 30, 24)]):
                box = {"id": 10 * number + c, "image_id": number, "category_id": 7 - 4 * c, "bbox": [x, y, w, h]}
                annotations.append({**box, "area": w * h, "iscrowd": 0, "segmentation": square(x, y, w, h)})
        categories = [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]
        return {"images": images, "annotations": annotations, "categories": categories}

    @property
    def boxes(self) -> list[dict[str, Any]]:
        return self.documents["train"]["annotations"]

    @property
    def images(self) -> list[dict[str, Any]]:
        return self.documents["train"]["images"]

    def file(self, number: int) -> Path:
        return self.root / ("train" if number < 200 else "val") / f"{number}.png"

    def description(self) -> dict[str, Any]:
        splits = {}
        for split, document in self.documents.items():
            (self.root / f"{split}.json").write_text(json.dumps(document))
            splits[split] = {"images": split, "annotations": f"{split}.json"}
        return {"format": "coco", "path": str(self.root), **splits, **self.extra}

    def found(self, **keys: Any) -> list[Row]:
        """Severity, split, file name, reason and box of each finding."""
        return [short(f) for f in find_faults(read_splits(self.description()), max_bad=1.0, **keys)]


def short(finding: Finding) -> Row:
    return finding.severity, finding.split, Path(finding.file).name, finding.reason, finding.box


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


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


def box(number: int, reason: str, severity: str = "warning", file: str = "101.png") -> list[Row]:
    return [(severity, "train", file, reason, number)]


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


# -- masks -------------------------------------------------------------------------------------------------------------

FULL = np.asfortranarray(np.pad(np.ones((30, 20), np.uint8), ((6, 24), (5, 55))))
COMPRESSED = {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(FULL)["counts"].decode()}
BROKEN = "mask whose run lengths do not add up to its image"
MASK_FAULTS: dict[str, tuple[Any, str, str]] = {
    "no mask": ([], "box without a mask among boxes with masks", "notice"),
    "two points": ([[5, 6, 25, 36]], "unusable mask, box kept", "warning"),
    "not a mask": ("5 6 25 36", "unusable mask, box kept", "warning"),
    "counts that do not add up": (
        {"size": [HEIGHT, WIDTH], "counts": [4, 5]},
        "unusable mask, box kept",
        "warning",
    ),
    "other size": (
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        "mask of another size than its image, box kept",
        "warning",
    ),
    "all zero": ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "empty mask", "warning"),
    "all zero, compressed": (
        {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(FULL * 0))["counts"].decode()},
        "empty mask",
        "warning",
    ),
    "rubbish": ({"size": [HEIGHT, WIDTH], "counts": "zzzzzzzz"}, BROKEN, "error"),
    "not ASCII": ({"size": [HEIGHT, WIDTH], "counts": "é"}, BROKEN, "error"),
    "cut short": ({**COMPRESSED, "counts": COMPRESSED["counts"][:-1]}, BROKEN, "error"),
    "on a line": ([[5, 6, 15, 6, 25, 6]], "empty mask", "warning"),
    "far away": (square(1e9, 1e9, 20, 30), "unusable mask, box kept", "warning"),
    "outside": (square(100, 100, 20, 30), "mask outside the image", "warning"),
    "beside": (square(45, 6, 20, 30), "mask does not fit its box", "warning"),
    "half": (square(5, 6, 10, 30), "mask does not fit its box", "warning"),
    "half, run lengths": (
        {"size": [HEIGHT, WIDTH], "counts": [5 * HEIGHT, 10 * HEIGHT, 65 * HEIGHT]},
        "mask does not fit its box",
        "warning",
    ),
}


@pytest.mark.parametrize("name", MASK_FAULTS)
def test_faults_of_masks_are_found(planted: Planted, name: str) -> None:
    segmentation, reason, severity = MASK_FAULTS[name]
    planted.boxes[2]["segmentation"] = segmentation
    assert planted.found() == box(1010, reason, severity)


def test_a_mask_that_reaches_beyond_the_image_with_its_box_is_one_notice_each(planted: Planted) -> None:
    planted.boxes[2].update(bbox=[-5, 6, 30, 30], segmentation=square(-5, 6, 30, 30))
    assert planted.found() == [
        *box(1010, "box reaches beyond the image, clipped", "notice"),
        *box(1010, "mask reaches beyond the image", "notice"),
    ]


@pytest.mark.parametrize(
    "segmentation",
    [
        COMPRESSED,
        [[5, 6, 25, 36, 25, 6, 5, 36]],  # a bow tie: no shoelace area, but pixels
        square(5, 6, 8, 30) + square(20, 6, 5, 30),
        square(6.5, 7, 18, 28),
        square(4.5, 5.5, 21, 31),
    ],
)
def test_masks_that_fit_within_the_allowance_are_no_fault(planted: Planted, segmentation: Any) -> None:
    planted.boxes[2]["segmentation"] = segmentation
    assert planted.found() == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]))
def test_run_lengths_are_unpacked_as_counted_on_the_mask(seed: int, height: int, width: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(np.diff(flat, prepend=0))
    expected = np.diff(np.concatenate([[0], turns, [flat.size]])).tolist()
    assert run_lengths(coco_mask.encode(np.asfortranarray(mask))["counts"]).tolist() == expected


def test_data_without_any_masks_are_not_asked_for_them(planted: Planted) -> None:
    for document in planted.documents.values():
        for annotation in document["annotations"]:
            del annotation["segmentation"]
    assert planted.found() == []


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


# -- the same picture --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=6),
    second=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=6),
)
def test_repetitions_are_those_of_the_pictures_however_they_were_saved(
    tmp_path: Path, first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    """Each file is (which picture, how it was saved: PNG, PNG uncompressed, BMP)."""

    def save(name: str, picture: int, how: int) -> str:
        file = str(tmp_path / f"{name}{'.bmp' if how == 2 else '.png'}")
        cv2.imwrite(file, noise(picture, 8, 9), [cv2.IMWRITE_PNG_COMPRESSION, 0] if how == 1 else [])
        return file

    a = [save(f"a{n}", *each) for n, each in enumerate(first)]
    b = [save(f"b{n}", *each) for n, each in enumerate(second)]
    contents = read_contents([*a, *b])
    picture = dict(zip([*a, *b], (p for p, _ in [*first, *second]), strict=True))
    how = dict(zip([*a, *b], (h for _, h in [*first, *second]), strict=True))

    across = find_repetitions(a, b, contents)
    assert [r.file for r in across] == [f for f in b if picture[f] in {p for p, _ in first}]
    within = find_repetitions_within(a, contents)
    assert [r.file for r in within] == [f for n, f in enumerate(a) if picture[f] in {p for p, _ in first[:n]}]
    for r in [*across, *within]:
        assert picture[r.file] == picture[r.first]
        assert (r.how == "equal bytes") >= (how[r.file] == how[r.first])
    known = {(picture[f], how[f]) for f in a}
    assert all((r.how == "equal bytes") == ((picture[r.file], how[r.file]) in known) for r in across)


def test_a_picture_compressed_anew_with_loss_is_another_one(planted: Planted, tmp_path: Path) -> None:
    for quality in (80, 90):
        cv2.imwrite(str(tmp_path / f"{quality}.jpg"), noise(0), [cv2.IMWRITE_JPEG_QUALITY, quality])
    files = [str(tmp_path / f"{quality}.jpg") for quality in (80, 90)]
    assert find_repetitions_within(files, read_contents(files)) == []


# -- anything at all ---------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.floats(), st.integers(-9, 99)), max_size=8),
    st.just({"size": [HEIGHT, WIDTH], "counts": "0"}),
    st.builds(lambda counts: {"size": [HEIGHT, WIDTH], "counts": counts}, st.text(max_size=6)),
    st.builds(lambda ring: [ring], st.lists(st.floats(-1e9, 1e9), min_size=6, max_size=8)),
)
FIELDS = [
    *(("images", key) for key in ("id", "file_name", "height", "width")),
    *(("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.sampled_from(FIELDS), st.integers(0, 3), VALUES), min_size=1, max_size=4))
def test_whatever_the_annotations_hold_the_check_ends_in_findings_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[Any]
) -> None:
    planted = Planted(tmp_path_factory.mktemp("any"))
    for (table, key), row, drawn in edits:
        planted.documents["train"][table][row][key] = copy.deepcopy(drawn)
    with contextlib.suppress(InputError):
        for finding in find_faults(read_splits(planted.description())):
            json.dumps([finding.file, finding.reason, finding.detail, finding.box], allow_nan=False)
