"""Adjustments searched on cached predictions: the same figures as ``val`` gives, and reported once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import iifdet
from iifdet.build.adjustment_study import build_adjustment_study
from iifdet.config import TrainConfig, read_yaml, resolve
from iifdet.detectors import DETECTORS
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.tuning import RawCache, StudyResult
from iifdet.types import Batch, ImageInfo

Keys = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_keys: Keys) -> str:
    """The last.pt of a run that held a quarter of its images out."""
    run = iifdet.train(**tiny_keys(tmp_path_factory.mktemp("run"), adjust="none", holdout=0.25, epochs=6))
    return str(run.folder / "weights" / "last.pt")


@pytest.fixture(scope="module")
def result(trained: str, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return iifdet.tune(
        post_process=True, weights=trained, trials=5, project=str(tmp_path_factory.mktemp("tune")), study="s", threads=1
    )


def test_trials_and_report_have_the_figures_of_val(result: StudyResult, trained: str, tmp_path: Path) -> None:
    assert result.counts["complete"] == 5
    keys = {"weights": trained, "workers": 0, "plots": False, "project": str(tmp_path)}
    best = result.best[0].params
    held = iifdet.val(**keys, holdout=0.25, **best)
    assert result.best[0].values["AP"] == held.metrics["AP"]
    for name, how in (("IIF smooth, the paper's", {"adjust": "iif"}), (f"trial {result.best[0].number}", best)):
        val = iifdet.val(**keys, **how)
        figures = {k: v for k, v in val.metrics.items() if k in ("AP", "AP50")}
        assert {k: result.val[name][k] for k in figures} == figures
        assert result.val[name]["tail5"] == val.metrics["tail5"]["image"]


def test_the_first_trial_is_the_papers_and_adjustments_differ(result: StudyResult) -> None:
    assert len({json.dumps(figures) for figures in result.val.values()}) > 1
    assert result.apply.startswith("iifdet val weights=")


def test_val_is_looked_at_once(result: StudyResult, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object) -> None:
        raise AssertionError("the network ran again")

    monkeypatch.setattr("iifdet.build.adjustment_study._collect", again)
    keys = {"post_process": True, "weights": trained, "trials": 5, "project": str(result.folder.parent), "study": "s"}
    assert iifdet.tune(**keys, threads=1).val == result.val


def test_best_is_a_recipe_for_softmax_training_with_that_adjustment_afterwards(result: StudyResult) -> None:
    recipe = read_yaml(result.folder / "best.yaml")
    config = resolve(TrainConfig, {"model": str(result.folder / "best.yaml")})
    best = result.best[0].params
    assert config.adjust == best["adjust"] and config.holdout == 0 and config.imgsz == 64
    assert config.strategy == ("end_to_end" if best["adjust"] == "none" else "post_process")
    assert recipe["tuned"]["on"] == "holdout:0.25"


def test_images_the_model_was_trained_on_are_said_to_be_that(
    trained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"post_process": True, "weights": trained, "project": str(tmp_path)}
    build_adjustment_study({**keys, "study": "a"})
    assert "was trained on the images" not in caplog.text
    build_adjustment_study({**keys, "study": "b", "split": "holdout:0.4"})
    assert "was trained on the images" in caplog.text


def test_a_run_on_a_part_of_the_images_is_judged_on_what_it_held_out_of_that_part(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, adjust="none", fraction=0.5, holdout=0.25, epochs=1))
    weights = str(run.folder / "weights" / "last.pt")
    keys = {"post_process": True, "weights": weights, "project": str(tmp_path)}
    plan = build_adjustment_study({**keys, "study": "a"})
    held_out = iifdet.val(weights=weights, holdout=0.25, fraction=0.5, plots=False, workers=0, project=str(tmp_path))
    assert plan.tuned_on.startswith(f"{held_out.metrics['images']} training images held out")
    assert "was trained on the images" not in caplog.text
    build_adjustment_study({**keys, "study": "b", "fraction": 1.0})
    assert "was trained on the images" in caplog.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weights": None}, "weights: expected a checkpoint for post_process"),
        ({"weights": "nowhere.pt"}, "weights: "),
        ({"space": "optimizer"}, "space: unknown key '.*' of an adjustment"),
        ({"objective": "tail7"}, "objective: unknown metric 'tail7'"),
        ({"pruner": "median"}, "pruner: expected none"),
        ({"lr": 0.1}, "lr: unknown key"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    keys: dict[str, Any], message: str, trained: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        build_adjustment_study({"post_process": True, "weights": trained, "project": str(tmp_path), **keys})
    assert list(tmp_path.iterdir()) == []


OPTIONS = {"fasterrcnn": {"min_size": 64, "max_size": 96}, "retinanet": {"min_size": 64, "max_size": 96}}


@pytest.mark.parametrize("name", ["yolov3-nano", "ssd300", "fasterrcnn", "retinanet"])
def test_a_cache_gives_the_models_own_detections_back(name: str, tmp_path: Path) -> None:
    assert name in DETECTORS
    torch.manual_seed(0)
    model = create_model(name, 3, **OPTIONS.get(name, {})).eval()
    images = torch.rand(2, 3, 64, 64)
    infos = [ImageInfo(7 + i, i, f"{i}.png", (32, 48), (2.0, 1.5), (0.0, 3.0)) for i in range(2)]
    cache = RawCache.collect(model, [Batch(images, [{}, {}], infos)], torch.device("cpu"))  # type: ignore[list-item]
    cache.save(tmp_path / "raw.pt")
    model.set_adjustment(torch.tensor([0.5, 1.0, 2.0]), when="infer")
    with torch.inference_mode():
        expected = model(images)
        (raw, batch), *rest = RawCache.load(tmp_path / "raw.pt").batches(2)
        found = model.postprocess(model.adjusted(raw))[0]
    assert batch.infos == infos and not rest
    assert sum(len(d["scores"]) for d in expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a["labels"], b["labels"])  # softmax rounds with the number of rows
        torch.testing.assert_close((a["boxes"], a["scores"]), (b["boxes"], b["scores"]), rtol=1e-5, atol=1e-6)


def test_rows_that_no_class_can_lift_above_conf_are_not_kept() -> None:
    torch.manual_seed(0)
    model = create_model("yolov3-nano", 3).eval()
    batch = Batch(torch.rand(1, 3, 64, 64), [{}], [ImageInfo(0, 0, "0.png", (64, 64))])  # type: ignore[list-item]
    with torch.inference_mode():
        objectness = model.raw(batch.images)[0].objectness.sigmoid()
    rows = []
    for conf in (0.0, float(objectness.median()), 1.0):
        model.options = dataclasses.replace(model.options, conf=conf)
        rows.append(len(RawCache.collect(model, [batch], torch.device("cpu")).raw[0].class_logits))
    assert rows == [len(objectness), int((objectness > objectness.median()).sum()), 0]
