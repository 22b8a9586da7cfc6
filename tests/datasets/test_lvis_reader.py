"""LVIS: images by their URL, federated labels and frequency groups, kept through selection and round trips."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from dataset_helpers import SIZES, Document, MakeCoco, assert_sound, document

from iifdet.datasets import DatasetIndex, load_index
from iifdet.datasets.select import choose_classes, merge_classes
from iifdet.errors import InputError

synthetic = pytest.importorskip("tools.bench.synthetic", reason="tools/ is not part of this copy of the source")
COUNTS = Path(os.environ.get("IIFDET_DATA_DIR", "")).parent / "oracle"
FILES = ["train2017/0.png", "val2017/1.png", "val2017/2.png"]


def lvis_document() -> Document:
    """The small COCO document in LVIS's form: no file_name, no iscrowd."""
    content = document()
    negative, rest = [[17], [], [3, 90]], [[], [90], []]
    for n, image in enumerate(content["images"]):
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/{FILES[n]}"
        image |= {"neg_category_ids": negative[n], "not_exhaustive_category_ids": rest[n]}
    for row in content["annotations"]:
        del row["iscrowd"]
    for category, group, count in zip(content["categories"], "frc", (700, 3, 50), strict=True):
        category |= {"frequency": group, "image_count": count, "instance_count": 2 * count}
    return content


@pytest.fixture
def lvis(make_coco: MakeCoco, tmp_path: Path) -> Document:
    data = make_coco(lvis_document())
    for n, name in enumerate(FILES):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / f"{n}.png").rename(tmp_path / "images" / name)
    return {**data, "format": "lvis"}


def test_images_are_found_by_the_last_two_parts_of_their_url(lvis: Document, tmp_path: Path) -> None:
    index = load_index(lvis)
    assert index.files == [str(tmp_path / "images" / name) for name in FILES]
    assert index.problems == []
    assert index.names == ["car", "tram", "bus"]  # ascending ids
    assert index.sizes.tolist() == [list(size) for size in SIZES]
    assert not index.crowd.any()


def test_images_directly_in_the_folder_are_found_too(make_coco: MakeCoco, tmp_path: Path) -> None:
    data = {**make_coco(lvis_document()), "format": "lvis"}
    assert load_index(data).files == [str(tmp_path / "images" / f"{n}.png") for n in range(3)]
    (tmp_path / "images" / "1.png").unlink()
    problems = [p for p in load_index(data, max_bad=0.5).problems if p.kind == "image"]
    assert [(p.file, p.reason) for p in problems] == [(str(tmp_path / "images" / FILES[1]), "missing image file")]


def test_file_name_wins_and_an_image_without_either_is_dropped(lvis: Document, tmp_path: Path) -> None:
    content = lvis_document()
    content["images"][0]["file_name"] = "val2017/1.png"
    del content["images"][1]["coco_url"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    index = load_index(lvis, max_bad=0.5)
    assert [os.path.basename(file) for file in index.files] == ["1.png", "2.png"]
    assert [p.reason for p in index.problems] == ["image without file_name", "box of a left-out image"]


def test_coco_files_do_not_take_urls_for_names(lvis: Document) -> None:
    with pytest.raises(InputError, match="3 image without file_name"):
        load_index({**lvis, "format": "coco"}, max_bad=0.5)


def test_federated_labels_and_groups(lvis: Document) -> None:
    federated = load_index(lvis).federated
    assert federated is not None
    assert [federated.negative.of(n).tolist() for n in range(3)] == [[1], [], [0, 2]]
    assert [federated.not_exhaustive.of(n).tolist() for n in range(3)] == [[], [2], []]
    assert federated.groups() == {"rare": [0], "common": [1], "frequent": [2]}
    assert federated.image_count.tolist() == [3, 50, 700]
    assert federated.instance_count.tolist() == [6, 100, 1400]


def test_federated_labels_follow_a_selection_and_the_names(lvis: Document) -> None:
    index = load_index(lvis)
    chosen = index.select([2, 0])
    assert chosen.federated is not None
    assert [chosen.federated.negative.of(n).tolist() for n in range(2)] == [[0, 2], [1]]
    fewer = load_index({**lvis, "names": ["bus", "tram"]}).federated
    assert fewer is not None
    assert [fewer.negative.of(n).tolist() for n in range(3)] == [[1], [], [0]]
    assert fewer.frequency.tolist() == [2, 1]


def test_what_is_written_reads_the_same(lvis: Document, tmp_path: Path) -> None:
    index = load_index(lvis)
    (tmp_path / "again.json").write_text(json.dumps(index.to_coco()))
    again = load_index({**lvis, "train": {"images": "images", "annotations": "again.json"}})
    assert again.digest() == index.digest()
    assert again.to_coco() == index.to_coco()


@pytest.mark.parametrize("table", ["images", "categories"])
def test_the_digest_tells_federated_labels_apart(lvis: Document, tmp_path: Path, table: str) -> None:
    before, content = load_index(lvis).digest(), lvis_document()
    content[table][2] |= {"neg_category_ids": [3], "frequency": "f"}
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert load_index(lvis).digest() != before


@pytest.mark.parametrize(
    "odd", [None, "x", 5, [1.5, "a", None, 90], [[3]], {"a": 1}, [2**80], [True], [float("nan")], [4711]]
)
def test_odd_federated_fields_cost_only_themselves(lvis: Document, tmp_path: Path, odd: object) -> None:
    content = lvis_document()
    content["images"][0] |= {"neg_category_ids": odd}
    content["categories"][0] |= {"frequency": odd, "image_count": odd}
    (tmp_path / "train.json").write_text(json.dumps(content))
    index = load_index(lvis)
    assert_sound(index)
    assert index.federated is not None
    assert set(index.federated.negative.of(0).tolist()) <= {2}
    assert index.federated.groups() is None
    assert index.federated.negative.of(2).tolist() == [0, 2]


def rebuilt(folder: Path, kind: str, share: float) -> tuple[DatasetIndex, Document]:
    """A file with the published class counts, and those counts."""
    name = {"coco": "coco_train2017_counts.json", "lvis": "lvis_v1_train_counts.json"}[kind]
    if not (COUNTS / name).is_file():
        pytest.skip(f"no {name} beside IIFDET_DATA_DIR")
    counts = synthetic.load_counts(COUNTS / name, share)
    file = synthetic.write_coco(folder, counts, lvis=kind == "lvis", points=4)  # outlines do not matter here
    split = {"images": str(folder / "images"), "annotations": str(file)}
    return load_index({"format": kind, "train": split}, max_bad=0.0, cache_index=False), counts


@pytest.mark.parametrize("kind", ["coco", "lvis"])
@pytest.mark.parametrize("share", [0.002, pytest.param(1.0, marks=pytest.mark.slow)])
def test_class_counts_of_a_rebuilt_file_are_the_published_ones(tmp_path: Path, kind: str, share: float) -> None:
    index, published = rebuilt(tmp_path, kind, share)
    counts = index.counts()
    assert counts.num_images == published["num_images"]
    assert counts.images.tolist() == published["image_count"]
    assert counts.instances.tolist() == published["instance_count"]
    assert index.problems == []
    if index.federated is not None:
        assert np.array_equal(index.federated.image_count, counts.images)
        groups = index.federated.groups()
        assert groups is not None and sum(map(len, groups.values())) == 1203
        if share == 1.0:
            assert [len(groups[name]) for name in ("rare", "common", "frequent")] == [337, 461, 405]


def test_lists_of_classes_follow_a_choice_of_classes(lvis: Document) -> None:
    """Each image's lists, by name, are what they were without the class that left."""
    index = load_index(lvis)
    chosen = choose_classes(index, ["bus", "car"])
    assert index.federated is not None and chosen.federated is not None
    assert any(len(index.federated.negative.of(n)) for n in range(len(index)))
    for lists in ("negative", "not_exhaustive"):
        for n in range(len(index)):
            before = [index.names[c] for c in getattr(index.federated, lists).of(n).tolist()]
            after = [chosen.names[c] for c in getattr(chosen.federated, lists).of(n).tolist()]
            assert after == [name for name in before if name != "tram"]
    place = [index.names.index(name) for name in chosen.names]
    assert chosen.federated.frequency.tolist() == index.federated.frequency[place].tolist()
    json.dumps(chosen.to_coco())


def test_one_class_of_all_knows_no_lists_any_more(lvis: Document) -> None:
    assert merge_classes(load_index(lvis)).federated is None
