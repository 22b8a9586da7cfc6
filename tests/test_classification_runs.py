"""Classifiers from keys to a run folder: strategies, resuming, what chooses the best epoch, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from classification_data import write_colours

import iifdet
from iifdet import build, class_pictures
from iifdet.build.adjustment_study import build_adjustment_study
from iifdet.build.classification import refuse_boxes, train_transform
from iifdet.build.tuning import blank_metrics, build_study
from iifdet.checkpoint import read_checkpoint
from iifdet.config import TrainConfig, resolve
from iifdet.errors import InputError
from iifdet.models import model_options
from iifdet.resources import resource_names
from iifdet.training import Callback

Keys = Callable[..., dict[str, Any]]
#: Training images of the three classes.
COUNTS = (24, 12, 6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data YAML: three colours."""
    return write_colours(tmp_path_factory.mktemp("colours"), COUNTS)


@pytest.fixture
def keys(data: str, tmp_path: Path) -> Keys:
    """keys(**changes): a run of a second."""

    def make(**changes: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            **{"model": "se_resnet20", "model_args": {"width": 0.25, "head": "cosine"}, "data": data, "imgsz": 32},
            **{"cache": "device", "batch": 8, "epochs": 2, "lr": 0.05, "adjust": "none", "device": "cpu"},
            **{"plots": False, "verbose": False, "workers": 0, "project": str(tmp_path), "name": "run"},
            **{"mixup": 0.2, "cutout": 8, "auto_augment": "cifar10", "group_limits": [8, 16]},
        }
        return {**base, **changes}

    return make


def weights_of(run: Any, which: str = "last") -> dict[str, Any]:
    return read_checkpoint(run.folder / "weights" / f"{which}.pt")["weights"]  # type: ignore[no-any-return]


def test_the_best_epoch_is_chosen_on_a_part_of_train_and_test_is_reported(keys: Keys) -> None:
    run = iifdet.train(**keys())
    assert run.metrics["images"] == 15 and run.metrics["best"]["chosen_on"] == "holdout"
    assert run.metrics["split"] == "test"
    splits = build.build_splits(resolve(TrainConfig, keys()), "classify")
    assert len(splits.train) == sum(COUNTS) - 4 and len(splits.val) == 4  # a tenth of each class
    assert [row["train_images"] for row in run.metrics["per_class"]] == list(COUNTS), "groups go by the whole split"
    assert set(run.metrics["groups"]) == {"many", "medium", "few"}
    rows = list(csv.DictReader((run.folder / "results.csv").open()))
    assert len(rows) == 2 and all(0 <= float(row["top1"]) <= 1 for row in rows)
    assert yaml.safe_load((run.folder / "args.yaml").read_text())["select_share"] == 0.1


def test_val_says_which_split_its_figures_are_of(keys: Keys) -> None:
    run = iifdet.train(**keys(epochs=1, select_on="test"))
    common: dict[str, Any] = {"weights": run.folder / "weights" / "last.pt", "project": str(run.folder), "plots": False}
    said = {split: iifdet.val(**common, split=split).metrics["split"] for split in ("val", "train")}
    assert said == {"val": "test", "train": "train"}, "data without a val split are evaluated on test"


def test_steps_that_a_short_run_never_reaches_are_said(caplog: pytest.LogCaptureFixture) -> None:
    config = resolve(TrainConfig, {"model": "classify/cifar10-lt-softmax", "epochs": 100})
    with caplog.at_level("WARNING", logger="iifdet"):
        assert build.build_schedule(config).at(99.9) == config.lr
    assert "give steps=[90,95]" in caplog.text
    caplog.clear()
    build.build_schedule(config.model_copy(update={"epochs": 361}))
    assert not caplog.text


@pytest.mark.parametrize(
    ("change", "said"), [({}, "held-out training images"), ({"select_on": "test"}, ""), ({"holdout": 0.2}, "")]
)
def test_curves_say_which_images_they_are_of_where_the_report_is_of_others(
    change: dict[str, Any], said: str, keys: Keys
) -> None:
    assert build.build_splits(resolve(TrainConfig, keys(**change)), "classify").watched == said


def test_selecting_on_test_is_written_down(keys: Keys) -> None:
    run = iifdet.train(**keys(select_on="test", epochs=1))
    assert json.loads((run.folder / "metrics.json").read_text())["best"]["chosen_on"] == "test"
    assert [row["train_images"] for row in run.metrics["per_class"]] == list(COUNTS)


def test_a_trusted_list_may_name_images_elsewhere(keys: Keys, data: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        files = sorted((Path(data).parent / split).rglob("*.png"))
        lines = [f"{file} {file.parent.name.removeprefix('class')}" for file in files]
        (tmp_path / "set" / f"{split}.txt").write_text("\n".join(lines))
    lists = {"task": "classify", "format": "list", "path": "set", "train": "train.txt", "test": "test.txt"}
    (tmp_path / "lists.yaml").write_text(yaml.safe_dump(lists))
    given = keys(data=str(tmp_path / "lists.yaml"), epochs=1)
    with pytest.raises(InputError, match="allow_outside=true"):
        iifdet.train(**given)
    run = iifdet.train(**given, allow_outside=True)
    check = {"weights": run.folder / "weights" / "last.pt", "project": tmp_path, "device": "cpu", "plots": False}
    with pytest.raises(InputError, match="allow_outside=true"):  # a checkpoint trusts no list
        iifdet.val(**check)
    assert iifdet.val(**check, allow_outside=True).metrics["top1"] == run.metrics["top1"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_too_many_images_that_cannot_be_read_end_the_run_in_one_line(
    keys: Keys, data: str, tmp_path: Path, split: str, workers: int
) -> None:
    copied = Path(shutil.copytree(Path(data).parent, tmp_path / "copy"))
    for file in list((copied / split).rglob("*.png"))[::3]:
        file.write_bytes(file.read_bytes()[:60])
    given = keys(data=str(copied / "data.yaml"), cache=False, epochs=1, workers=workers, select_on="test")
    with pytest.raises(InputError, match=r"at most 5\.0% images that cannot be read, .* or raise max_bad$") as caught:
        iifdet.train(**given)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_as_many_as_max_bad_lets_be_are_replaced_and_each_is_said(
    keys: Keys, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = Path(shutil.copytree(Path(data).parent, tmp_path / "copy"))
    for file in ("train/class0/3.png", "test/class1/2.png"):
        (copied / file).write_bytes(b"no image")
    given = keys(data=str(copied / "data.yaml"), cache=False, max_bad=0.1, select_on="test")
    with caplog.at_level("WARNING", "iifdet"):
        run = iifdet.train(**given)
    assert run.metrics["images"] == 15 and run.metrics["notices"] == [
        "1 of 15 images could not be read: grey ones were scored in their place; iifdet check names them"
    ]
    assert [line.partition(" one used")[0] for line in caplog.messages if "unreadable" in line] == [
        "unreadable image, next",
        "unreadable image, grey",
    ], "once each, in two epochs"


@pytest.mark.parametrize("cache", ["device", False])
def test_a_resumed_run_comes_to_the_same_bits(keys: Keys, cache: Any) -> None:
    whole = iifdet.train(**keys(cache=cache, ema=0.9, name="whole"))

    class Stop(Callback):
        def on_step(self, state: Any, losses: Any, lr: float, batches: int) -> None:
            if (state.epoch, state.batch) == (1, 2):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iifdet.train([Stop()], **keys(cache=cache, ema=0.9, name="cut", save_steps=1))
    project = Path(keys()["project"])
    resumed = iifdet.train(resume=str(project / "cut"))
    one, other = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_decoupled_leaves_all_but_the_class_rows_bit_identical(keys: Keys) -> None:
    first = iifdet.train(**keys(epochs=1))
    second = keys(
        **{"strategy": "decoupled", "adjust": "iif", "epochs": 2, "weights": str(first.folder / "weights" / "last.pt")}
    )
    run = iifdet.train(**{**second, "name": "second"})
    before, after = weights_of(first), weights_of(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "adjust.scale"}
    published = iifdet.train(**{**second, "name": "published", "frozen_bn": "train"})
    moved = {name for name in before if not torch.equal(before[name], weights_of(published)[name])}
    assert {"head.weight"} < moved
    assert all(n.startswith(("head.", "adjust.")) or n.rpartition(".")[2] in STATISTICS for n in moved)
    again = iifdet.train(**{**second, "name": "again", "reinit": True, "lr": 1e-9})
    cosines = torch.cosine_similarity(weights_of(again)["head.weight"], before["head.weight"])
    assert cosines.max() < 0.9


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_logarithms_of_any_base_rank_alike_after_training(keys: Keys) -> None:
    run = iifdet.train(**keys(epochs=1))
    weights = str(run.folder / "weights" / "last.pt")
    found = {
        variant: iifdet.val(
            weights=weights, adjust="iif", variant=variant, plots=False, device="cpu", workers=0, project=run.folder
        )
        for variant in ("raw", "base2", "base10", "smooth")
    }
    orders = {
        v: [row["classes"] for row in json.loads((r.folder / "predictions.json").read_text())] for v, r in found.items()
    }
    assert orders["raw"] == orders["base2"] == orders["base10"]


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "cost_sensitive", "adjust": "iif"},
        {"adjust": "iif"},
        {"adjust": "la"},
        {"adjust": "bsce"},
        {"adjust": "iif", "source": "batch"},
        {"adjust": "iif", "strategy": "post_process"},
        {"sampling": "class_aware"},
        {"model_args.class_loss": "bce"},
        {"optimizer": "adamw", "lr": 0.001},
    ],
)
def test_every_strategy_trains(keys: Keys, change: dict[str, Any]) -> None:
    run = iifdet.train(**keys(epochs=1, **change))
    assert np.isfinite(float(list(csv.DictReader((run.folder / "results.csv").open()))[-1]["loss"]))
    assert run.metrics["top1"] is not None


def test_pictures_are_drawn(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    captions, write = [], class_pictures.plots.add_caption
    monkeypatch.setattr(
        class_pictures.plots, "add_caption", lambda i, lines: (captions.append(lines), write(i, lines))[1]
    )
    run = iifdet.train(**keys(epochs=1, plots=True))
    drawn = {file.name for file in run.folder.glob("*.*")}
    alone = [lines[0][0] for lines in captions if len(lines) == 1]  # not the two of mixup, and not predictions
    assert alone == ["class0", "class1", "class2"] * 5, "the classes of an ordered split take turns"
    assert {"labels.png", "train_batch0.jpg", "val_batch0_pred.jpg", "confusion_matrix.png", "results.png"} <= drawn


def test_the_line_of_an_epoch_says_the_accuracy(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "iifdet"):
        run = iifdet.train(**keys(epochs=1, verbose=True))
    row = next(csv.DictReader((run.folder / "results.csv").open()))
    assert f"top1 {float(row['top1']):.3f}, mean_class {float(row['mean_class']):.3f}, " in caplog.text


def test_a_study_knows_the_figures_of_classifiers(keys: Keys) -> None:
    config = resolve(TrainConfig, keys(holdout=0.2))
    train, val = (build.build_index(config, split, "classify") for split in ("train", "val"))
    assert len(train) + len(val) == sum(COUNTS)
    metrics = blank_metrics(config, train.counts(), val, "classify")
    assert metrics["mean_class"] == pytest.approx(1 / 3)


def test_a_study_maximises_the_mean_class_accuracy_unless_told_otherwise(keys: Keys) -> None:
    study = {
        k: v for k, v in keys(space="optimizer", split="holdout:0.25").items() if k not in ("lr", "workers", "name")
    }
    assert [o.text for o in build_study(study, iifdet.train).objectives] == ["mean_class"]
    (other,) = build_study({**study, "objective": "-1*nll", "study": "other"}, iifdet.train).objectives
    assert other.weights == {"nll": -1.0}


def test_a_space_of_keys_that_a_classifier_ignores_is_refused_before_the_first_training(
    keys: Keys, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text("hsv_h: {type: float, low: 0.0, high: 0.1}")
    study = {k: v for k, v in keys(space=str(tmp_path / "space.yaml")).items() if k not in ("workers", "name")}
    with pytest.raises(InputError, match=r"^space: hsv_h=0\.0: hsv_h: belongs to detectors"):
        build_study(study, iifdet.train)


def test_adjustments_are_searched_on_the_images_that_the_run_left_out(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    run = iifdet.train(**keys(select_share=0.25, imbalance=6, group_limits=[5, 16]))
    weights, project = str(run.folder / "weights" / "last.pt"), keys()["project"]
    study = {"post_process": True, "weights": weights, "project": project, "threads": 1, "device": "cpu"}
    result = iifdet.tune(**study, study="s", trials=3)
    assert result.objectives == ("mean_class",) and result.counts["complete"] == 3
    assert result.tuned_on == "9 training images held out (holdout:0.25)" and "was trained on" not in caplog.text
    found, look = (
        result.best[0],
        {"weights": weights, "plots": False, "workers": 0, "device": "cpu", "project": project},
    )
    held = iifdet.val(**look, holdout=0.25, imbalance=6, **found.params)
    assert found.values["mean_class"] == held.metrics["mean_class"] and found.figures["few"] == held.summary["few"]
    assert list(result.val) == [
        "no adjustment",
        "IIF smooth, the paper's",
        "IIF smooth with mean 1",
        f"trial {found.number}",
    ]
    for name, how in (("no adjustment", {"adjust": "none"}), ("IIF smooth, the paper's", {"adjust": "iif"})):
        summary = iifdet.val(**look, **how).summary
        assert result.val[name] == pytest.approx({k: summary[k] for k in result.val[name]}, rel=1e-4)
    assert result.reported == "test" and any(line.startswith("test, no adjustment: ") for line in result.lines())
    assert not {"by", "normalizer", "bg_scale"} & set(found.params)
    best = resolve(TrainConfig, {"model": str(result.folder / "best.yaml")})
    assert best.model == "se_resnet20" and best.imbalance == 6 and best.adjust == found.params["adjust"]
    build_adjustment_study({**study, "study": "seen", "split": "holdout:0.4"})
    assert "was trained on the images" in caplog.text


def test_two_runs_are_compared_image_by_image(keys: Keys, tiny_keys: Keys, tmp_path: Path) -> None:
    runs = [iifdet.train(**keys(name=name, epochs=1, seed=seed)) for name, seed in (("one", 0), ("two", 1))]
    found = iifdet.compare([run.folder for run in runs], draws=200)
    assert list(found.rows[0].values)[:3] == ["top1", "top5", "mean_class"]
    gain = 100 * (runs[1].metrics["top1"] - runs[0].metrics["top1"])
    assert found.rows[1].differences["top1"] == pytest.approx(gain)
    assert found.analysis is not None and not found.notices
    first, second = found.analysis.kinds["images"]
    for run, mine in zip(runs, (first, second), strict=True):
        for figure in ("top1", "mean_class", "many", "medium", "few"):
            measured = run.metrics["groups"][figure] if figure in run.metrics["groups"] else run.metrics[figure]
            assert mine.figures[figure].value == pytest.approx(measured), figure
        assert mine.per_class.tolist() == pytest.approx([row["accuracy"] for row in run.metrics["per_class"]])
        assert mine.calibration["all"].ece == pytest.approx(run.metrics["ece"], abs=1e-5)
    assert 100 * second.differences["top1"].value == pytest.approx(gain)
    assert second.mcnemar["all"].second - second.mcnemar["all"].first == round(gain / 100 * 15)
    assert first.tide is None and not first.fixed and not first.mcnemar
    out = iifdet.compare([run.folder for run in runs], draws=50, project=tmp_path / "out").folder
    assert out is not None
    drawn = {file.stem for file in out.glob("*.png")}
    assert drawn >= {"difference", "intervals", "reliability"} and "errors" not in drawn
    assert "weight_norms" not in drawn, "the rows of a cosine head have no lengths that count"
    assert "two accuracy" in (out / "classes.csv").read_text()
    assert "on images classified right" in (out / "report.html").read_text()
    (runs[1].folder / "predictions.json").unlink()
    assert "no intervals" in iifdet.compare([run.folder for run in runs]).notices[-1]
    detector = iifdet.train(**tiny_keys(tmp_path, epochs=1, name="detector"))
    with pytest.raises(InputError, match="one task"):
        iifdet.compare([runs[0].folder, detector.folder])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mosaic": 1.0}, "mosaic: belongs to detectors"),
        *[({key: 0.05}, f"{key}: belongs to detectors") for key in ("hsv_h", "hsv_s", "hsv_v", "translate", "scale")],
        ({"degrees": 10}, "degrees: belongs to detectors"),
        ({"shear": 2}, "shear: belongs to detectors"),
        ({"conf": 0.5}, "conf: belongs to detectors"),
        ({"imgsz": 96, "cache": False, "auto_augment": "none"}, "cutout: expected 0 with imgsz=96, .* give cutout=0"),
        (
            {"imgsz": 96, "cache": False, "auto_augment": "none", "cutout": 0, "crop_padding": 8},
            "crop_padding: expected 0 with imgsz=96",
        ),
        ({"cache": "ram"}, "cache: expected false or device"),
        ({"select_on": "val"}, "select_on: expected one of holdout, test"),
        ({"auto_augment": "imagenet"}, "auto_augment: expected one of none, cifar10, got 'imagenet'; use one of these"),
        ({"batch": "auto"}, "batch: auto measures detectors"),
        ({"data": "demo"}, "task: classify"),
        (
            {"auto_augment": "cifar10", "cutout": 0, "imgsz": 96, "cache": False},
            "auto_augment: .*'cifar10'; use one of these",
        ),
        ({"imgsz": 64}, "imgsz: expected 32 .* got 64; use cache=false, or imgsz=32"),
        ({"model_args.head": "round"}, "head: expected one of"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    keys: Keys, change: dict[str, Any], said: str
) -> None:
    given = keys(**change)
    with pytest.raises(InputError, match=said):
        iifdet.train(**given)
    assert not (Path(given["project"]) / "run").exists()


def test_keys_of_small_images_that_say_nothing_stand_beside_photographs(keys: Keys) -> None:
    for padding in (0, 4):
        refuse_boxes(resolve(TrainConfig, keys(imgsz=96, cache=False, cutout=0, crop_padding=padding)))
    refuse_boxes(resolve(TrainConfig, keys(imgsz=96, cache="device", cutout=8)))


def test_val_refuses_keys_of_detectors(keys: Keys) -> None:
    weights, project = str(iifdet.train(**keys(epochs=1)).folder / "weights" / "last.pt"), Path(keys()["project"])
    for change in ({"conf": 0.5}, {"iou": 0.5}, {"rect": True}, {"engine": "pycocotools"}):
        with pytest.raises(InputError, match=f"^{next(iter(change))}: belongs to detectors, got it with a classifier"):
            iifdet.val(weights=weights, project=project, name="val", device="cpu", **change)
    assert not (project / "val").exists()


def test_keys_of_classifiers_are_refused_beside_a_detector(tiny_keys: Keys, tmp_path: Path) -> None:
    for change in ({"cutout": 8}, {"select_on": "test"}, {"imbalance": 10}, {"cache": "device"}):
        with pytest.raises(InputError, match=f"{next(iter(change))}:"):
            iifdet.train(**tiny_keys(tmp_path, **change))


@pytest.mark.parametrize("name", [name for name in resource_names("cfg") if name.startswith("classify/")])
def test_a_recipe_names_a_classifier_and_known_options(name: str) -> None:
    config = resolve(TrainConfig, {"model": name})
    assert build.task_of_model(config.model) == "classify"
    assert set(config.model_args) <= model_options(config.model)
    refuse_boxes(config)
    assert train_transform(config) and config.group_limits is None
