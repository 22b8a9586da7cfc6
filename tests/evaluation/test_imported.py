"""Other programs' results files: what they call images and categories, which masks they have, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from iifdet.errors import InputError
from iifdet.evaluation.imported import read_detections
from iifdet.evaluation.naming import Ids

FILES = ["/data/day/0007.jpg", "/data/night/0007.jpg", "/data/day/a.b.png"]


def ids(**more: Any) -> Ids:
    """Three images of 6 x 8 pixels, classes 0, 1, 2 with the categories 5, 2, 9."""
    given = {"images": [31, 30, 7], "files": FILES, "sizes": [[6, 8]] * 3, "categories": [5, 2, 9], **more}
    given = {"names": ["red", "green", "blue"], **given}
    arrays = {key: np.array(given[key]) for key in ("images", "sizes", "categories")}
    return Ids(**{**given, **arrays})


def entry(image: float | str = 7, category: int = 2, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "score": 0.5, "bbox": [1, 2, 3, 4], **more}


def read(tmp_path: Path, content: Any, known: Ids | None = None, **options: Any) -> Any:
    file = tmp_path / "results.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_detections(file, known or ids(), **options)


def refusal(tmp_path: Path, content: Any, known: Ids | None = None, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, known, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        *((31, 31), ("31", 31), ("day/0007", 31), ("night/0007.jpg", 30), ("a.b", 7), ("a.b.png", 7), (FILES[1], 30)),
        *(("/mnt/elsewhere/night/0007.png", 30), ("./day/0007.jpg", 31), ("C:\\photos\\day\\0007.JPG", 31)),
    ],
)
def test_an_image_is_called_by_id_or_by_any_name_that_means_one_file(tmp_path: Path, name: Any, image: int) -> None:
    assert read(tmp_path, [entry(name)]).rows[0, 0] == image


def test_letters_with_marks_may_be_written_as_one_sign_or_two(tmp_path: Path) -> None:
    known = ids(files=["/data/caf\u00e9.jpg", "/data/b.jpg", "/data/c.jpg"])
    assert read(tmp_path, [entry("cafe\u0301.jpg")], known).rows[0, 0] == 31


def test_a_name_of_two_files_and_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, [entry("0007.jpg"), entry("0007.jpg"), entry(31)])
    assert "as 31 or day/0007.jpg, got '0007.jpg'; so with 1 of its 2 images" in said
    assert "got 'a.b.png' and 'x/a.b.png', both of which seem" in refusal(
        tmp_path, [entry("a.b.png"), entry("x/a.b.png")]
    )


NUMBERED = {"files": ["/d/1.jpg", "/d/2.jpg", "/d/3.jpg"]}


def test_numbers_are_ids_or_files_whichever_they_can_be(tmp_path: Path) -> None:
    shifted = ids(images=[0, 1, 2], **NUMBERED)
    assert read(tmp_path, [entry(0), entry(2)], shifted).rows[:, 0].tolist() == [0, 2]
    assert read(tmp_path, [entry(1), entry(3)], shifted).rows[:, 0].tolist() == [0, 2]
    assert read(tmp_path, [entry("1"), entry("2")], ids(images=[1, 2, 3], **NUMBERED)).rows[:, 0].tolist() == [1, 2]


def test_numbers_that_can_be_both_are_not_guessed(tmp_path: Path) -> None:
    shifted = ids(images=[0, 1, 2], **NUMBERED)
    said = refusal(tmp_path, [entry(1), entry(2)], shifted)
    assert "got 1, which is the id of d/2.jpg and the name of d/1.jpg; say which with image_id=id" in said
    assert read(tmp_path, [entry(1), entry(2)], shifted, image_id="id").rows[:, 0].tolist() == [1, 2]
    assert read(tmp_path, [entry(1), entry(2)], shifted, image_id="file").rows[:, 0].tolist() == [0, 1]


def test_beside_names_of_files_numbers_are_names_too(tmp_path: Path) -> None:
    mixed = ids(images=[0, 1, 2], files=["/d/1.jpg", "/d/2.jpg", "/d/a.jpg"])
    assert read(tmp_path, [entry(1), entry(2), entry("a")], mixed).rows[:, 0].tolist() == [0, 1, 2]


def test_a_row_or_a_list_of_images_that_names_the_file_wins(tmp_path: Path) -> None:
    assert read(tmp_path, [entry(31, file_name="night/0007.jpg")]).rows[0, 0] == 30
    images = [{"id": 31, "file_name": "a.b.png", "height": 6, "width": 8}, {"id": 7, "file_name": "day/0007.jpg"}]
    document = {"images": images, "annotations": [entry(31), entry(7)], "categories": []}
    assert read(tmp_path, document).rows[:, 0].tolist() == [7, 31]
    document["annotations"] = [entry(8)]
    assert "expected images of its own list, got 8 in entry 0" in refusal(tmp_path, document)


def test_categories_go_by_the_names_that_the_file_has_for_them(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "blue"}, {"id": 1, "name": "red"}, {"id": 2, "name": "cat"}]
    document = {"images": [], "annotations": [entry(category=1), entry(category=0)], "categories": categories}
    assert read(tmp_path, document).rows[:, 6].tolist() == [5, 9]
    assert read(tmp_path, document, first_category=0).rows[:, 6].tolist() == [2, 5]
    document["annotations"] = [entry()]
    assert "expected categories called as the data's classes, got 'cat'" in refusal(tmp_path, document)
    document["annotations"] = [entry(category=3)]
    assert "got no name for 3" in refusal(tmp_path, document)


def test_rows_keep_every_digit_and_the_order_of_the_file(tmp_path: Path) -> None:
    odd = [0.1, 2 / 3, 1e-7, 3.3]
    found = read(tmp_path, [entry(30, 9, bbox=odd, score=1 / 3), entry(31, 5, id=4, area=2.0)])
    assert found.rows.tolist() == [[30, *odd, 1 / 3, 9], [31, 1, 2, 3, 4, 0.5, 5]] and found.masks is None


def test_annotations_with_scores_in_a_coco_file_are_detections_too(tmp_path: Path) -> None:
    assert len(read(tmp_path, {"images": [], "annotations": [entry()], "categories": []}).rows) == 1


def test_no_detection_at_all_is_a_result(tmp_path: Path) -> None:
    found = read(tmp_path, [])
    assert found.rows.shape == (0, 7) and found.masks is None and found.notices == ("the file holds no detection",)


def test_a_file_may_count_classes_through(tmp_path: Path) -> None:
    entries = [entry(category=c) for c in (1, 2, 3)]
    assert read(tmp_path, entries, first_category=1).rows[:, 6].tolist() == [5, 2, 9]
    assert "expected categories 1, 2, 3, got 9" in refusal(tmp_path, [entry(category=9)], first_category=1)


def test_categories_of_data_without_their_own_must_not_be_guessed(tmp_path: Path) -> None:
    counted = ids(categories=[0, 1, 2], own=False)
    assert read(tmp_path, [entry(category=c) for c in (0, 2)], counted).rows[:, 6].tolist() == [0, 2]
    assert "give first_category=1" in refusal(tmp_path, [entry(category=c) for c in (1, 2, 3)], counted)
    said = refusal(tmp_path, [entry(category=c) for c in (1, 2)], counted)
    assert "expected detections of class 0, got 2 detections from category 1 on" in said
    assert read(tmp_path, [entry(category=1)], counted, first_category=0).rows[0, 6] == 1
    assert read(tmp_path, [entry(category=1)], counted, first_category=1).rows[0, 6] == 0


def _runs(mask: np.ndarray[Any, Any]) -> list[int]:
    """Uncompressed COCO run lengths, by counting."""
    line, runs, value = mask.T.ravel().tolist(), [0], 0
    for pixel in line:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@settings(deadline=None)
@given(pixels=st.lists(st.booleans(), min_size=48, max_size=48))
def test_run_lengths_mean_the_same_pixels_compressed_or_not(
    tmp_path_factory: pytest.TempPathFactory, pixels: list[bool]
) -> None:
    mask = np.array(pixels, np.uint8).reshape(6, 8)
    packed = coco_mask.encode(np.asfortranarray(mask))
    text = {"size": [6, 8], "counts": packed["counts"].decode()}
    entries = [entry(segmentation=text), entry(segmentation={"size": [6, 8], "counts": _runs(mask)})]
    found = read(tmp_path_factory.mktemp("masks"), entries)
    assert [coco_mask.decode(m).tolist() for m in found.masks] == [mask.tolist()] * 2


def test_a_mask_alone_brings_its_box(tmp_path: Path) -> None:
    square = {"image_id": 7, "category_id": 2, "score": 0.5, "segmentation": [[2, 1, 5, 1, 5, 4, 2, 4]]}
    found = read(tmp_path, [square])
    assert found.rows[0, 1:5].tolist() == [2, 1, 3, 3] and coco_mask.area(found.masks[0]) == 9


def test_a_detection_without_a_mask_among_others_has_an_empty_one_and_a_notice_says_so(
    tmp_path: Path,
) -> None:
    square = entry(segmentation=[[2, 1, 5, 1, 5, 4, 2, 4]])
    bare = {k: v for k, v in entry(segmentation=[]).items() if k != "bbox"}
    found = read(tmp_path, [square, entry(), entry(segmentation=None), bare])
    assert [int(coco_mask.area(m)) for m in found.masks] == [9, 0, 0, 0]
    assert found.notices == ("3 of 4 detections have no mask: empty ones are scored",)
    assert not read(tmp_path, [square]).notices


def test_scores_that_are_no_probabilities_are_said(tmp_path: Path) -> None:
    assert "scores lie from -3 to 0.5" in read(tmp_path, [entry(), entry(score=-3)]).notices[0]


def test_what_other_tools_make_of_json_is_read(tmp_path: Path) -> None:
    text = json.dumps([entry(7.0, category_id=2.0)]).encode()
    for content in (gzip.compress(text), b"\xef\xbb\xbf" + text):
        (tmp_path / "results.json").write_bytes(content)
        assert read_detections(tmp_path / "results.json", ids()).rows[0, [0, 6]].tolist() == [7, 2]
    (tmp_path / "results.json").write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(InputError, match="expected a JSON file"):
        read_detections(tmp_path / "results.json", ids())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{", "expected a list of {image_id"),
        ("not JSON", "expected a list of {image_id"),
        ([1], "expected a list of {image_id"),
        ({"predictions": []}, "missing required field `annotations`"),
        ([{k: v for k, v in entry().items() if k != "score"}], "missing required field `score`"),
        ([entry(bbox=[1, 2, 3])], "expected a list of {image_id"),
        ([entry(bbox=[1, 2, -3, 4])], "expected bbox [x, y, width, height], got [1.0, 2.0, -3.0, 4.0] in entry 0"),
        ([entry(), {k: v for k, v in entry().items() if k != "bbox"}], "in entry 1, got neither"),
        ([entry(segmentation={"size": [8, 6], "counts": [48]})], "expected a mask of [6, 8], as its image, got [8, 6]"),
        ([entry(segmentation={"size": [6, 8], "counts": [49]})], "expected polygons or run lengths"),
        ([entry(segmentation={"size": [6, 8], "counts": "zzzz"})], "expected polygons or run lengths"),
        ([entry(segmentation=[[1, 2]])], "expected polygons or run lengths"),
        ([entry(category=3)], "expected categories 5, 2, 9, got 3"),
        ([entry(category=1 << 70)], "expected a whole number for category_id"),
        ([entry(1 << 70)], "expected a whole number for image_id"),
        ([entry(bbox=[1, 2, 3, 1e300])], "expected bbox [x, y, width, height]"),
        ([entry(score=1e300)], "expected scores, got 1e+300 in entry 0"),
        ('[{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1e999}]', "Number out of range"),
        ('[{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, NaN], "score": 0.5}]', "malformed"),
        ([entry(True)], "expected a list of {image_id"),
        ([entry(7.5)], "expected a whole number for image_id, got 7.5 in entry 0"),
    ],
)
def test_what_is_no_results_file_is_said_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refusal(tmp_path, content)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predictions: expected a JSON file, got .*No such file"):
        read_detections(tmp_path / "none.json", ids())
    with pytest.raises(InputError, match="predictions: expected a JSON file, got none"):
        read_detections("", ids())
    with pytest.raises(InputError, match=r"predictions: expected a JSON file, got .*Is a directory"):
        read_detections(tmp_path, ids())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MASKS = st.fixed_dictionaries({"size": VALUES | st.just([6, 8]), "counts": VALUES | st.just([48])})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    key=st.sampled_from(["image_id", "category_id", "score", "bbox", "segmentation", "file_name"]),
    value=VALUES | MASKS,
    whole=st.booleans(),
)
def test_whatever_stands_in_an_entry_is_read_or_refused_in_one_line(
    tmp_path: Path, key: str, value: Any, whole: bool
) -> None:
    entries = [entry(segmentation=[[2, 1, 5, 1, 5, 4]]), {**entry(), key: value}]
    document = {"annotations": entries, "images": [{"id": 7, "file_name": "a.b"}], "categories": []}
    try:
        found = read(tmp_path, document if whole else entries)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(found.rows).all() and found.rows.shape == (2, 7)
        assert found.masks is None or all(coco_mask.area(mask) >= 0 for mask in found.masks)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_bytes_a_file_has_are_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(json.dumps([entry(), entry("a.b", segmentation={"size": [6, 8], "counts": [48]})]).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "results.json"
    file.write_bytes(bytes(content))
    try:
        read_detections(file, ids())
    except InputError as error:
        assert "\n" not in str(error)
