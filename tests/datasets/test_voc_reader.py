"""Pascal VOC folders: lists, years, boxes counted from 1, difficult objects, and XML that means harm."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_helpers import assert_sound

from iifdet.datasets import DetectionDataset, EvalTransform, load_index
from iifdet.datasets.voc_xml import VocError, read_voc_xml
from iifdet.errors import InputError

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
MakeVoc = Callable[..., Path]


def thing(name: str, *box: float, difficult: int | str = 0) -> str:
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{BOX.format(*box)}</object>"


def xml(*objects: str, size: tuple[int, int] | None = (60, 80), filename: str = "x.jpg") -> str:
    sides = "" if size is None else f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return f"<annotation><filename>{filename}</filename>{sides}{''.join(objects)}</annotation>"


@pytest.fixture
def make_voc(tmp_path: Path) -> MakeVoc:
    """make_voc(year, {stem: xml}, {list: stems}): a VOC folder with 80 x 60 images; returns it."""

    def make(year: str, annotations: dict[str, str], lists: dict[str, str] | None = None) -> Path:
        root = tmp_path / year
        for folder in ("JPEGImages", "Annotations"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for stem, text in annotations.items():
            (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
            cv2.imwrite(str(root / "JPEGImages" / f"{stem}.jpg"), np.full((60, 80, 3), 90, np.uint8))
        for name, stems in (lists or {}).items():
            (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets/Main" / f"{name}.txt").write_text(stems)
        return root

    return make


def voc(root: Path, train: Any = ".", **more: Any) -> dict[str, Any]:
    return {"format": "voc", "path": str(root), "train": train, **more}


CAR, BUS = thing("car", 5, 6, 25, 36), thing("bus", 1, 1, 80, 60)


def test_pixels_count_from_1_and_the_last_one_is_inside(make_voc: MakeVoc) -> None:
    index = load_index(voc(make_voc("V", {"1": xml(CAR, BUS, thing("car", 3, 3, 3, 3))})))
    assert index.boxes.tolist() == [[4, 5, 25, 36], [0, 0, 80, 60], [2, 2, 3, 3]]
    assert index.areas.tolist() == [21 * 31, 4800, 1]
    assert index.problems == []


def test_corners_of_tools_that_count_from_0_are_no_fault(make_voc: MakeVoc) -> None:
    index = load_index(voc(make_voc("V", {"1": xml(thing("car", 0, 0.5, 20, 20))})), max_bad=0)
    assert (index.boxes.tolist(), index.problems) == ([[0, 0, 20, 20]], [])


def test_classes_are_those_of_the_training_files_for_every_split(make_voc: MakeVoc) -> None:
    files = {"1": xml(CAR), "2": xml(BUS, thing(" ant ", 1, 1, 9, 9)), "3": xml(CAR, thing("zebra", 1, 1, 9, 9))}
    root = make_voc("V", files, {"train": "1\n2\n", "val": "3\n"})
    data = voc(root, val=".")
    assert load_index(data).names == ["ant", "bus", "car"]
    val = load_index(data, "val", max_bad=0.5)
    assert (val.names, val.labels.tolist()) == (["ant", "bus", "car"], [2])
    assert [(p.kind, p.reason, p.box) for p in val.problems] == [("box", "unknown class 'zebra'", 2)]
    with pytest.raises(InputError, match=r"1 of 2.*unknown class 'zebra'.*3\.xml"):
        load_index(data, "val")
    assert load_index({**data, "names": ["zebra", "car"]}, "val").labels.tolist() == [1, 0]


def test_years_join_and_each_has_its_list(make_voc: MakeVoc) -> None:
    make_voc("V7", {"000001": xml(CAR), "000002": xml(BUS)}, {"trainval": "000001\n", "test": "000002\n"})
    root = make_voc("V12", {"2008_1": xml(BUS), "2008_2": xml(CAR)}, {"trainval": "2008_1\n\n2008_2\n"}).parent
    data = voc(root, [{"path": "V7", "list": "trainval"}, {"path": "V12", "list": "trainval"}])
    data["val"] = {"path": "V7", "list": "test"}
    train, val = load_index(data), load_index(data, "val")
    assert [Path(f).name for f in train.files] == ["000001.jpg", "2008_1.jpg", "2008_2.jpg"]
    assert (train.labels.tolist(), train.image_ids.tolist()) == ([1, 0, 1], [0, 1, 2])
    assert (val.names, val.labels.tolist(), val.image_ids.tolist()) == (["bus", "car"], [0], [2])
    twice = load_index(voc(root, [{"path": "V7", "list": "trainval"}, {"path": "V7", "list": "trainval"}]))
    assert (len(twice), twice.problems) == (1, [])


def test_the_list_named_like_the_split_is_taken_and_without_lists_every_file(make_voc: MakeVoc) -> None:
    root = make_voc("V", {"1": xml(CAR), "2": xml(BUS)})
    assert len(load_index(voc(root))) == 2
    make_voc("V", {}, {"train": "2", "other": "1", "car_train": "1  1\n2 -1\n"})
    assert load_index(voc(root)).image_ids.tolist() == [2]
    assert load_index(voc(root, {"list": "other"})).image_ids.tolist() == [1]
    assert load_index(voc(root, {"list": "ImageSets/Main/other.txt"})).image_ids.tolist() == [1]
    assert load_index(voc(root, {"list": "car_train"})).image_ids.tolist() == [1, 2]
    with pytest.raises(InputError, match="did you mean 'train'"):
        load_index(voc(root, {"list": "trian"}))
    with pytest.raises(InputError, match=r"list: expected the file .*val\.txt"):
        load_index(voc(root, val="."), "val")


def test_images_and_xml_files_may_lie_side_by_side_or_in_named_folders(make_voc: MakeVoc) -> None:
    root = make_voc("V", {"a b": xml(CAR), "c.d": xml(BUS)})
    index = load_index(voc(root.parent, {"images": "V/JPEGImages", "annotations": "V/Annotations"}))
    assert [Path(f).name for f in index.files] == ["a b.jpg", "c.d.jpg"]
    for file in (root / "Annotations").iterdir():
        shutil.move(file, root / "JPEGImages")
    flat = load_index(voc(root, "JPEGImages"))
    assert flat.boxes.tolist() == index.boxes.tolist()


def test_an_image_may_be_named_by_the_xml(make_voc: MakeVoc) -> None:
    root = make_voc("V", {"1": xml(CAR, filename="C:\\photos\\night.jpg")})
    (root / "JPEGImages/1.jpg").rename(root / "JPEGImages/night.jpg")
    assert [Path(f).name for f in load_index(voc(root)).files] == ["night.jpg"]


def test_difficult_objects_count_but_are_no_targets(make_voc: MakeVoc) -> None:
    index = load_index(voc(make_voc("V", {"1": xml(CAR, thing("bus", 1, 1, 9, 9, difficult=1))})))
    assert index.crowd.tolist() == [False, True]
    assert index.counts().instances.tolist() == [1, 1]
    assert [a["iscrowd"] for a in index.to_coco()["annotations"]] == [0, 1]
    sample = DetectionDataset(index, EvalTransform(64))[0, 0]
    assert sample.target["labels"].tolist() == [1]


def test_sizes_come_from_the_image_where_the_xml_has_none(make_voc: MakeVoc) -> None:
    files = {"1": xml(CAR, size=None), "2": xml(CAR, size=(0, 0)), "3": xml(CAR, size=(120, 160))}
    index = load_index(voc(make_voc("V", files)))
    assert index.sizes.tolist() == [[60, 80], [60, 80], [120, 160]]
    assert [(Path(p.file).name, p.kind) for p in index.problems] == [("3.xml", "notice")]


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        (thing("car", 9, 9, 5, 20), "box without size"),
        (thing("car", 90, 9, 95, 20), "box outside the image"),
        (thing("car", "x", 9, 95, 20), "box is not four finite numbers"),  # type: ignore[arg-type]
        ("<object><name>car</name></object>", "box is not four finite numbers"),
        ("<object/>", "object without a class name"),
    ],
)
def test_broken_objects_are_dropped_with_the_reason(make_voc: MakeVoc, objects: str, reason: str) -> None:
    index = load_index(voc(make_voc("V", {"1": xml(CAR, objects, BUS)})), max_bad=0.5)
    assert [(Path(p.file).name, p.kind, p.reason, p.box) for p in index.problems] == [("1.xml", "box", reason, 2)]
    assert index.labels.tolist() == [1, 0]
    assert_sound(index)


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + xml(thing("&b;", 1, 1, 9, 9))
EXTERNAL = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]>' + xml(thing("&e;", 1, 1, 9, 9))
PARAMETER = '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;]>' + xml(CAR)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "broken XML: no element found"),
        (xml(CAR)[:-20], "broken XML: unclosed token"),
        (xml(CAR).replace("</name>", ""), "broken XML: mismatched tag"),
        (xml(CAR) + "<more/>", "broken XML: junk after document element"),
        (xml(thing("&none;", 1, 1, 9, 9)), "broken XML: undefined entity"),
        ('<?xml version="1.0" encoding="none"?>' + xml(CAR), "broken XML: unknown encoding: none"),
        ("<html></html>", "XML is no VOC annotation"),
        (BOMB, "XML declares entities, which are refused"),
        (EXTERNAL, "XML declares entities, which are refused"),
        (PARAMETER, "XML declares entities, which are refused"),
    ],
)
def test_broken_and_harmful_xml_drops_the_image(make_voc: MakeVoc, text: str, reason: str) -> None:
    root = make_voc("V", {"1": xml(CAR), "2": text})
    index = load_index(voc(root), max_bad=0.5)
    assert [(Path(p.file).name, p.kind, p.reason) for p in index.problems] == [("2.xml", "image", reason)]
    assert len(index) == 1
    with pytest.raises(VocError, match=reason):
        read_voc_xml(root / "Annotations/2.xml")


def test_missing_and_unreadable_images_and_files_are_counted(make_voc: MakeVoc) -> None:
    root = make_voc("V", {str(n): xml(CAR) for n in range(5)}, {"train": "0\n1\n2\n3\n4\n7\n"})
    (root / "JPEGImages/1.jpg").unlink()
    (root / "JPEGImages/2.jpg").write_bytes(b"no image")
    (root / "Annotations/3.xml").unlink()
    index = load_index(voc(root), max_bad=0.9)
    assert [Path(f).name for f in index.files] == ["0.jpg", "4.jpg"]
    gone = "unreadable annotation file: No such file or directory"
    found = {(Path(p.file).name, p.reason) for p in index.problems}
    unreadable = ("2.jpg", "unreadable image: not an image")
    assert found == {("1.xml", "missing image file"), unreadable, ("3.xml", gone), ("7.xml", gone)}


def test_nothing_to_read_is_an_input_error(make_voc: MakeVoc, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*absent"):
        load_index(voc(tmp_path, "absent"))
    root = make_voc("V", {})
    with pytest.raises(InputError, match="expected XML files in"):
        load_index(voc(root))
    with pytest.raises(InputError, match="expected objects with a name"):
        load_index(voc(make_voc("V", {"1": xml()})))
