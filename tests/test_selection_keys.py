"""fraction, classes and single_cls as keys: training, validation and statistics agree on what they look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import iifdet
from iifdet.cli import main
from iifdet.config import StatsConfig, TrainConfig, resolve
from iifdet.datasets import hold_out, load_index
from iifdet.errors import InputError

Keys = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("value", "classes"),
    [
        (3, [3]),
        ("car", ["car"]),
        ([0, "bus"], [0, "bus"]),
        (None, None),
        (False, None),
    ],
)
def test_classes_may_be_one_or_several_numbers_or_names(value: Any, classes: Any) -> None:
    cfg = resolve(TrainConfig, {"classes": value})
    assert cfg.classes == classes and all(
        type(a) is type(b) for a, b in zip(cfg.classes or [], classes or [], strict=True)
    )
    again = resolve(TrainConfig, json.loads(json.dumps(cfg.model_dump(mode="json"))))
    assert again.classes == classes


@pytest.mark.parametrize("value", [True, [], [True], [0.5], {"a": 1}, [[0]]])
def test_what_names_no_classes_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"classes: expected numbers or names of classes such as \[0, 3\]"):
        resolve(StatsConfig, {"classes": value})


@pytest.mark.parametrize("value", [0, -1, 1.5, "half", float("nan")])
def test_a_fraction_lies_between_0_and_1(value: Any) -> None:
    with pytest.raises(InputError, match="fraction: "):
        resolve(TrainConfig, {"fraction": value})


def test_classes_that_a_fraction_leaves_without_an_image_are_said(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "iifdet"):
        run = iifdet.train(**tiny_keys(tmp_path, epochs=1, fraction=0.05))
    absent = [row["name"] for row in run.metrics["per_class"] if not row["train_images"]]
    said = [r.getMessage() for r in caplog.records if "no training image" in r.getMessage()]
    assert absent and said == [
        f"{len(absent)} classes have no training image and cannot be learnt: {', '.join(absent)}"
    ]


def test_a_model_of_some_classes_is_validated_on_them(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, classes=["white", 1], fraction=0.5))
    last = run.folder / "weights" / "last.pt"
    model = iifdet.load(last)
    assert model.names == ["green", "white"] and model.num_classes == 2
    assert model.counts is not None and model.counts.num_images == 12
    assert model.counts.images.tolist()[1] == 1, "the one image of the rarest class is among the half"
    assert [row["name"] for row in run.metrics["per_class"]] == ["green", "white"]
    val = iifdet.val(weights=str(last), project=str(tmp_path), name="val", plots=False, workers=0)
    assert val.metrics["images"] == 12
    for key in ("AP", "data_digest", "per_class"):
        assert val.metrics[key] == run.metrics[key]
    predicted = json.loads((val.folder / "predictions.json").read_text())
    assert {p["category_id"] for p in predicted} <= {15, 35}
    whole = iifdet.val(weights=str(last), split="train", project=str(tmp_path), name="t", plots=False, workers=0)
    assert whole.metrics["images"] == 24, "the fraction is about training"
    with pytest.raises(InputError, match="expected the checkpoint's 2 classes"):
        iifdet.val(weights=str(last), classes=[0], project=str(tmp_path), name="v", plots=False, workers=0)


def test_a_model_of_one_class_is_validated_as_one(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, single_cls=True, adjust="none"))
    last = run.folder / "weights" / "last.pt"
    assert iifdet.load(last).names == ["object"]
    val = iifdet.val(weights=str(last), project=str(tmp_path), name="val", plots=False, workers=0)
    assert val.metrics["data_digest"] == run.metrics["data_digest"]
    assert [row["name"] for row in val.metrics["per_class"]] == ["object"]


def test_statistics_are_those_of_the_selection(tiny_data: str, tmp_path: Path) -> None:
    keys = {"data": tiny_data, "project": str(tmp_path), "plots": False}
    counts = iifdet.stats(**keys, classes=["red", "white"]).counts
    assert (counts.names, counts.num_images, counts.images.tolist()) == (["red", "white"], 24, [12, 1])
    halves = [iifdet.stats(**keys, fraction=0.5, seed=seed).counts for seed in (0, 0, 1)]
    assert halves[0].num_images == 12 and halves[0].instances.tolist() == halves[1].instances.tolist()
    assert iifdet.stats(**keys, split="val", fraction=0.5).counts.num_images == 12


def test_classes_without_a_box_are_refused_before_a_run_starts(
    tiny_keys: Keys, tiny_copy: Path, tmp_path: Path
) -> None:
    file = tiny_copy / "train.json"
    document = json.loads(file.read_text())
    document["categories"].append({"id": 99, "name": "black"})
    file.write_text(json.dumps(document))
    keys = tiny_keys(tmp_path, data=str(tiny_copy / "data.yaml"), classes="black")
    with pytest.raises(InputError, match="check its labels and the key 'classes'"):
        iifdet.train(**keys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["coco", "voc", "objects365"])
def test_data_that_are_not_there_end_in_one_line_that_says_where_they_are(
    data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path), ""):
        monkeypatch.setenv("IIFDET_DATA_DIR", folder)
        assert main(["stats", f"data={data}"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "; get it from http" in err and " and lay it out as " in err
    assert list(tmp_path.iterdir()) == []


def test_with_a_holdout_a_run_validates_on_training_images_that_it_does_not_train_on(
    tiny_keys: Keys, tmp_path: Path
) -> None:
    keys = tiny_keys(tmp_path, epochs=1, holdout=0.25)
    run = iifdet.train(**keys)
    both = load_index(keys["data"], "train")
    rest, held = hold_out(both, 0.25)
    assert (len(rest), run.metrics["images"]) == (len(both) - len(held), len(held))
    assert run.metrics["data_digest"] == held.digest()
    last = run.folder / "weights" / "last.pt"
    assert iifdet.load(last).counts.images.tolist() == rest.counts().images.tolist()
    val = iifdet.val(weights=str(last), project=str(tmp_path), name="val", plots=False, workers=0)
    assert val.metrics["images"] == 12, "val looks at the data's own val split"
