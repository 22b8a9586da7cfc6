"""The COCO reader against pycocotools, on real data and on broken ones."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_helpers import SIZES, MakeCoco, document
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from iifdet.datasets import DatasetIndex, load_index
from iifdet.errors import InputError

ORACLE = Path(os.environ.get("IIFDET_DATA_DIR", "")).parent / "oracle" / "instances_val2014_100.json"


def coco_of(file: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def assert_same(index: DatasetIndex, oracle: COCO, tolerance: float = 1e-3) -> None:
    """Every image, box, class, area and crowd flag, looked up by id."""
    assert index.image_ids.tolist() == [image["id"] for image in oracle.dataset["images"]]
    assert index.category_ids.tolist() == sorted(oracle.cats)
    assert [oracle.cats[i]["name"] for i in index.category_ids.tolist()] == index.names
    assert len(index.labels) == len(oracle.anns)
    sizes = [[i["height"], i["width"]] for i in oracle.dataset["images"]]
    assert index.sizes.tolist() == sizes
    for m, ann_id in enumerate(index.ann_ids.tolist()):
        ann = oracle.anns[ann_id]
        assert index.image_ids[index.box_image[m]] == ann["image_id"]
        assert index.category_ids[index.labels[m]] == ann["category_id"]
        assert index.crowd[m] == bool(ann["iscrowd"])
        assert index.areas[m] == pytest.approx(ann["area"], rel=1e-6)
        x, y, w, h = ann["bbox"]
        height, width = index.sizes[index.box_image[m]]
        expected = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
        assert np.abs(index.boxes[m] - expected).max() <= tolerance


@pytest.mark.parametrize("name", ["fod_lt", "car_damage"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_data_agree_with_pycocotools(data_dir: Path, name: str, split: str) -> None:
    oracle = coco_of(data_dir / name / f"{split}.json")
    index = load_index(name, split)
    assert_same(index, oracle)
    assert not [problem for problem in index.problems if problem.kind != "notice"]
    counts = index.counts()
    images = Counter(c for i in oracle.imgs for c in {a["category_id"] for a in oracle.imgToAnns[i]})
    assert counts.images.tolist() == [images[c] for c in sorted(oracle.cats)]
    assert counts.instances.tolist() == [len(oracle.getAnnIds(catIds=[c])) for c in sorted(oracle.cats)]


@pytest.fixture
def val2014(tmp_path: Path, data_dir: Path) -> tuple[DatasetIndex, COCO]:
    """The 100 images of COCO's own example, with empty files in place of the photos."""
    if not ORACLE.is_file():
        pytest.skip(f"no {ORACLE.name} beside IIFDET_DATA_DIR")
    oracle = coco_of(ORACLE)
    for image in oracle.dataset["images"]:
        (tmp_path / image["file_name"]).touch()
    split = {"images": str(tmp_path), "annotations": str(ORACLE)}
    return load_index({"format": "coco", "val": split}, "val"), oracle


def test_cocos_own_example_agrees_with_pycocotools(val2014: tuple[DatasetIndex, COCO]) -> None:
    index, oracle = val2014
    assert_same(index, oracle)
    assert index.crowd.any()
    assert index.segments is not None
    for m in range(0, len(index.labels), 7):
        height, width = index.sizes[index.box_image[m]].tolist()
        expected = oracle.annToMask(oracle.anns[int(index.ann_ids[m])])
        assert np.array_equal(index.segments.mask(m, height, width), expected)


def test_to_coco_gives_back_what_was_read(val2014: tuple[DatasetIndex, COCO]) -> None:
    index, oracle = val2014
    again = index.to_coco()
    assert {i["id"]: i["file_name"] for i in again["images"]} == {i: m["file_name"] for i, m in oracle.imgs.items()}
    for ann in again["annotations"]:
        expected = oracle.anns[ann["id"]]
        assert ann["segmentation"] == expected["segmentation"]
        assert ann["bbox"] == pytest.approx(expected["bbox"], abs=1e-3)


def test_image_files_are_looked_up_and_missing_ones_dropped(make_coco: MakeCoco, tmp_path: Path) -> None:
    data = make_coco(document())
    (tmp_path / "images" / "0.png").unlink()
    index = load_index(data, max_bad=0.5)
    assert index.image_ids.tolist() == [43, 46]
    assert [(p.kind, p.reason, p.box) for p in index.problems] == [
        ("image", "missing image file", None),
        ("notice", "box of a left-out image", 5),
        ("notice", "box of a left-out image", 9),
    ]
    with pytest.raises(InputError, match=r"1 of 3.*missing image file.*0\.png"):
        load_index(data)


def test_labels_follow_ascending_ids_or_the_given_names(make_coco: MakeCoco) -> None:
    data = make_coco(document())
    index = load_index(data)
    assert (index.names, index.labels.tolist()) == (["car", "tram", "bus"], [0, 2, 2])
    assert index.box_image.tolist() == [0, 0, 1]
    assert index.crowd.tolist() == [False, True, False]
    assert index.areas.tolist() == [600, 64, 321.5]
    chosen = load_index({**data, "names": ["bus", "car"]})
    assert (chosen.category_ids.tolist(), chosen.labels.tolist()) == ([90, 3], [1, 0, 0])
    fewer = load_index({**data, "names": ["car"]})
    assert (fewer.labels.tolist(), fewer.problems) == ([0], [])
    with pytest.raises(InputError, match="did you mean 'tram'"):
        load_index({**data, "names": ["car", "tran"]})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 1}, "unknown image id"),
        ({"category_id": 1}, "unknown category id"),
        ({"category_id": "3"}, "unknown category id"),
        ({"bbox": [1, 1, 0, 4]}, "box without size"),
        ({"bbox": [9, 9, -4, 4]}, "box without size"),
        ({"bbox": [200, 1, 5, 5]}, "box outside the image"),
        ({"bbox": [1, 1, float("nan"), 5]}, "box is not four finite numbers"),
        ({"bbox": [1, 1, 5]}, "box is not four finite numbers"),
        ({"bbox": "1 1 5 5"}, "box is not four finite numbers"),
        ({"bbox": None}, "box is not four finite numbers"),
        ({"bbox": [10**400, 1, 5, 5]}, "box is not four finite numbers"),
        ({"bbox": [1e308, 1, 1e308, 5]}, "box is not four finite numbers"),
    ],
)
def test_broken_boxes_are_dropped_with_the_reason(make_coco: MakeCoco, change: dict[str, Any], reason: str) -> None:
    content = document()
    content["annotations"][1] |= change
    index = load_index(make_coco(content), max_bad=0.5)
    assert [(p.kind, p.reason, p.box) for p in index.problems] == [("box", reason, 5)]
    assert index.ann_ids.tolist() == [9, 7]


def test_boxes_partly_outside_are_clipped_and_only_more_than_rounding_is_a_notice(make_coco: MakeCoco) -> None:
    content = document()
    content["annotations"][1]["bbox"] = [-0.5, 10, 30, 20]
    content["annotations"][0]["bbox"] = [50, 6, 20, 30]
    index = load_index(make_coco(content), max_bad=0.0)
    assert index.boxes[0].tolist() == [0, 10, 29.5, 30]
    assert index.boxes[2].tolist() == [50, 6, 60, 36]
    assert [(p.kind, p.box) for p in index.problems] == [("notice", 7)]


def test_sizes_missing_from_the_json_come_from_the_files(make_coco: MakeCoco) -> None:
    content = document()
    del content["images"][0]["width"]
    content["images"][1]["height"] = None
    assert load_index(make_coco(content)).sizes.tolist() == [[60, 80], [80, 60], [50, 50]]


def test_repeated_ids_are_put_right(make_coco: MakeCoco) -> None:
    content = document()
    content["images"].append(dict(content["images"][0]))
    content["annotations"][0]["id"] = 5
    index = load_index(make_coco(content), max_bad=0.5)
    assert [(p.reason, p.box) for p in index.problems] == [("duplicate image id", None), ("duplicate annotation id", 5)]
    assert index.ann_ids.tolist() == [5, 9, 10], "the first of an id keeps it, so that findings name boxes of the file"


def test_annotation_id_0_is_numbered_anew_for_the_evaluators(make_coco: MakeCoco) -> None:
    content = document()
    content["annotations"][0]["id"] = 0
    index = load_index(make_coco(content))
    assert sorted(index.ann_ids.tolist()) == [0, 5, 9]
    assert [a["id"] for a in index.to_coco()["annotations"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected complete JSON"),
        ('{"images": [', "expected complete JSON"),
        ("[1, 2]", "got a list"),
        ('{"images": []}', "expected a list 'annotations'"),
        ('{"images": [], "annotations": {}, "categories": []}', "got a dict"),
        ('{"images": [], "annotations": [], "categories": []}', "categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "found none"),
        ("\xff\xfe", "expected complete JSON"),
    ],
)
def test_what_is_not_coco_is_an_input_error(make_coco: MakeCoco, tmp_path: Path, text: str, message: str) -> None:
    data = make_coco(document())
    (tmp_path / "train.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        load_index(data)


def test_missing_files_and_folders_are_named(make_coco: MakeCoco, tmp_path: Path) -> None:
    data = make_coco(document())
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(InputError, match=r"folder .*images"):
        load_index(data)
    (tmp_path / "train.json").unlink()
    with pytest.raises(InputError, match=r"file .*train\.json"):
        load_index(data)


def test_a_split_without_any_of_its_images_names_the_first(make_coco: MakeCoco, tmp_path: Path) -> None:
    data = make_coco(document())
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"expected images, found none; .*images.*: .*; .*path"):
        load_index(data, max_bad=1.0)


def test_run_length_masks_plain_and_compressed_are_those_of_pycocotools(make_coco: MakeCoco) -> None:
    content = document()
    rng = np.random.default_rng(0)
    masks = [(rng.random(SIZES[n]) < 0.4).astype(np.uint8) for n in (1, 0, 0)]
    masks[1][:, 5:30] = 1
    packed = [coco_mask.encode(np.asfortranarray(m))["counts"].decode() for m in masks]
    for annotation, mask, text in zip(content["annotations"], masks, packed, strict=True):
        annotation["segmentation"] = {"size": list(mask.shape), "counts": text}
    flat = masks[1].ravel(order="F")
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [len(flat)]])).tolist()
    content["annotations"][1]["segmentation"]["counts"] = runs if flat[0] == 0 else [0, *runs]
    index = load_index(make_coco(content))
    assert index.problems == [] and index.segments is not None
    for m, ann_id in enumerate(index.ann_ids.tolist()):
        expected = masks[{7: 0, 5: 1, 9: 2}[ann_id]]
        assert np.array_equal(index.segments.mask(m, *expected.shape), expected)
    again = {a["id"]: a["segmentation"]["counts"] for a in index.to_coco()["annotations"]}
    assert (again[7], again[9]) == (packed[0], packed[2])


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [60, 80], "counts": [4799]},
        {"size": [60, 80], "counts": [4801, -1]},
        {"size": [60, 80], "counts": "PPPP"},
        {"size": [60, 80], "counts": "o"},
        {"size": [60, 80], "counts": "é"},
        {"size": [60, 80], "counts": "0" * 30},
        {"size": [60, 80], "counts": "ooooooooooooo1"},
        {"size": [60, 80], "counts": ""},
        {"size": [60, 80]},
        [[1, 1, 1e9, 1, 1, 1e9]],
        [[1, 1, float("nan"), 1, 1, 5]],
        "none",
    ],
)
def test_unusable_masks_are_noticed_and_the_box_stays(make_coco: MakeCoco, segmentation: Any) -> None:
    content = document()
    content["annotations"][1]["segmentation"] = segmentation
    index = load_index(make_coco(content))
    assert [(p.kind, p.reason) for p in index.problems] == [("notice", "unusable mask, box kept")]
    assert len(index.labels) == 3
    assert index.segments is None or not index.segments.has(0)
