"""Verbs on classifiers and their data, from keys to files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from classification_data import TRAIN, write_folders

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.classifiers import Classifier
from iifdet.datasets.classification import exponential_profile
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts, iif_weights
from iifdet.models import create_model
from iifdet.prediction import Classified

NAMES = ["ant", "bee", "cow", "dog"]
SIDE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier whose statistics are lively."""
    torch.manual_seed(0)
    model: Classifier = create_model("se_resnet20", len(NAMES), width=0.5, head="cosine")
    counts = torch.from_numpy(exponential_profile(100, len(NAMES), 20))
    model.names, model.counts = NAMES, ClassCounts(NAMES, counts, counts, num_images=int(counts.sum()))
    for _ in range(3):
        model.train()(torch.rand(8, 3, SIDE, SIDE), torch.arange(8) % 4)
    path = tmp_path_factory.mktemp("run") / "weights" / "last.pt"
    save_checkpoint(path, model.eval(), recipe={"imgsz": SIDE, "model": "se_resnet20", "batch": 3})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(SIDE, SIDE), (SIDE, SIDE), (40, 60)]):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def scores_of(checkpoint: Path, files: list[Path]) -> torch.Tensor:
    """By hand: resize, normalise, network, softmax."""
    model = iifdet.load(checkpoint)
    images = [cv2.imread(str(f))[..., ::-1] for f in files]
    batch = torch.stack([torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1))).float() / 255 for i in images])
    with torch.no_grad():
        return model(batch).softmax(dim=1)


def test_predictions_are_the_model_s_scores_best_first(checkpoint: Path, photos: Path) -> None:
    files = [photos / "0.png", photos / "1.png"]
    results: list[Any] = iifdet.predict([str(f) for f in files], weights=str(checkpoint))
    for result, expected in zip(results, scores_of(checkpoint, files), strict=True):
        assert isinstance(result, Classified) and len(result) == 4
        assert result.labels.tolist() == expected.argsort(descending=True).tolist()
        torch.testing.assert_close(result.scores, expected[result.labels], rtol=1e-4, atol=1e-5)
        assert result.found == [result.classes[0]] == [NAMES[int(expected.argmax())]]
        assert result.pixels is None and result.image.shape == (SIDE, SIDE, 3)
        assert f"{result.classes[0]} {float(result.scores[0]):.2f}" in result.describe()


def test_a_folder_becomes_json_csv_text_and_pictures(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    keys = {"weights": str(checkpoint), "project": str(tmp_path), "name": "p", "save_csv": True, "save_txt": True}
    results: list[Any] = iifdet.predict(str(photos), save=True, save_json=True, top=2, **keys)
    assert len(results) == 3, "the one that is no image is left out"
    content = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert content["names"] == NAMES
    for image, result in zip(content["images"], results, strict=True):
        assert image["file_name"] == result.path and image["classes"] == result.classes and len(image["labels"]) == 2
        assert image["scores"] == pytest.approx(result.scores.tolist(), abs=1e-6)
        assert (tmp_path / "p" / image["picture"]).is_file()
    assert (content["images"][2]["height"], content["images"][2]["width"]) == (40, 60)
    rows = list(csv.DictReader((tmp_path / "p" / "predictions.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2"] * 3 and rows[0]["name"] == results[0].classes[0]
    line = (tmp_path / "p" / "labels" / "0.txt").read_text().splitlines()[0]
    assert line == f"{float(results[0].scores[0]):.6f} {results[0].classes[0]}"
    picture = cv2.imread(str(tmp_path / "p" / "pictures" / "0.jpg"))
    assert picture.shape[1] == 256 and picture.shape[0] > 256, "enlarged, with the classes below"


def test_the_command_line_counts_images_by_class(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from iifdet.cli import main

    code = main(["predict", f"weights={checkpoint}", f"source={photos}", f"project={tmp_path}", "save=false"])
    assert code == 0
    said = capsys.readouterr().out
    assert said.startswith("3 images (") and "detections" not in said


def test_only_some_classes_and_a_video_s_frames(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    some: list[Any] = iifdet.predict(str(photos / "0.png"), weights=str(checkpoint), classes=["cow", 0])
    expected = scores_of(checkpoint, [photos / "0.png"])[0]
    assert set(some[0].classes) == {"ant", "cow"}
    torch.testing.assert_close(some[0].scores, expected[some[0].labels], rtol=1e-4, atol=1e-5)
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))  # type: ignore[attr-defined]
    for shade in (10, 120, 250):
        video.write(np.full((48, 64, 3), shade, np.uint8))
    video.release()
    keys = {"weights": str(checkpoint), "project": str(tmp_path), "name": "v"}
    frames: list[Any] = iifdet.predict(str(tmp_path / "v.avi"), save=True, **keys)
    assert [r.frame for r in frames] == [0, 1, 2] and frames[0].saved.is_file()


def test_adjust_weighs_the_logits_of_a_loaded_model_and_leaves_it_as_it_is(checkpoint: Path, photos: Path) -> None:
    model = iifdet.load(checkpoint)
    image = cv2.imread(str(photos / "0.png"))[..., ::-1].copy()
    plain: list[Any] = iifdet.predict(image, model=model)
    weighed: list[Any] = iifdet.predict(image, model=model, adjust="iif")
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255
    with torch.no_grad():
        logits = model.raw(tensor)[0] * iif_weights(model.counts).float()
    torch.testing.assert_close(weighed[0].scores, logits.softmax(0)[weighed[0].labels], rtol=1e-4, atol=1e-5)
    assert plain[0].scores.tolist() != weighed[0].scores.tolist() and model.adjust.is_identity
    assert weighed[0].pixels is not None, "an array has no file to be read again"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"conf": 0.5}, "conf: belongs to detectors, got it with a classifier; drop it"),
        ({"rect": True}, "rect: belongs to detectors"),
        ({"classes": "emu"}, "classes: expected names of the model's classes, got 'emu'"),
        ({"top": 0}, "top"),
        ({"source": "nowhere"}, "source: expected"),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_written(
    checkpoint: Path, photos: Path, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    given = {"source": str(photos), "weights": str(checkpoint), "project": str(tmp_path / "runs"), "save": True, **keys}
    with pytest.raises(InputError, match=message):
        iifdet.predict(**given)
    assert not (tmp_path / "runs").exists()


def test_top_is_refused_for_detectors() -> None:
    detector = create_model("yolov3-nano", 3).eval()
    with pytest.raises(InputError, match="top: belongs to classifiers"):
        iifdet.predict(np.zeros((64, 64, 3), np.uint8), model=detector, top=3)


def test_a_diverged_model_is_said_to_be_one(checkpoint: Path) -> None:
    model = iifdet.load(checkpoint)
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="expected finite scores, got NaN"):
        iifdet.predict(np.zeros((SIDE, SIDE, 3), np.uint8), model=model)


# -- stats -------------------------------------------------------------------------------------------------------------


def test_stats_of_images_with_one_label_leave_out_what_boxes_would_say(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(write_folders(tmp_path / "data")))
    found = iifdet.stats(data=str(tmp_path / "mine.yaml"), project=str(tmp_path / "runs"))
    rows = found.table()
    assert [row["images"] for row in rows] == list(TRAIN) and "instances" not in rows[0]
    assert rows[0]["smooth"] == pytest.approx(float(iif_weights(found.counts)[0]), abs=1e-4)
    assert {"labels.png", "weights.png", "classes.csv", "stats.json"} <= {p.name for p in found.folder.iterdir()}
