"""Results in other programs' forms, and the files that a prediction leaves behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import iifdet
from iifdet.cli import main
from iifdet.datasets import load_index
from iifdet.errors import InputError
from iifdet.prediction import Result

pytest_plugins = ["prediction_fixtures"]

Look = Callable[..., list[Result]]
Spot = Callable[..., np.ndarray]
WriteImage = Callable[[Path, np.ndarray], Path]


@pytest.fixture
def ring(bright: Any) -> np.ndarray:
    """(64, 64, 3) with a bright disc, and a detector with masks."""
    bright.has_masks = True
    image = np.zeros((64, 64, 3), np.uint8)
    return cv2.circle(image, (30, 34), 12, (255, 255, 255), -1)


# -- forms -------------------------------------------------------------------------------------------------------------


def test_coco_dicts_hold_boxes_scores_and_masks(look: Look, ring: np.ndarray) -> None:
    (result,) = look(ring)
    first, second = result.to_coco(image_id=7)
    assert (first["image_id"], first["category_id"], second["category_id"]) == (7, 0, 1)
    assert first["bbox"] == [18.0, 22.0, 25.0, 25.0] and first["score"] == pytest.approx(0.9)
    assert json.loads(json.dumps(first)) == first
    truth = ring[..., 0] > 0
    assert np.array_equal(coco_mask.decode(first["segmentation"]), truth)
    assert result.areas()[0] == truth.sum()
    drawn = np.zeros((64, 64), np.uint8)
    for polygon in result.to_coco(masks="polygon")[0]["segmentation"]:
        cv2.fillPoly(drawn, [np.array(polygon, np.int32).reshape(-1, 2)], 1)
    assert np.array_equal(drawn > 0, truth)


def test_yolo_lines_read_back_as_the_same_boxes(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path
) -> None:
    file = write_image(tmp_path / "d" / "images" / "a.png", spot())
    (result,) = look(file, imgsz=128)
    assert [line.split()[5] for line in result.to_yolo(conf=True)] == ["0.900000", "0.500000"]
    labels = tmp_path / "d" / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text("\n".join(result.to_yolo()))
    index = load_index({"path": str(tmp_path / "d"), "train": "images", "names": result.names}, cache_index=False)
    assert index.labels.tolist() == [0, 1]
    assert np.abs(index.boxes - result.boxes.numpy()).max() < 1e-3


def test_supervision_takes_boxes_masks_and_names(look: Look, ring: np.ndarray) -> None:
    sv = pytest.importorskip("supervision")
    with_masks, nothing = look([ring, np.zeros_like(ring)])
    detections = with_masks.to_supervision()
    assert isinstance(detections, sv.Detections) and len(detections) == 2
    assert detections.xyxy[0].tolist() == [18, 22, 43, 47] and detections["class_name"].tolist() == ["spot", "thing"]
    assert np.array_equal(detections.mask[0], ring[..., 0] > 0)
    assert detections[detections.confidence > 0.6].class_id.tolist() == [0]
    assert len(nothing.to_supervision()) == 0


def test_without_supervision_the_error_says_what_to_install(
    look: Look, spot: Spot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        look(spot())[0].to_supervision()


def test_pictures_show_the_boxes_and_never_replace_the_source(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path
) -> None:
    image = spot((40, 30, 80, 60))
    file = write_image(tmp_path / "a.png", image)
    before = file.read_bytes()
    (result,) = look(file, imgsz=128)
    assert result.pixels is None  # a list keeps no pixels that a file has
    drawn = result.plot()
    changed = (drawn != image).any(axis=2)
    assert changed[32:58, 39:41].all() and not changed[64:, :].any() and not changed[35:, 90:].any()
    assert np.array_equal(cv2.imread(str(result.save(tmp_path / "b.png")))[..., ::-1], drawn)
    for bad, says in ((file, "another path than that of the source"), (tmp_path / "c.xyz", "suffix")):
        with pytest.raises(InputError, match=says):
            result.save(bad)
    assert file.read_bytes() == before


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_coco_json_text_csv_and_pictures_for_each_file(
    look: Look, ring: np.ndarray, write_image: WriteImage, tmp_path: Path
) -> None:
    dark, sources = np.zeros((50, 40, 3), np.uint8), tmp_path / "in"
    files = [write_image(sources / name, image) for name, image in [("x/a.png", ring), ("y/a.png", dark)]]
    files += [write_image(sources / "y" / "A.jpg", ring), write_image(sources / "y" / "a.jpg", ring)]
    before = {file: file.read_bytes() for file in files}
    keys: dict[str, Any] = {"save": True, "save_json": True, "save_txt": True, "save_csv": True}
    results = look([str(file) for file in files], project=str(tmp_path), **keys)
    assert {file: file.read_bytes() for file in files} == before
    run = tmp_path / "predict"
    stems = ["a", "a-2", "A-3", "a-4"]
    assert sorted(p.name for p in (run / "labels").iterdir()) == sorted(f"{s}.txt" for s in stems)
    assert [r.saved for r in results] == [run / "pictures" / f"{s}.jpg" for s in stems]
    assert (run / "labels" / "a-2.txt").read_text() == "" and (run / "args.yaml").is_file()
    coco = COCO(str(run / "predictions.json"))
    images = coco.loadImgs([1, 2])
    assert [(i["file_name"], i["height"], i["picture"]) for i in images] == [
        (str(files[0]), 64, "pictures/a.jpg"),
        (str(files[1]), 50, "pictures/a-2.jpg"),
    ]
    assert coco.getCatIds(catNms=["thing"]) == [1] and len(coco.getAnnIds()) == 6 and not coco.getAnnIds(imgIds=2)
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=1))[0]
    assert np.array_equal(coco.annToMask(annotation) > 0, ring[..., 0] > 0)
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[1]["name"] == "thing"
    assert [float(rows[0][k]) for k in ("x1", "y1", "x2", "y2")] == [18, 22, 43, 47]


def test_files_of_a_folder_keep_the_folders_between(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path
) -> None:
    for name in ("a.png", "deep/a.png"):
        write_image(tmp_path / "in" / name, spot())
    look(tmp_path / "in", save=True, project=str(tmp_path), name="run")
    pictures = tmp_path / "run" / "pictures"
    assert sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.jpg")) == ["a.jpg", "deep/a.jpg"]


def test_a_stream_that_is_left_early_has_finished_files(
    bright: Any, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    source = write_video(tmp_path / "v.avi", 30)
    stream: Any = iifdet.predict(
        source, model=bright, imgsz=64, stream=True, save=True, save_json=True, project=str(tmp_path)
    )
    for _ in range(3):
        next(stream)
    stream.close()
    found = json.loads((tmp_path / "predict" / "predictions.json").read_text())
    assert [i["frame"] for i in found["images"]] == [0, 1, 2]
    assert [p.name for p in (tmp_path / "predict" / "pictures").iterdir()] == ["v.mp4"]


def test_exist_ok_takes_over_an_earlier_prediction_and_nothing_else(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path
) -> None:
    first, second = (write_image(tmp_path / "in" / f"{n}.png", spot()) for n in "ab")
    keys: dict[str, Any] = {"save": True, "exist_ok": True, "project": str(tmp_path)}
    look(first, **keys)
    look(second, **keys)
    assert [p.name for p in (tmp_path / "predict" / "pictures").iterdir()] == ["b.jpg"]
    with pytest.raises(InputError, match="sources outside"):
        look(tmp_path / "predict" / "pictures" / "b.jpg", **keys)
    with pytest.raises(InputError, match="exist_ok: expected an empty folder"):
        look(first, **keys, name="in")
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "predict" / "pictures" / "b.jpg").is_file()


def test_nothing_is_written_from_python_unless_asked(
    look: Look, spot: Spot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(look(spot())) == 1 and not list(tmp_path.iterdir())


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_writes_files_counts_bad_ones_and_ends_with_0_or_2(
    tiny_checkpoint: str, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    common = [f"weights={tiny_checkpoint}", "device=cpu", "conf=0", "max_det=3", f"project={tmp_path}"]
    assert main(["predict", f"source=[{tiny_root}/val/000.png, {tmp_path}/bad.jpg]", *common]) == 0
    assert "1 image, 3 detections" in capsys.readouterr().out
    assert (tmp_path / "predict" / "pictures" / "000.jpg").is_file()
    assert len(json.loads((tmp_path / "predict" / "predictions.json").read_text())["annotations"]) == 3
    assert main(["predict", f"source={tmp_path}/bad.jpg", *common]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("iifdet: source: expected readable images") and not (tmp_path / "predict-2").exists()
    assert main(["predict", *common]) == 2 and main(["predict", "source=absent.jpg", *common]) == 2
    assert torch.is_grad_enabled()
