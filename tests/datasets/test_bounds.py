"""What data files name stays inside the data set, unless the user says otherwise; links are the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from iifdet.cli import main
from iifdet.datasets import load_index
from iifdet.errors import InputError

Description = dict[str, Any]


def paint(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 8, 3), 90, np.uint8))
    return path


def json_set(root: Path, name: str, format_: str = "coco") -> Description:
    """One image, called ``name`` in the JSON; LVIS calls it by an URL that ends so."""
    how = {"coco_url": f"http://images.org/{name}"} if format_ == "lvis" else {"file_name": name}
    lists: dict[str, Any] = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if format_ == "lvis" else {}
    document = {
        "images": [{"id": 1, "width": 8, "height": 8, **how, **lists}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a", "frequency": "r", "image_count": 1, "instance_count": 1}],
    }
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "train.json").write_text(json.dumps(document))
    return {"format": format_, "path": str(root), "train": {"images": "images", "annotations": "train.json"}}


def lvis_set(root: Path, name: str) -> Description:
    return json_set(root, name, "lvis")


def yolo_set(root: Path, name: str) -> Description:
    """One image, called ``name`` in a list."""
    (root / "lists").mkdir(parents=True, exist_ok=True)
    (root / "lists" / "train.txt").write_text(f"{name}\n")
    return {"path": str(root), "train": "lists/train.txt", "names": ["a"]}


def voc_set(root: Path, name: str) -> Description:
    """One annotation, called ``name`` in a list; it lies beside its image."""
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages").mkdir(exist_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "ImageSets/Main/train.txt").write_text(f"{name}\n")
    return {"format": "voc", "path": str(root), "train": ".", "names": ["a"]}


XML = """<annotation><filename>{name}</filename><size><width>8</width><height>8</height><depth>3</depth></size>
<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"""


@pytest.mark.parametrize(
    ("write", "name", "key"),
    [
        (json_set, "../../secret.png", "file_name"),
        (json_set, "{tmp}/secret.png", "file_name"),
        (json_set, "sub/../../../set-2/secret.png", "file_name"),  # a neighbour that is called alike
        (lvis_set, "../secret.png", None),  # the URL's last two parts: images/../secret.png lies in the set
        (lvis_set, "../../secret.png", None),
        (yolo_set, "../secret.png", "line"),
        (yolo_set, "./../../secret.png", "line"),
        (yolo_set, "{tmp}/secret.png", "line"),
        (voc_set, "../../secret", "line"),
        (voc_set, "{tmp}/secret", "line"),
    ],
)
def test_a_path_that_leads_out_of_the_data_set_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path, str], Description], name: str, key: str | None
) -> None:
    paint(tmp_path / "secret.png"), paint(tmp_path / "set-2" / "secret.png")
    (tmp_path / "secret.xml").write_text(XML.format(name="secret.png"))
    data = write(tmp_path / "set", name.format(tmp=tmp_path))
    if key is None:  # nothing outside can be named so: the image is missing, and no more
        with pytest.raises(InputError, match="missing image file"):
            load_index(data, cache_index=False)
        return
    with pytest.raises(
        InputError, match=rf"\S+(json|txt): {key}: expected files inside .*allow_outside=true"
    ) as caught:
        load_index(data, cache_index=False)
    assert "secret" in str(caught.value) and "\n" not in str(caught.value)


def test_lvis_file_names_are_bounded_too(tmp_path: Path) -> None:
    data = lvis_set(tmp_path / "set", "x.png")
    file = tmp_path / "set" / "train.json"
    file.write_text(file.read_text().replace('"coco_url": "http://images.org/x.png"', '"file_name": "../../x.png"'))
    with pytest.raises(InputError, match="file_name or coco_url: expected files inside"):
        load_index(data, cache_index=False)


@pytest.mark.parametrize("write", [json_set, yolo_set])
def test_allow_outside_reads_them_and_a_cached_index_does_not_open_the_way_for_others(
    tmp_path: Path, write: Callable[[Path, str], Description]
) -> None:
    secret = paint(tmp_path / "images" / "secret.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "secret.txt").write_text("0 .5 .5 .2 .2\n")
    data = write(tmp_path / "set", str(secret))
    assert load_index(data, allow_outside=True).files == [str(secret)]
    with pytest.raises(InputError, match="allow_outside"):
        load_index(data)


@pytest.mark.parametrize("write", [json_set, yolo_set])
@pytest.mark.parametrize("how", ["absolute", "dots", "link"])
def test_paths_inside_are_fine_however_they_are_written_and_links_are_not_followed(
    tmp_path: Path, write: Callable[[Path, str], Description], how: str
) -> None:
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    root.mkdir()
    if how == "link":
        paint(elsewhere / "x.png")
        (root / "images").symlink_to(elsewhere, target_is_directory=True)
    image = root / "images" / "x.png"
    if how != "link":
        paint(image)
    (root / "labels").mkdir()
    (root / "labels" / "x.txt").write_text("0 .5 .5 .2 .2\n")
    dots = "../images/x.png" if write is json_set else "images/../images/x.png"
    data = write(root, dots if how == "dots" else str(image))
    assert load_index(data, cache_index=False).files == [str(image)]


def test_a_list_outside_the_data_set_may_name_what_lies_beside_it(tmp_path: Path) -> None:
    """The list's place is the user's own word; what stands in it is bounded by its folder."""
    image = paint(tmp_path / "other" / "images" / "x.png")
    (tmp_path / "other" / "labels").mkdir()
    (tmp_path / "other" / "labels" / "x.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "other" / "train.txt").write_text("./images/x.png\n")
    data = {"path": str(tmp_path), "train": str(tmp_path / "other" / "train.txt"), "names": ["a"]}
    assert load_index({**data, "path": str(tmp_path / "other" / "labels")}, cache_index=False).files == [str(image)]


def test_the_file_name_in_a_voc_xml_is_looked_up_among_the_images_only(tmp_path: Path) -> None:
    paint(tmp_path / "secret.png")
    data = voc_set(tmp_path / "set", "x")
    (tmp_path / "set" / "Annotations" / "x.xml").write_text(XML.format(name="../../secret.png"))
    with pytest.raises(InputError, match="missing image file"):
        load_index(data, cache_index=False)


def test_the_command_line_ends_with_2_and_knows_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = paint(tmp_path / "secret.png")
    description = json_set(tmp_path / "set", str(secret))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**description, "val": description["train"]}))
    words = [f"data={tmp_path / 'data.yaml'}", f"project={tmp_path / 'runs'}"]
    for verb in ("check", "stats"):
        assert main([verb, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2 and all("file_name: expected files inside" in line for line in said)
    assert main(["stats", *words, "plots=false", "allow_outside=true"]) == 0


def test_a_description_cannot_allow_itself_to_lead_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown key 'allow_outside'"):
        load_index({**json_set(tmp_path, "x.png"), "allow_outside": True})
