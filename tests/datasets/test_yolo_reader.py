"""The reader of text labels: what is right is read, what is wrong is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_helpers import MakeYolo
from pycocotools import mask as coco_mask

from iifdet.datasets import load_index
from iifdet.errors import InputError

GOOD = "1 0.5 0.5 0.5 0.25\n"


def test_boxes_polygons_and_images_without_labels(make_yolo: MakeYolo) -> None:
    index = load_index(make_yolo({"im0": GOOD + "\n2 0.1 0.2 0.5 0.2 0.5 0.4\n"}))
    assert index.boxes.tolist() == [
        pytest.approx([20, 22.5, 60, 37.5]),
        pytest.approx([8, 12, 40, 24], abs=1e-4),
    ]
    assert index.labels.tolist() == [1, 2]
    assert len(index) == 3
    assert index.sizes.tolist() == [[60, 80], [80, 60], [50, 50]]
    assert index.segments is not None
    assert index.segments.coco(0) is None
    assert index.segments.coco(1) == [pytest.approx([8, 12, 40, 12, 40, 24])]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("3 0.5 0.5 0.1 0.1", "class out of range"),
        ("-1 0.5 0.5 0.1 0.1", "class out of range"),
        ("0.5 0.5 0.5 0.1 0.1", "class is not a whole number"),
        ("0 0.5 0.5 0.1", "label row has the wrong number of values"),
        ("0 0.5 0.5 0.1 0.1 0.9", "label row has the wrong number of values"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "label row has the wrong number of values"),
        ("0 0.5 0.5 1.1 0.1", "coordinate outside 0…1"),
        ("0 -0.2 0.5 0.1 0.1", "coordinate outside 0…1"),
        ("0 nan 0.5 0.1 0.1", "label row has a value that is not finite"),
        ("0 a 0.5 0.1 0.1", "label row is not all numbers"),
        ("0 0.5 0.5 0 0.1", "box without size"),
        (GOOD.strip(), "duplicate box"),
    ],
)
def test_broken_rows_are_dropped_with_file_and_line(make_yolo: MakeYolo, row: str, reason: str) -> None:
    index = load_index(make_yolo({"im0": GOOD + row + "\n0 0.5 0.5 0.1 0.1\n"}), max_bad=0.5)
    assert [(Path(p.file).name, p.kind, p.reason, p.box) for p in index.problems] == [("im0.txt:2", "box", reason, 2)]
    assert index.labels.tolist() == [1, 0]


def test_unreadable_images_are_dropped_with_the_file(make_yolo: MakeYolo, tmp_path: Path) -> None:
    data = make_yolo({"im0": GOOD, "im1": GOOD})
    (tmp_path / "images/train/im0.png").write_bytes(b"no image")
    index = load_index(data, max_bad=0.5)
    assert [(Path(p.file).name, p.reason) for p in index.problems] == [("im0.png", "unreadable image: not an image")]
    assert index.box_image.tolist() == [0]


def test_a_text_file_may_list_the_images(make_yolo: MakeYolo, tmp_path: Path) -> None:
    data = make_yolo({"im1": GOOD})
    (tmp_path / "list.txt").write_text("./images/train/im1.png\nimages/train/im2.png\n\n")
    index = load_index({**data, "train": "list.txt"})
    assert [Path(f).name for f in index.files] == ["im1.png", "im2.png"]
    assert index.box_image.tolist() == [0]


def test_nothing_to_read_is_an_input_error(make_yolo: MakeYolo, tmp_path: Path) -> None:
    data = make_yolo({})
    with pytest.raises(InputError, match="labels: expected text files"):
        load_index(data)
    with pytest.raises(InputError, match="expected 'names'"):
        load_index({**data, "names": None})
    with pytest.raises(InputError, match="which does not exist"):
        load_index({**data, "train": "images/trian"})
    with pytest.raises(InputError, match="expected image files"):
        load_index({**data, "train": "labels"})


def test_numeric_file_names_become_ids(data_dir: Path) -> None:
    index = load_index("coco128", "train")
    assert index.image_ids[:3].tolist() == [9, 25, 30]
    assert (len(index), len(index.labels)) == (128, 929)


def test_sizes_are_those_of_the_displayed_image(make_yolo: MakeYolo, tmp_path: Path) -> None:
    from PIL import Image

    data = make_yolo({"im0": GOOD})
    (tmp_path / "images/train/im0.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(tmp_path / "images/train/im0.jpg", exif=exif)
    assert load_index(data).sizes[0].tolist() == [80, 60]


def test_to_coco_of_text_labels_is_valid_ground_truth(make_yolo: MakeYolo) -> None:
    index = load_index(make_yolo({"im0": GOOD, "im2": GOOD}))
    dataset = json.loads(json.dumps(index.to_coco()))
    assert dataset["annotations"][0]["bbox"] == [20, 22.5, 40, 15]
    assert [i["file_name"] for i in dataset["images"]] == [f"images/train/im{n}.png" for n in range(3)]
    assert cv2.imread(index.files[0]) is not None


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ("images/*/im?.png", ["im0", "im1", "im2"]),
        ("images/**", ["im0", "im1", "im2"]),
        ("**/*2.png", ["im2"]),
        (["images/*/im0.*", "images/train/im2.png", "images/t*/im0.png"], ["im0", "im2"]),
        ("images/tr*", ["im0", "im1", "im2"]),
        ("lists/*.txt", ["im1", "im2"]),
        (["lists/a.txt", "lists/b.txt", "images/train"], ["im0", "im1", "im2"]),
    ],
)
def test_images_come_from_folders_globs_and_lists_each_once(
    make_yolo: MakeYolo, tmp_path: Path, train: str | list[str], names: list[str]
) -> None:
    data = make_yolo({f"im{n}": GOOD for n in range(3)})
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.txt").write_text("\ufeffimages/train/im1.png\r\n", encoding="utf-8")
    (tmp_path / "lists/b.txt").write_text("./../images/train/im2.png\nimages/train/im1.png\n")
    index = load_index({**data, "train": train})
    assert [Path(f).stem for f in index.files] == names
    assert index.labels.tolist() == [1] * len(names)


def test_a_folder_named_with_brackets_is_no_glob(make_yolo: MakeYolo, tmp_path: Path) -> None:
    data = make_yolo({"im0": GOOD})
    (tmp_path / "images/train").rename(tmp_path / "images/day[1]")
    (tmp_path / "labels/train").rename(tmp_path / "labels/day[1]")
    assert len(load_index({**data, "train": "images/day[1]"}).labels) == 1


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ("images/*/*.tif", "expected files that match"),
        ("images/*/\0*", "expected files that match"),
        ("labels/train/im0.txt/*", "expected files that match"),
        ("notes.md", "expected a folder, an image or a .txt list"),
        ("empty.txt", "expected image files"),
    ],
)
def test_places_without_images_are_input_errors(make_yolo: MakeYolo, tmp_path: Path, train: str, says: str) -> None:
    data = make_yolo({"im0": GOOD})
    (tmp_path / "notes.md").touch()
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match=says):
        load_index({**data, "train": train})


def test_a_line_of_a_list_that_is_no_image_is_counted(make_yolo: MakeYolo, tmp_path: Path) -> None:
    data = make_yolo({"im0": GOOD})
    (tmp_path / "list.txt").write_text("images/train/im0.png\nimages/train/gone.png\nlabels/train/im0.txt\n")
    index = load_index({**data, "train": "list.txt"}, max_bad=0.9)
    reasons = {(Path(p.file).name, p.reason) for p in index.problems}
    assert reasons == {("gone.png", "missing image file"), ("im0.txt", "unreadable image: not an image")}
    assert len(index) == 1


def test_polygon_rows_are_masks_as_pycocotools_fills_them_and_boxes_have_none(make_yolo: MakeYolo) -> None:
    shape = [0.11, 0.2, 0.53, 0.21, 0.52, 0.87, 0.3, 0.41]
    row = "2 " + " ".join(map(str, shape))
    index = load_index(make_yolo({"im0": f"{GOOD}{row}\n{GOOD.replace('1', '0', 1)}"}))
    assert index.labels.tolist() == [1, 2, 0] and index.problems == []
    assert index.boxes[1].tolist() == pytest.approx([8.8, 12, 42.4, 52.2])
    assert index.segments is not None
    assert [index.segments.has(m) for m in range(3)] == [False, True, False]
    polygon = [v * (80, 60)[k % 2] for k, v in enumerate(shape)]
    oracle = coco_mask.decode(coco_mask.frPyObjects([polygon], 60, 80))[:, :, 0]
    assert oracle.sum() > 500
    assert np.array_equal(index.segments.mask(1, 60, 80), oracle)
