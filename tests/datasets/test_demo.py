"""The demo data: as imbalanced as announced, the same for the same seed, complete or not there at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from iifdet.datasets import DatasetIndex, load_index
from iifdet.datasets.demo import draw_classes, make_demo, train_counts
from iifdet.datasets.demo_shapes import PAIRS
from iifdet.errors import InputError

SMALL = {"most": 40, "imbalance": 20.0, "val_per_class": 3}


def describe(folder: Path, **generate: float) -> dict:
    splits = {s: {"images": s, "annotations": f"{s}.json"} for s in ("train", "val")}
    return {"format": "coco", "path": str(folder), "generate": generate, **splits}


def digest(folder: Path) -> str:
    state = hashlib.sha256()
    for file in sorted(folder.rglob("*.*")):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetIndex, DatasetIndex]:
    data = describe(tmp_path_factory.mktemp("demo") / "d", seed=3, **SMALL)
    return load_index(data), load_index(data, "val")


def test_train_is_exponential_and_val_balanced(demo: tuple[DatasetIndex, DatasetIndex]) -> None:
    train, val = demo
    assert train.counts().images.tolist() == train_counts(40, 20.0)
    assert val.counts().images.tolist() == [3] * 20
    assert (train.counts().instances >= train.counts().images).all()
    assert train.counts().instances.sum() > train.counts().images.sum()
    assert train.names == val.names
    assert not train.problems and not val.problems


def test_the_default_counts_have_imbalance_100() -> None:
    counts = np.array(train_counts(300, 100.0))
    assert (counts[0], counts[-1], len(counts)) == (300, 3, 20)
    assert np.abs(np.log(counts) - np.linspace(np.log(300), np.log(3), 20)).max() < 0.16


@pytest.mark.parametrize("seed", [0, 1])
def test_every_rare_class_has_its_look_alike_among_the_common_ones(seed: int) -> None:
    names = [shape.name for shape in draw_classes(seed)]
    pairs = [{a[0], b[0]} for a, b in PAIRS]
    assert all({names[c], names[c + 10]} in pairs for c in range(10))
    assert len(set(names)) == 20


def test_the_lot_decides_which_of_a_pair_is_common() -> None:
    first = [{shape.name for shape in draw_classes(seed)[:10]} for seed in range(8)]
    assert len({frozenset(names) for names in first}) > 1


def test_masks_fit_their_boxes_and_objects_lie_apart_inside(demo: tuple[DatasetIndex, DatasetIndex]) -> None:
    train, _ = demo
    assert train.segments is not None
    for row in range(0, len(train), 5):
        height, width = train.sizes[row].tolist()
        where = train.boxes_of(row)
        masks = [train.segments.mask(m, height, width) for m in range(where.start, where.stop)]
        assert 1 <= len(masks) <= 3
        assert np.sum(masks, axis=0).max() == 1
        for mask, m in zip(masks, range(where.start, where.stop), strict=True):
            assert mask is not None
            ys, xs = np.nonzero(mask)
            seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert np.abs(train.boxes[m] - seen).max() <= 1.5
            assert mask.sum() == pytest.approx(train.areas[m], rel=0.12)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    few = {"most": 10, "imbalance": 10.0, "val_per_class": 1}
    a, b, c = (make_demo(tmp_path / n, seed=s, **few) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert digest(a) == digest(b) != digest(c)
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["a", "b", "c"]  # nothing half-made is left


def test_complete_data_are_kept_and_others_made_anew(tmp_path: Path) -> None:
    few = {"most": 4, "imbalance": 2.0, "val_per_class": 1}
    folder = make_demo(tmp_path / "d", **few)
    stamp = (folder / "train.json").stat().st_mtime_ns
    assert (make_demo(folder, **few) / "train.json").stat().st_mtime_ns == stamp
    make_demo(folder, seed=5, **few)
    assert json.loads((folder / "demo.json").read_text())["seed"] == 5


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="got other files"):
        make_demo(tmp_path, most=4)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("generate", "message"),
    [
        ({"sed": 1}, "did you mean 'seed'"),
        ({"most": 0}, "at least 1"),
        ({"seed": "x"}, "number"),
        ({"most": 2.5}, "whole"),
    ],
)
def test_mistakes_in_generate_are_named(tmp_path: Path, generate: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_index(describe(tmp_path / "d", **generate))
