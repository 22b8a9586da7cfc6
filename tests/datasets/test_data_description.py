"""Data descriptions: paths resolve, and every mistake is named with what to do."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.datasets import READERS, find_description, load_index
from iifdet.datasets import description as description_module
from iifdet.datasets.description import expand, task_of
from iifdet.errors import InputError
from iifdet.resources import resource_names, resource_path

COCO = {"train": {"images": "train", "annotations": "train.json"}}


def test_a_relative_path_is_relative_to_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("path: set\ntrain: images/train\nnames: {1: b, 0: a}\n")
    description = find_description(tmp_path / "d.yaml")
    assert description.format == "yolo"
    assert description.names == ["a", "b"]
    assert description.split("train").images == (tmp_path / "set/images/train",)


def test_environment_variables_defaults_and_home_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIFDET_TEST_A", "/a")
    monkeypatch.delenv("IIFDET_TEST_B", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert expand("${IIFDET_TEST_A}/x", "d") == "/a/x"
    assert expand("${IIFDET_TEST_B:-~/cache}/x", "d") == "/home/someone/cache/x"


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IIFDET_TEST_B", raising=False)
    with pytest.raises(InputError, match="IIFDET_TEST_B"):
        find_description({"path": "${IIFDET_TEST_B}/x", **COCO})


def test_names_that_yaml_reads_as_other_types_stay_text(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("train: images\nnames: [cat, 7]\n")
    assert find_description(str(tmp_path / "d.yaml")).names == ["cat", "7"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**COCO, "nmaes": ["a"]}, "did you mean 'names'"),
        ({**COCO, "format": "coko"}, "did you mean 'coco'"),
        ({"train": {"image": "a"}}, "did you mean 'images'"),
        ({"train": {"annotations": "a.json"}}, "no 'images'"),
        ({"format": "coco", "train": "images"}, "got no annotations"),
        ({"path": "x"}, "expected a train, val or test key"),
        ({"train": "images", "names": ["a"], "nc": 2}, "nc: expected 1"),
        ({"train": "images", "names": ["a", "a"]}, "distinct"),
        ({"train": "images", "names": {0: "a", 2: "b"}}, "keys 0…1"),
        ({"train": 5}, "expected a path"),
        ({"train": []}, "empty list"),
        ({**COCO, "generate": 3}, "generate"),
    ],
)
def test_mistakes_are_input_errors(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_description(content)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1\n", "just words", "\x00"])
def test_a_file_that_is_no_description_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(InputError, match=r"d\.yaml"):
        find_description(tmp_path / "d.yaml")


def test_keys_of_ultralytics_files_that_do_not_matter_are_ignored() -> None:
    content = {"train": "images", "names": ["a"], "nc": 1, "download": "https://example.org/x.zip", "test": None}
    assert list(find_description(content).splits) == ["train"]


def test_a_file_of_roboflow_is_read_as_it_comes(tmp_path: Path) -> None:
    (tmp_path / "set/train/images").mkdir(parents=True)
    text = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['a']\nroboflow:\n  version: 2\n"
    (tmp_path / "set/data.yaml").write_text(text)
    description = find_description(tmp_path / "set/data.yaml")
    assert description.split("train").images == (tmp_path / "set/train/images",)
    assert description.split("val").images == (tmp_path / "valid/images",), "where it is looked for, if nowhere"
    (tmp_path / "train/images").mkdir(parents=True)
    assert find_description(tmp_path / "set/data.yaml").split("train").images == (tmp_path / "train/images",)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'demo'"):
        find_description("dmo")


def test_a_missing_split_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="expected one of train"):
        find_description(COCO).split("val")


def test_packaged_descriptions_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIFDET_DATA_DIR", "/somewhere")
    assert find_description("coco128").names == find_description("coco128.yaml").names
    assert find_description("fod_lt").root == Path("/somewhere/fod_lt")


# -- where data come from ----------------------------------------------------------------------------------------------

LAYOUT = {"source": "https://example.org/set", "layout": "set/train/*.jpg\nset/train.json\n"}
NEXT_STEP = r"; get it from https://example\.org/set and lay it out as set/train/\*\.jpg, set/train\.json$"


@pytest.mark.parametrize(
    "content",
    [
        COCO,
        {"train": "images", "names": ["a"]},
        {"train": "images/*.jpg", "names": ["a"]},
        {"format": "voc", "train": "VOC2007"},
    ],
)
def test_a_missing_file_s_error_says_where_to_get_it(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=NEXT_STEP):
        load_index({**content, **LAYOUT, "path": str(tmp_path)})
    with pytest.raises(InputError, match=r"check 'train' and 'path'$"):
        load_index({**content, "path": str(tmp_path)})


def test_so_does_the_error_about_an_unset_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IIFDET_TEST_B", raising=False)
    with pytest.raises(InputError, match="IIFDET_TEST_B.*" + NEXT_STEP):
        find_description({"path": "${IIFDET_TEST_B}/x", **COCO, **LAYOUT})


@pytest.mark.parametrize("name", [n for n in resource_names("data") if n != "demo" and task_of(n) == "detect"])
def test_packaged_descriptions_are_sound_and_missing_ones_say_so(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IIFDET_DATA_DIR", str(tmp_path))
    description = find_description(name)
    assert {"train", "val"} <= description.splits.keys()
    assert str(description.root).startswith(str(tmp_path))
    if description.format in READERS:
        for split in description.splits:
            with pytest.raises(InputError, match="which does not exist; ") as caught:
                load_index(name, split)
            assert ("get it from" in str(caught.value)) == (name in PUBLIC)


PUBLIC = ("coco", "lvis", "voc", "objects365", "template")


def test_the_template_explains_every_key() -> None:
    file = resource_path("data", "template")
    assert file is not None
    text = file.read_text(encoding="utf-8")
    for key in description_module.KEYS:
        assert re.search(rf"^(# )?{key}: ", text, re.MULTILINE), key
    for format_ in description_module.FORMATS:
        assert format_ in text


def test_voc_has_its_20_classes_and_two_years() -> None:
    file = resource_path("data", "voc")
    assert file is not None
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    description = find_description({**content, "path": "/x"})
    assert description.names is not None and len(description.names) == 20
    assert description.names == sorted(description.names)
    parts = description.split("train").parts
    assert [(str(part.path), part.list) for part in parts] == [
        ("/x/VOC2007", "trainval"),
        ("/x/VOC2012", "trainval"),
    ]


# -- Pascal VOC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"path": "a", "lst": "train"}, "did you mean 'list'"),
        ({"path": 3}, "expected a path"),
        ({"list": ["a"]}, r"train\.list: expected a path"),
        ({"list": True}, r"train\.list: expected a path"),
        ([], "empty list"),
        ([[]], "expected a path"),
    ],
)
def test_mistakes_in_voc_parts_are_input_errors(train: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_description({"format": "voc", "train": train})


def test_a_voc_list_named_by_a_number_stays_text() -> None:
    description = find_description({"format": "voc", "path": "/x", "train": {"list": 2007}})
    assert description.split("train").parts[0].list == "2007"


# -- names -------------------------------------------------------------------------------------------------------------


def test_quoted_numbers_serve_as_keys_of_names() -> None:
    assert find_description({"train": "images", "names": {"1": "b", "0": "a"}}).names == ["a", "b"]


def test_a_number_of_classes_alone_gives_text_labels_names() -> None:
    assert find_description({"train": "images", "nc": 2}).names == ["class_0", "class_1"]
    assert find_description({**COCO, "nc": 2}).names is None
    for wrong in (0, -1, "2", True, 1e9):
        with pytest.raises(InputError, match="nc: expected the number of classes"):
            find_description({"train": "images", "nc": wrong})


# -- anything at all ---------------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=6))
KEY = st.one_of(st.sampled_from([*description_module.KEYS, "images", "annotations", "list"]), SCALARS)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEY, inner, max_size=4)), max_leaves=8
)
FORMAT = st.sampled_from([*description_module.FORMATS, None])


@settings(max_examples=300, deadline=None)
@given(content=st.dictionaries(KEY, ANYTHING, max_size=6), train=ANYTHING, format_=FORMAT)
def test_any_mapping_is_a_description_or_an_input_error(content: dict[Any, Any], train: Any, format_: Any) -> None:
    with contextlib.suppress(InputError):
        description = find_description({**content, "train": train, "format": format_})
        assert description.splits and description.format in description_module.FORMATS


def test_annotations_in_place_of_a_description_are_said_to_be_that(tiny_root: Path) -> None:
    with pytest.raises(InputError, match=r"expected a description, got annotations; .* annotations: train.json}"):
        find_description(tiny_root / "train.json")
