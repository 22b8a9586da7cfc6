"""One index from every format of classification data."""

from __future__ import annotations

import copy
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classification_data import (
    NAMES,
    TEST,
    TRAIN,
    picture,
    write_cifar,
    write_folders,
    write_inaturalist,
    write_lists,
    write_picture,
    write_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iifdet.datasets import load_index
from iifdet.datasets.classification import ArrayImages, ClassIndex, load_class_index
from iifdet.datasets.classification.description import KEYS, find_class_description
from iifdet.datasets.classification.stores import ZipStore
from iifdet.datasets.description import task_of
from iifdet.errors import InputError
from iifdet.resources import resource_names, resource_path

WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": write_folders,
    "zip": write_zip,
    "list": write_lists,
    "inaturalist": write_inaturalist,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_index(kind: str, tmp_path: Path) -> None:
    content = WRITERS[kind](tmp_path / "data")
    plain = load_class_index(write_folders(tmp_path / "plain"))
    train, test = (load_class_index(content, split) for split in ("train", "test"))
    assert train.names == test.names == NAMES
    assert tuple(np.bincount(train.labels)) == TRAIN and tuple(np.bincount(test.labels)) == TEST
    assert train.digest() == plain.digest() != test.digest()
    for row in range(len(train)):
        label, place = int(train.labels[row]), Path(train.file(row))
        assert place.parent.name == NAMES[label]
        np.testing.assert_array_equal(train.read(row), picture(100 * label + int(place.stem)))
    counts = train.counts()
    assert counts.images.tolist() == counts.instances.tolist() == list(TRAIN) and counts.num_images == sum(TRAIN)


def test_cifar_files_are_read_image_by_image(tmp_path: Path) -> None:
    content = write_cifar(tmp_path)
    index = load_class_index(content)
    assert len(index) == 100 and index.array is not None and index.array.shape == (100, 32, 32, 3)
    first = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    assert index.read(3)[5, 7].tolist() == [first[3, plane * 1024 + 5 * 32 + 7] for plane in range(3)]
    assert index.labels[:12].tolist() == [*range(10), 0, 1]
    assert index.names[3] == "class 3" and index.file(3) == "train/00003"
    assert len(load_class_index(content, "test")) == 20
    above = load_class_index({**content, "path": str(tmp_path)})
    assert above.digest() == index.digest()


def test_cifar_s_archive_is_read_as_published(tmp_path: Path) -> None:
    content = write_cifar(tmp_path, images=200, classes=100)
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(content["path"], arcname="cifar-100-python")
    packed, plain = (load_class_index({**content, "path": str(p)}) for p in (archive, content["path"]))
    assert packed.digest() == plain.digest() and len(packed.names) == 100
    assert np.array_equal(packed.array, plain.array)  # type: ignore[arg-type]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def test_a_crafted_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_cifar(tmp_path)
    monkeypatch.chdir(tmp_path)
    (Path(content["path"]) / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}, protocol=2))
    with pytest.raises(InputError, match=r"data_batch_2: expected a file of cifar10.*asks for (posix|nt)\.system"):
        load_class_index(content)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((20, 10), np.uint8)}, r"expected 'data' of \(N, 3072\) bytes"),
        ({b"labels": [0] * 19}, "expected 20 numbers as 'labels'"),
        ({b"labels": [10] * 20}, "expected labels 0…9, got 10…10"),
        ({b"labels": [None] * 20}, "expected 20 numbers"),
    ],
)
def test_wrong_cifar_files_are_named(tmp_path: Path, change: dict[bytes, Any], message: str) -> None:
    content = write_cifar(tmp_path)
    good = {b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 20}
    (Path(content["path"]) / "data_batch_3").write_bytes(pickle.dumps({**good, **change}, protocol=2))
    with pytest.raises(InputError, match=f"data_batch_3: {message}"):
        load_class_index(content)


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x02}q\x00("])
def test_damaged_and_missing_cifar_files_are_named(tmp_path: Path, data: bytes) -> None:
    content = write_cifar(tmp_path)
    file = Path(content["path"]) / "test_batch"
    file.write_bytes(data)
    with pytest.raises(InputError, match="test_batch: expected a file of cifar10"):
        load_class_index(content, "test")
    file.unlink()
    with pytest.raises(
        InputError, match=r"expected test_batch of cifar-10-batches-py in .*No such file.*get it from x"
    ):
        load_class_index({**content, "source": "x"}, "test")


# -- selection ---------------------------------------------------------------------------------------------------------


def made(counts: list[int]) -> ClassIndex:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels)
    array = np.zeros((len(labels), 1, 1, 3), np.uint8)
    array[:, 0, 0, 0] = np.arange(len(labels)) % 256
    images = ArrayImages(array, [str(i) for i in range(len(labels))])
    return ClassIndex.of([f"c{i}" for i in range(len(counts))], images, labels)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda c: max(c) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_holdout_is_a_stratified_partition_with_every_class_left_to_train(
    counts: list[int], share: float, seed: int
) -> None:
    index = made(counts)
    rest, held = index.holdout(share, seed)
    assert sorted([*rest.ids, *held.ids]) == list(range(len(index)))
    assert (np.diff(rest.ids) > 0).all() and (np.diff(held.ids) > 0).all()
    for label, count in enumerate(counts):
        out = int((held.labels == label).sum())
        assert count - out >= min(count, 1)
        assert out >= 1 or count < 2
        assert abs(out - share * count) <= 0.5 or out in (1, count - 1)
    again = index.holdout(share, seed)[1]
    assert again.ids.tolist() == held.ids.tolist()


def test_selected_images_keep_their_labels_pixels_and_ids() -> None:
    index = made([3, 4, 5])
    part = index.select([7, 2, 9])
    assert part.ids.tolist() == [7, 2, 9] and part.labels.tolist() == index.labels[[7, 2, 9]].tolist()
    assert [part.read(i)[0, 0, 0] for i in range(3)] == [7, 2, 9]
    assert part.select(np.array([False, True, False])).ids.tolist() == [2]
    with pytest.raises(ValueError, match="expected each image once"):
        index.select([1, 1])


def test_a_share_of_the_train_split_and_some_classes(tmp_path: Path) -> None:
    content = write_folders(tmp_path)
    assert load_class_index(content, fraction=0.5).counts().images.tolist() == [2, 1, 1]
    assert len(load_class_index(content, "test", fraction=0.5)) == sum(TEST)
    some = load_class_index(content, classes=["cow", 0])
    assert some.names == ["ant", "cow"] and some.counts().images.tolist() == [5, 2]
    assert Path(some.file(int(np.flatnonzero(some.labels == 1)[0]))).parent.name == "cow"
    with pytest.raises(
        InputError, match="classes: expected names of the data's classes, got 'cwo'; did you mean 'cow'"
    ):
        load_class_index(content, classes="cwo")
    for bad in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="fraction: expected a share above 0"):
            load_class_index(content, fraction=bad)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_holdout_of_nothing_or_all_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="holdout: expected a share"):
        made([3, 3]).holdout(share)
    with pytest.raises(InputError, match="holdout: expected a class with two images"):
        made([1, 1]).holdout(0.5)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_are_read_into_memory_as_they_are(kind: str, tmp_path: Path) -> None:
    index = load_class_index(WRITERS[kind](tmp_path / "data"))
    loaded = index.in_memory()
    assert loaded.array is not None and loaded.digest() == index.digest()
    for row in range(len(index)):
        np.testing.assert_array_equal(loaded.read(row), index.read(row))


def test_images_of_other_size_or_none_do_not_go_into_one_array(tmp_path: Path) -> None:
    content = write_folders(tmp_path)
    write_picture(tmp_path / "train" / "bee" / "big.png", 1, side=9)
    with pytest.raises(InputError, match=r"big\.png: expected 8x8 pixels .*, got 9x9; use cache=false"):
        load_class_index(content).in_memory()
    (tmp_path / "train" / "bee" / "big.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match=r"got .*big\.png: truncated PNG.*; repair .* cache=false"):
        load_class_index(content).in_memory()


def test_a_zip_is_opened_anew_in_another_process(tmp_path: Path) -> None:
    index = load_class_index(write_zip(tmp_path / "data"))
    index.read(0)
    sent = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(sent.read(0), index.read(0))
    child = os.fork()
    if child == 0:
        same = all((index.read(row) == sent.read(row)).all() for row in range(len(index)))
        os._exit(0 if same else 1)
    for row in range(len(index)):
        index.read(row)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- what is wrong with data -------------------------------------------------------------------------------------------


def test_the_train_split_says_which_classes_there_are(tmp_path: Path) -> None:
    content = write_folders(tmp_path)
    write_picture(tmp_path / "test" / "dog" / "0.png", 1)
    with pytest.raises(
        InputError, match=r"test: expected only images that can be used, got 1 folder of an unknown class, first .*dog;"
    ):
        load_class_index(content, "test")
    named = {**content, "names": ["dog", "cow", "bee", "ant"]}
    assert load_class_index(named, "test").counts().images.tolist() == [1, 1, 2, 2]
    with pytest.raises(InputError, match="train: expected images of every class, got none of class 0 'dog'"):
        load_class_index(named)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_empty_classes_and_missing_folders_are_named(kind: str, tmp_path: Path) -> None:
    content = WRITERS[kind](tmp_path / "data")
    with pytest.raises(InputError, match=r"data train: .*folder.*nowhere.*get it from there"):
        load_class_index({**content, "train": "nowhere", "source": "there"})
    with pytest.raises(InputError, match=r"data train: expected the folder .*nowhere.*; check 'train' and 'path'$"):
        load_class_index({**content, "train": "nowhere"})
    if kind == "zip":
        import zipfile

        with zipfile.ZipFile(content["path"], "a") as archive:
            archive.mkdir("train/dodo")
            archive.writestr("train/__MACOSX/ant/._0.png", b"")
    else:
        (tmp_path / "data" / "train" / "dodo").mkdir()
        (tmp_path / "data" / "train" / "dodo" / "readme.txt").write_text("none left")
    with pytest.raises(InputError, match=r"got 1 folder of a class without images, first .*dodo;"):
        load_class_index(content)


def test_a_path_that_is_nothing_or_no_zip_is_named(tmp_path: Path) -> None:
    content = write_folders(tmp_path / "data")
    with pytest.raises(
        InputError, match=r"path: expected the folder or zip file .*nothing, which does not exist; check"
    ):
        load_class_index({**content, "path": str(tmp_path / "nothing")})
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match=r"text\.zip: expected a zip file, got .* does not open .*; get it anew"):
        load_class_index({**content, "path": str(tmp_path / "text.zip")})


def test_a_damaged_member_of_a_zip_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    content = write_zip(tmp_path / "data")
    archive = Path(content["path"])
    data = bytearray(archive.read_bytes())
    data[60:200] = b"\0" * 140  # inside the first member's pixels
    archive.write_bytes(data)
    index = load_class_index(content, "test")
    with pytest.raises(InputError, match=r"expected readable files, got .*000\.png"):
        index.in_memory()
    with pytest.raises(InputError, match="does not open"):
        archive.write_bytes(bytes(data[:300]))
        ZipStore(archive)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/ant/000.png", "expected 'path label' with a label from 0"),
        ("train/ant/000.png -1", "expected 'path label' with a label from 0"),
        ("train/ant/000.png 1.5", "expected 'path label' with a label from 0"),
        ("0", "expected 'path label' with a label from 0"),
        ("train/ant/000.png ²", "expected 'path label' with a label from 0"),
        ("train/ant/000.png 99999999999", "expected 'path label' with a label from 0"),
        ("../../etc/passwd 0", "expected a file inside the data set"),
        ("/etc/passwd 0", "expected a file inside the data set"),
    ],
)
def test_wrong_lines_of_a_list_are_named(tmp_path: Path, line: str, message: str) -> None:
    content = write_lists(tmp_path)
    with (tmp_path / "train.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(InputError, match=rf"train\.txt:12: {message}.*; \w+"):
        load_class_index(content)


def test_missing_images_gaps_and_labels_outside_are_named(tmp_path: Path) -> None:
    content = write_lists(tmp_path)
    lines = (tmp_path / "train.txt").read_text().splitlines()
    (tmp_path / "train.txt").write_text("\n".join([*lines, "train/ant/no.png 0", "train/bee/no.png 1"]))
    with pytest.raises(InputError, match=r"got 2 missing image file, first .*ant/no\.png; check 'path'"):
        load_class_index(content)
    (tmp_path / "train.txt").write_text("\n".join([*lines, "train/ant/000.png 4"]))
    with pytest.raises(InputError, match=r"none of class 3 '3'; train\.txt:11 has label 4, beyond 2, .* of test; corr"):
        load_class_index(content)
    with pytest.raises(InputError, match=r"; train\.txt:11 has label 4, which makes 5 classes; number them from 0"):
        load_class_index({key: value for key, value in content.items() if key != "test"})
    with pytest.raises(
        InputError, match=r"train: .*1 class out of range: expected 0…2, got 4, first .*train/ant/000\.png"
    ):
        load_class_index({**content, "names": NAMES})
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "test.txt").write_text("test/ant/000.png 3")
    with pytest.raises(InputError, match=r"test: .*expected 0…2, got 3"):
        load_class_index(content, "test")
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="which is not UTF-8"):
        load_class_index(content)
    (tmp_path / "train.txt").write_text("\n\n")
    with pytest.raises(InputError, match=r"'path label' in train\.txt, found none; .* another list as 'train'"):
        load_class_index(content)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(InputError, match=r"train: expected a readable file, .*train\.txt.*; check 'train' and"):
        load_class_index(content)


def test_what_cannot_be_used_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    content = write_lists(tmp_path)
    lines = (tmp_path / "train.txt").read_text().splitlines()
    (tmp_path / "train.txt").write_text("\n".join(["train/ant/no.png 0", "train/bee/000.png 7", *lines]))
    index = load_class_index({**content, "names": NAMES}, strict=False)
    assert index.counts().images.tolist() == list(TRAIN) and len(index.problems) == 2
    assert [p.reason.partition(":")[0] for p in index.problems] == ["class out of range", "missing image file"]
    assert index.select([0, 1]).problems == ()


def test_files_outside_the_data_set_may_be_named_by_who_trusts_the_list(tmp_path: Path) -> None:
    content = write_lists(tmp_path / "data")
    write_picture(tmp_path / "far.png", 1)
    (tmp_path / "data" / "train.txt").write_text(f"../far.png 0\n{tmp_path}/far.png 1\n")
    with pytest.raises(InputError, match="expected a file inside the data set"):
        load_class_index(content)
    index = load_class_index(content, allow_outside=True)
    np.testing.assert_array_equal(index.read(0), index.read(1))


def test_classes_of_a_list_go_by_frequency_when_asked(tmp_path: Path) -> None:
    write_folders(tmp_path)
    numbers = {"ant": 2, "bee": 0, "cow": 1}
    for split in ("train", "test"):
        files = sorted((tmp_path / split).rglob("*.png"))
        lines = [f"{f.relative_to(tmp_path).as_posix()} {numbers[f.parent.name]}" for f in files]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    content = {"task": "classify", "format": "list", "path": str(tmp_path), "train": "train.txt", "test": "test.txt"}
    as_filed = load_class_index(content)
    assert as_filed.names == ["bee", "cow", "ant"] and as_filed.counts().images.tolist() == [3, 2, 5]
    for split, counts in (("train", TRAIN), ("test", TEST)):
        sorted_ = load_class_index({**content, "order": "frequency"}, split)
        assert sorted_.names == ["ant", "bee", "cow"] and sorted_.counts().images.tolist() == list(counts)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["train/n0144", "train/n0145"], ["n0144", "n0145"]),
        (["d/a/abbey", "d/a/arch/outdoor", "d/h/hangar/outdoor"], ["abbey", "arch/outdoor", "hangar/outdoor"]),
        (["a/apartment/outdoor", "a/arch/outdoor"], ["apartment/outdoor", "arch/outdoor"]),
        (["a/b/x", "a/bc/x", "bc/x"], ["a/b/x", "a/bc/x", "bc/x"]),
        (["c/cat/x", "cat/x"], ["c/cat/x", "cat/x"]),
        (["one", "two", "one"], ["0", "1", "2"]),
        ([".", "."], ["0", "1"]),
    ],
)
def test_classes_of_a_list_are_called_like_their_folders_with_parents_where_these_repeat(
    folders: list[str], names: list[str], tmp_path: Path
) -> None:
    for label, folder in enumerate(folders):
        write_picture(tmp_path / folder / f"{label}.png", label)
    lines = [f"{folder}/{label}.png {label}" for label, folder in enumerate(folders)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    index = load_class_index({"task": "classify", "format": "list", "path": str(tmp_path), "train": "train.txt"})
    assert index.names == names


def test_a_class_in_several_folders_makes_all_names_numbers(tmp_path: Path) -> None:
    content = write_lists(tmp_path)
    write_picture(tmp_path / "more" / "0.png", 1)
    with (tmp_path / "train.txt").open("a") as file:
        file.write("more/0.png 0\n")
    assert load_class_index(content).names == load_class_index(content, "test").names == ["0", "1", "2"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_no_list_file_ends_in_anything_but_an_index_or_an_input_error(tmp_path: Path, lines: list[str]) -> None:
    content = write_lists(tmp_path) if not (tmp_path / "train").exists() else None
    (tmp_path / "train.txt").write_text("\n".join(["train/ant/000.png 0", *lines]), encoding="utf-8")
    content = content or {"task": "classify", "format": "list", "path": str(tmp_path), "train": "train.txt"}
    try:
        assert len(load_class_index(content)) >= 1
    except InputError as error:
        assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 9), st.text(max_size=8), JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
def test_no_json_ends_in_anything_but_an_index_or_an_input_error(
    tmp_path: Path, table: str, row: int, key: str, value: Any
) -> None:
    content = write_inaturalist(tmp_path) if not (tmp_path / "train").exists() else None
    keep = tmp_path / "keep.json"
    if content is not None:
        keep.write_text((tmp_path / "train.json").read_text())
    changed = json.loads(keep.read_text())
    rows = changed[table]
    target = rows[row % len(rows)]
    target[sorted(target)[len(key) % len(target)]] = value
    (tmp_path / "train.json").write_text(json.dumps(changed))
    try:
        place = {"images": ".", "annotations": "train.json"}
        data = {"task": "classify", "format": "inaturalist", "path": str(tmp_path), "train": place}
        assert len(load_class_index(data)) == sum(TRAIN)
    except InputError as error:
        assert str(error)


def change(content: dict[str, Any], tmp_path: Path, **tables: Any) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **tables}))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["annotations"].pop(3), "1 image without annotation, first train/ant/003.png"),
        (
            lambda d: d["annotations"].append({"image_id": 8, "category_id": 0}),
            "1 image with several annotations, first train/ant/001.png",
        ),
        (lambda d: d["annotations"][0].update(category_id=5), "1 unknown category id: 5, first train/ant/000.png"),
        (lambda d: d["images"][1].update(id=7), "2 duplicate image id: 7"),
        (lambda d: d["images"][0].update(file_name="../x.png"), "image 7: expected a file inside the data set"),
        (lambda d: d["images"][0].update(file_name="x.png"), "1 missing image file"),
        (lambda d: d["categories"][1].update(id=0), "expected categories with distinct ids"),
        (lambda d: d.update(images=[]), "expected images in train.json, found none; get it anew"),
        (
            lambda d: d.pop("annotations"),
            "expected iNaturalist's images, annotations .*; correct the file",
        ),
    ],
)
def test_wrong_json_is_named(tmp_path: Path, edit: Callable[[Any], Any], message: str) -> None:
    content = write_inaturalist(tmp_path)
    file = tmp_path / "train.json"
    changed = copy.deepcopy(json.loads(file.read_text()))
    edit(changed)
    file.write_text(json.dumps(changed))
    with pytest.raises(InputError, match=message):
        load_class_index(content)


def test_species_of_one_name_are_told_apart(tmp_path: Path) -> None:
    content = write_inaturalist(tmp_path)
    for split in ("train", "test"):
        file = tmp_path / f"{split}.json"
        changed = json.loads(file.read_text())
        for category in changed["categories"]:
            category["name"] = "same" if category["id"] else "other"
        file.write_text(json.dumps(changed))
    assert load_class_index(content).names == ["other", "same (10)", "same (20)"]


# -- descriptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "voc"}, "format: expected one of folder, list, cifar10, cifar100, inaturalist, got 'voc'"),
        ({"nmaes": ["a"]}, "unknown key 'nmaes'; did you mean 'names'"),
        ({"imbalance": 0.5}, "imbalance: expected a number of 1 or more"),
        ({"imbalance": "100"}, "imbalance: expected a number of 1 or more"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"order": "frequency"}, "order: belongs to format: list"),
        ({"path": None}, "path: expected a path"),
        ({"train": None, "test": None}, "expected a train, val or test key"),
        ({"train": 3}, "train: expected a path, got 3"),
        ({"format": "list", "train": {"images": "."}}, "train: expected {images: folder, list: file}"),
        ({"format": "list", "train": {"list": "x", "lst": 1}}, "train: unknown key 'lst'"),
        ({"task": "detect"}, "expected data of classification"),
        ({"task": "segment"}, "task: expected one of detect, classify"),
    ],
)
def test_wrong_descriptions_are_named(keys: dict[str, Any], message: str) -> None:
    content = {"task": "classify", "path": "x", "train": "train", "test": "test", **keys}
    with pytest.raises(InputError, match=message):
        find_class_description({k: v for k, v in content.items() if v is not None})


def test_data_of_the_other_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected data with boxes, got task: classify"):
        load_index(write_folders(tmp_path))
    with pytest.raises(InputError, match="expected data of classification"):
        load_class_index("coco128")
    with pytest.raises(InputError, match=r"split: expected one of train, test \(data\), got 'val'"):
        load_class_index(write_folders(tmp_path), "val")


CLASSIFY = [name for name in resource_names("data") if task_of(name) == "classify"]


@pytest.mark.parametrize("name", CLASSIFY)
def test_packaged_descriptions_are_sound_and_missing_data_say_where_to_get_them(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IIFDET_DATA_DIR", str(tmp_path))
    description = find_class_description(name)
    assert "train" in description.splits and {"val", "test"} & description.splits.keys()
    for split in description.splits:
        with pytest.raises(InputError) as caught:
            load_class_index(name, split)
        assert ("get it from" in str(caught.value)) == (name != "cifar10_lt100_jpeg")


def test_the_packaged_ones_are_all_there() -> None:
    assert {"cifar10-lt", "cifar100-lt", "imagenet-lt", "places-lt", "inaturalist2018", "cifar10_lt100_jpeg"} <= set(
        CLASSIFY
    )


def test_the_template_explains_every_key() -> None:
    file = resource_path("data", "template-classify")
    assert file is not None
    text = file.read_text(encoding="utf-8")
    for key in KEYS:
        assert f"\n{key}: " in text or f"\n#   {key}: " in text, key
