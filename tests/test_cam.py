"""The verb cam: sheets and maps of several models, every choice of target, and every way to be wrong."""

from __future__ import annotations

import json
import runpy
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from explaining_models import enliven

import iifdet
from iifdet.build.explainer import prepare_image
from iifdet.checkpoint import save_checkpoint
from iifdet.cli import main
from iifdet.datasets import EvalTransform, load_index
from iifdet.detectors.darknet_weights import save_darknet
from iifdet.errors import InputError
from iifdet.explaining import CamColumn, CamJob, Choice
from iifdet.explaining.job import CamTask
from iifdet.models import create_model

NAMES = ["red", "green", "blue", "white"]
NANO: dict[str, Any] = {"width": 0.125, "depth": 0.1}
RCNN: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}
Paths = dict[str, str]


def checkpoint(path: Path, name: str, data: str, names: list[str] = NAMES, seed: int = 0, **args: Any) -> str:
    """A checkpoint of random weights."""
    torch.manual_seed(seed)
    model = enliven(create_model(name, len(names), **args), 64)
    model.names = names
    save_checkpoint(path, model, recipe={"imgsz": 64, "resize": "letterbox", "data": data, "conf": 0.3})
    return str(path)


@pytest.fixture(scope="module")
def files(tiny_data: str, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Checkpoints a, b (other weights), c (other classes) and rcnn, and one image of the tiny data set, 64x48."""
    root = tmp_path_factory.mktemp("cam")
    made = {
        "a": checkpoint(root / "a.pt", "yolov3-nano", tiny_data, **NANO),
        "b": checkpoint(root / "b.pt", "yolov3-nano", tiny_data, seed=1, **NANO),
        "c": checkpoint(root / "c.pt", "yolov3-nano", tiny_data, names=["cat", "dog"], **NANO),
        "rcnn": checkpoint(root / "rcnn.pt", "maskrcnn", tiny_data, **RCNN),
        "data": tiny_data,
    }
    made["image"], made["film"] = str(root / "photo.png"), str(root / "film.mp4")
    Path(made["film"]).touch()
    cv2.imwrite(made["image"], np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    return made


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    def go(**keys: Any) -> Any:
        return iifdet.cam(**{"conf": 0.0005, "device": "cpu", "project": str(tmp_path), "plots": False, **keys})

    return go


def test_a_trusted_annotation_file_may_name_images_elsewhere(files: Paths, tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    document = {
        "images": [{"id": 1, "width": 64, "height": 48, "file_name": files["image"]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30]}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }
    (tmp_path / "set" / "val.json").write_text(json.dumps(document))
    val = {"images": "images", "annotations": "val.json"}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"format": "coco", "path": "set", "val": val}))
    keys: dict[str, Any] = {"weights": files["a"], "data": str(tmp_path / "data.yaml"), "gt": 1, "device": "cpu"}
    with pytest.raises(InputError, match="allow_outside=true"):
        iifdet.cam(**keys, project=tmp_path)
    found = iifdet.cam(**keys, project=tmp_path, plots=False, allow_outside=True)
    assert [sheet.file for sheet in found.sheets] == [files["image"]]


def test_a_sheet_and_maps_in_the_image_s_pixels_for_each_image(files: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for copy in ("photo.png", "other.png"):
        shutil.copy(files["image"], folder / copy)
    (folder / "broken.png").write_bytes(b"no image")
    found = iifdet.cam(
        weights=f"{files['a']},{files['b']}", source=str(folder), conf=0.0005, project=str(tmp_path), device="cpu"
    )
    assert [Path(sheet.file).name for sheet in found.sheets] == ["other.png", "photo.png"]  # the broken one is left out
    sheet = found.sheets[1]
    assert sheet.picture is not None and cv2.imread(str(sheet.picture)).shape[1] > 800  # two columns
    maps = sheet.load()
    for name in ("confidence", "class_map", "class_score", "cam"):
        assert maps[name].shape == (2, 48, 64) and np.isfinite(maps[name]).all(), name
    assert maps["model"].tolist() == ["a.pt", "b.pt"] and maps["box"].shape == (2, 4)
    assert (
        (maps["box"][:, 2:] <= [64, 48]).all() and (maps["cam"] >= 0).all() and (maps["cam"].max(axis=(1, 2)) > 0).all()
    )
    assert [NAMES[label] for label in maps["label"]] == maps["class_name"].tolist()
    assert set(maps["layer"]) <= {"stride32", "stride16", "stride8"} and maps["method"][0] == "gradcam"
    assert not np.array_equal(maps["cam"][0], maps["cam"][1])


def test_a_sheet_is_an_array_a_picture_of_any_kind_and_coco_dicts(
    files: Paths, run: Callable[..., Any], tmp_path: Path
) -> None:
    weights = f"{files['a']},{files['b']}"
    sheet = run(weights=weights, source=files["image"], plots=True).sheets[0]
    drawn = sheet.plot()
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    saved = cv2.imread(str(sheet.save(tmp_path / "sheet.jpg")))
    assert saved.shape == drawn.shape and np.abs(saved[..., ::-1].astype(int) - drawn).mean() < 5
    rows, maps = sheet.to_coco(image_id=7), sheet.load()
    assert [row["model"] for row in rows] == ["a.pt", "b.pt"] and {row["image_id"] for row in rows} == {7}
    for row, box, score in zip(rows, maps["box"], maps["score"], strict=True):
        x, y, w, h = row["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], box, rtol=1e-6)
        assert row["score"] == pytest.approx(float(score))
    with pytest.raises(InputError, match="suffix"):
        sheet.save(tmp_path / "sheet.txt")
    undrawn = run(weights=weights, source=files["image"], conf=0.99, name="undrawn").sheets[0]
    assert undrawn.to_coco() == []
    with pytest.raises(InputError, match="plots: expected true"):
        undrawn.plot()


def test_nothing_to_explain_is_one_line_and_a_sheet_that_says_so(
    files: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"weights={files['a']}", f"source={files['image']}", "conf=0.99", f"project={tmp_path}", "device=cpu"]
    assert main(["cam", *words, "name=none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("photo.png: a.pt: nothing to explain: no detection above conf 0.99") and len(lines) == 2
    with np.load(tmp_path / "none" / "photo.npz") as maps:
        assert np.isnan(maps["cam"]).all() and maps["label"].tolist() == [-1] and np.isnan(maps["box"]).all()
        assert np.isfinite(maps["confidence"]).all()
    assert (tmp_path / "none" / "photo.png").stat().st_size > 10_000


def test_targets_by_number_class_ground_truth_and_cell(files: Paths, run: Callable[..., Any]) -> None:
    def one(**keys: Any) -> dict[str, Any]:
        maps = run(**{"weights": files["a"], "source": files["image"], **keys}).sheets[0].load()
        return {name: value[0] for name, value in maps.items() if value.ndim}

    first, second = one(), one(detection=2)
    assert first["score"] >= second["score"] and (first["row"], first["label"]) != (second["row"], second["label"])
    assert one(category="white")["class_name"] == "white"
    index = load_index(files["data"], "val")
    truth = one(source=index.files[0], gt=1)
    where = index.boxes_of(0).start
    assert truth["label"] == index.labels[where] and "ground truth" in truth["note"]
    x1, y1, x2, y2 = truth["box"]
    assert x1 < index.boxes[where, 2] and x2 > index.boxes[where, 0] and y1 < index.boxes[where, 3] and y2 > y1
    assert one(source=index.files[0], gt=1, category="blue")["class_name"] == "blue"
    at = one(cell=[40, 10], conf=0.99)  # a place has a score though nothing is detected
    assert np.isfinite(at["cam"]).all() and at["note"] == "cell at (40, 18)"


@pytest.mark.parametrize("method", ["gradcam++", "layercam", "eigencam"])
def test_mask_rcnn_is_explained_on_the_cpu_by_every_method(files: Paths, run: Callable[..., Any], method: str) -> None:
    maps = (
        run(weights=files["rcnn"], source=files["image"], method=method, layer="all", scalar="score").sheets[0].load()
    )
    assert maps["layer"][0] == "backbone+fpn" and maps["method"][0] == method
    assert maps["cam"].shape == (1, 48, 64) and maps["cam"].max() > 0


def test_images_of_which_none_can_be_read_are_refused(files: Paths, run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="source: expected images that can be read, got 1 of which not one can be"):
        run(weights=files["a"], source=tmp_path / "broken.png")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.png"], "nothing was written"


def test_deletion_and_insertion_curves_stand_on_the_sheet_and_in_the_maps(
    files: Paths, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run(weights=files["a"], source=files["image"], plots=True).sheets[0]
    found = run(weights=f"{files['a']},{files['b']}", source=files["image"], curves=4, plots=True)
    maps, sheet = found.sheets[0].load(), found.sheets[0]
    assert maps["deletion"].shape == maps["chance_insertion"].shape == (2, 5)
    for first, last in (("deletion", "insertion"), ("chance_deletion", "chance_insertion")):
        np.testing.assert_allclose(maps[first][:, 0], maps[last][:, -1], rtol=1e-4)  # the whole image
        np.testing.assert_allclose(maps[first][:, -1], maps[last][:, 0], rtol=1e-4)  # nothing of it
    assert (maps["deletion"] != maps["chance_deletion"]).any() and "deletion" not in plain.load()
    assert "deletion 0." in sheet.lines[0] and "(chance 0." in sheet.lines[0]
    assert cv2.imread(str(sheet.picture)).shape[0] > cv2.imread(str(plain.picture)).shape[0] + 200


def test_images_come_from_the_checkpoint_s_data_where_no_source_is_named(files: Paths, run: Callable[..., Any]) -> None:
    found = run(weights=files["a"], limit=2)
    assert [Path(s.file).name for s in found.sheets] == ["000.png", "001.png"]


def test_images_of_one_name_get_files_of_their_own(files: Paths, run: Callable[..., Any], tmp_path: Path) -> None:
    places = [tmp_path / part / "photo.png" for part in ("x", "y")]
    for place in places:
        place.parent.mkdir()
        shutil.copy(files["image"], place)
    found = run(weights=files["a"], source=[str(p) for p in places])
    assert [s.maps.name for s in found.sheets] == ["photo.npz", "photo-2.npz"]


def test_darknet_weights_are_explained_as_val_evaluates_them(
    files: Paths, run: Callable[..., Any], tmp_path: Path
) -> None:
    save_darknet(iifdet.load(files["a"]), tmp_path / "x.weights")
    keys = {"source": files["image"], "imgsz": 64}
    theirs = run(weights=tmp_path / "x.weights", model="yolov3-nano", model_args=NANO, data=files["data"], **keys)
    assert theirs.sheets[0].explained == [True]
    with pytest.raises(InputError, match="data: expected a description that names the classes"):
        run(weights=tmp_path / "x.weights", model="yolov3-nano", model_args=NANO, data=None, **keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weights": None}, "weights: expected a checkpoint, got none"),
        ({"weights": "absent.pt"}, "absent.pt"),
        ({"weights": "{a},{c}"}, r"models of the same classes, got .*c.pt with 2 \(cat, dog"),
        ({"category": "gren"}, "category: expected a class of the model, got 'gren'; did you mean 'green'"),
        ({"layer": "stride9"}, "layer: expected one of auto, all, stride32"),
        ({"method": "scorecam"}, "method: expected one of gradcam, gradcam\\+\\+, layercam, eigencam"),
        ({"source": "{folder}"}, "source: expected images or videos in .*, found none"),
        ({"source": "absent.png"}, "absent.png.*does not exist"),
        ({"source": "{film}"}, "source: expected images, got the video or camera .*film.mp4; see iifdet predict"),
        ({"gt": 1}, "gt: expected .*photo.png among the images"),
        ({"gt": 1, "cell": [1, 2]}, "cell: expected one of detection, gt and cell, got gt and cell"),
        ({"cell": [99, 2]}, r"cell: expected \[x, y\] inside 64x48 pixels"),
        ({"max_det": 99999}, "max_det: expected"),
        ({"metod": "gradcam"}, "did you mean 'method'"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(
    files: Paths, run: Callable[..., Any], tmp_path: Path, keys: dict[str, Any], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    keys = {k: v.format(**files, folder=tmp_path / "empty") if isinstance(v, str) else v for k, v in keys.items()}
    with pytest.raises(InputError, match=says) as error:
        run(**{"weights": files["a"], "source": files["image"], **keys})
    assert "\n" not in str(error.value)
    assert {p.name for p in tmp_path.iterdir()} == {"empty"}, "nothing was written"


def test_the_tool_takes_models_and_images_as_plain_words(
    files: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [files["a"], files["b"], files["image"], "conf=0.0005", f"project={tmp_path}", "name=tool", "plots=false"]
    tool = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "gradcam.py"))
    assert tool["main"](words) == 0
    assert capsys.readouterr().out.count("photo.png: ") == 2 and (tmp_path / "tool" / "photo.npz").is_file()


@pytest.mark.slow
def test_a_sheet_of_416_pixels_takes_six_seconds_of_computing_at_most(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("yolov3", 80).eval()
    model.options = replace(model.options, conf=1e-4)
    prepare = partial(prepare_image, model=model, transform=EvalTransform(416), device=torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (312, 416, 3), dtype=np.uint8)
    task = CamTask("photo.png", lambda: image, lambda _: Choice())
    job = CamJob([CamColumn("yolov3", model, prepare)], [task], {})
    start = time.process_time()
    assert job.run(lambda: tmp_path).sheets[0].explained == [True]
    first = time.process_time() - start  # with the imports
    start = time.process_time()
    job.run(lambda: tmp_path)
    assert (spent := time.process_time() - start) < 6, f"{spent:.1f} s, {first:.1f} s the first time"
