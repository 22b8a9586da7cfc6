"""Data descriptions: paths resolve, and every mistake is named with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iifdet.datasets import find_description
from iifdet.datasets.description import expand
from iifdet.errors import InputError

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
