"""``val predictions=…``: another program's results file becomes a run like any other."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import iifdet
from iifdet.cli import main

Keys = Callable[..., dict[str, Any]]


def guesses(annotations: Path, masks: bool = False, noise: int = 40) -> list[dict[str, Any]]:
    """Most boxes of a COCO file, moved a little, and many false alarms an image."""
    rng, document = np.random.default_rng(0), json.loads(annotations.read_text())
    categories = [row["id"] for row in document["categories"]]
    found = []
    for box in document["annotations"]:
        if rng.random() < 0.8:
            x, y, w, h = (np.array(box["bbox"]) + rng.normal(0, 1.5, 4)).tolist()
            found.append(detection(box["image_id"], box["category_id"], rng.uniform(0.2, 1), [x, y, w, h]))
    for image in document["images"]:
        for _ in range(noise):
            x, y, w, h = rng.uniform((0, 0, 5, 5), (40, 40, 24, 24)).tolist()
            found.append(detection(image["id"], int(rng.choice(categories)), rng.uniform(0, 0.6), [x, y, w, h]))
    if masks:
        for row in found:
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return found


def detection(image: int, category: int, score: float, box: list[float]) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "score": float(score), "bbox": box}


def reference(annotations: Path, found: list[dict[str, Any]]) -> list[float]:
    """COCO's twelve figures by its own tools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        run = COCOeval(truth, truth.loadRes([dict(d) for d in found]), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return list(run.stats)


@pytest.fixture
def results(tiny_root: Path, tmp_path: Path) -> Path:
    """A results file about the tiny val split, with more detections of an image than a run of our own would keep."""
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(guesses(tiny_root / "val.json", noise=400)))
    return file


def test_figures_are_those_of_cocos_own_tools_and_the_tail_is_ranked_by_the_training_set(
    results: Path, tiny_root: Path, tiny_data: str, tmp_path: Path
) -> None:
    run = iifdet.val(predictions=str(results), data=tiny_data, project=tmp_path / "out", fixed_ap=True)
    expected = reference(tiny_root / "val.json", json.loads(results.read_text()))
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    got = [-1.0 if run.metrics[name] is None else run.metrics[name] for name in names]
    assert got == pytest.approx(expected, abs=1e-12) and 0.1 < got[0] < 0.9
    assert [row["train_images"] for row in run.metrics["per_class"]] == [12, 7, 4, 1]
    per_class = [row["AP"] for row in run.metrics["per_class"]]
    assert run.metrics["tail5"]["image"] == pytest.approx(np.mean(per_class)) and run.metrics["images"] == 12
    written = {path.name for path in run.folder.iterdir()}
    assert written >= {"metrics.json", "per_class.csv", "predictions.json", "args.yaml", "environment.json", "tail.png"}
    assert written >= {"pr_curve.png", "confusion_matrix.png", "val_batch0_pred.jpg", "fixed_ap.npz"}
    assert json.loads((run.folder / "predictions.json").read_text()) == json.loads(results.read_text())


def test_what_val_wrote_scores_as_val_scored_it_masks_too(
    data_with_masks: Path, tiny_keys: Keys, tmp_path: Path
) -> None:
    args = {"min_size": 64, "max_size": 64, "backbone": "mobilenet_v3_large_320_fpn"}
    keys = tiny_keys(tmp_path, model="maskrcnn", model_args=args, data=str(data_with_masks), epochs=1, lr=0.001)
    trained = iifdet.train(**keys)
    first = iifdet.val(weights=trained.folder / "weights" / "last.pt", project=tmp_path, name="own", conf=0.0)
    file = first.folder / "predictions.json"
    assert len(json.loads(file.read_text())) > 50
    again = iifdet.val(predictions=str(file), data=str(data_with_masks), project=tmp_path, name="again")
    for figure in ("AP", "AP50", "tail5", "groups", "segm", "data_digest", "images"):
        assert again.metrics[figure] == first.metrics[figure], figure
    assert {"val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= {path.name for path in again.folder.iterdir()}
    compared = iifdet.compare([first, again], draws=20)
    assert compared.analysis is not None and set(compared.analysis.kinds) == {"boxes", "masks"}
    assert (again.folder / "mask_pr_curve.png").is_file()


def test_images_need_not_be_there(results: Path, tiny_copy: Path, tiny_data: str, tmp_path: Path) -> None:
    whole = iifdet.val(predictions=str(results), data=tiny_data, project=tmp_path, name="whole")
    for split in ("train", "val"):
        shutil.rmtree(tiny_copy / split)
    bare = iifdet.val(predictions=str(results), data=str(tiny_copy / "data.yaml"), project=tmp_path, name="bare")
    assert {k: v for k, v in bare.metrics.items() if k != "notices"} == {
        k: v for k, v in whole.metrics.items() if k != "notices"
    }
    assert not (bare.folder / "val_batch0_pred.jpg").exists() and (whole.folder / "val_batch0_pred.jpg").exists()
    assert iifdet.compare([bare, whole], draws=20).analysis is not None
    assert iifdet.compare([whole, bare], draws=20).analysis is not None


def test_an_image_without_a_file_and_without_a_size_is_left_out_aloud(
    results: Path, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((tiny_copy / "val.json").read_text())
    del document["images"][3]["width"]
    (tiny_copy / "val" / document["images"][3]["file_name"]).unlink()
    (tiny_copy / "val.json").write_text(json.dumps(document))
    words = ["val", f"predictions={results}", f"data={tiny_copy / 'data.yaml'}", f"project={tmp_path / 'out'}"]
    assert main(words) == 2 and "image with neither a size nor a file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_chosen_classes_are_scored_alone_and_single_cls_makes_one_of_all(
    results: Path, tiny_root: Path, tiny_data: str, tmp_path: Path
) -> None:
    whole = iifdet.val(predictions=str(results), data=tiny_data, project=tmp_path, plots=False)
    some = iifdet.val(
        predictions=str(results), data=tiny_data, classes=["white", "green"], project=tmp_path, plots=False
    )
    aps = {row["name"]: row["AP"] for row in whole.metrics["per_class"]}
    assert {r["name"]: r["AP"] for r in some.metrics["per_class"]} == {k: aps[k] for k in ("green", "white")}
    one = iifdet.val(predictions=str(results), data=tiny_data, single_cls=True, project=tmp_path, plots=False)
    document = json.loads((tiny_root / "val.json").read_text())
    document["categories"] = [{"id": 1, "name": "object"}]
    for box in document["annotations"]:
        box["category_id"] = 1
    merged = tmp_path / "merged.json"
    merged.write_text(json.dumps(document))
    found = [{**row, "category_id": 1} for row in json.loads(results.read_text())]
    assert one.metrics["AP"] == pytest.approx(reference(merged, found)[0], abs=1e-12)


def test_text_labels_are_scored_by_file_names_and_by_how_the_file_counts_classes(tmp_path: Path) -> None:
    """What Ultralytics writes of a data set that is not COCO: image_id is the file's stem, categories start at 1."""
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for n in range(3):
            cv2.imwrite(str(tmp_path / "images" / split / f"street {n}.png"), np.full((40, 80, 3), 90, np.uint8))
            (tmp_path / "labels" / split / f"street {n}.txt").write_text(f"{n % 2} 0.5 0.5 0.25 0.5\n")
    data = tmp_path / "data.yaml"
    data.write_text("path: .\ntrain: images/train\nval: images/val\nnames: [car, bus]\n")
    found = [detection(0, 1 + n % 2, 0.9, [30, 10, 20, 20]) | {"image_id": f"street {n}"} for n in range(3)]
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(found))
    run = iifdet.val(predictions=str(file), data=str(data), first_category=1, project=tmp_path / "out")
    assert run.metrics["AP"] == pytest.approx(1.0) and run.metrics["per_class"][0]["train_images"] == 2
    with pytest.raises(iifdet.InputError, match="give first_category=1"):
        iifdet.val(predictions=str(file), data=str(data), project=tmp_path / "out")


def test_the_picture_shows_sure_detections_where_they_are(tiny_root: Path, tiny_data: str, tmp_path: Path) -> None:
    from iifdet import build
    from iifdet.config import ValConfig, resolve

    file = tmp_path / "theirs.json"
    boxes = [
        detection(2, 15, 0.9, [10, 20, 30, 40]),
        detection(1, 5, 0.2, [0, 0, 9, 9]),
        detection(1, 25, 0.3, [4, 4, 8, 8]),
    ]
    file.write_text(json.dumps(boxes))
    config = resolve(ValConfig, {"predictions": str(file), "data": tiny_data, "imgsz": 128, "image_id": "id"})
    shown = build.shown_detections(config, build.build_scoring(config))
    assert shown is not None
    batch, detections = shown
    assert [len(d["scores"]) for d in detections] == [1, 1, *[0] * 10] and len(batch) == 12
    assert detections[0]["boxes"].tolist() == [[8, 8, 24, 24]] and detections[0]["labels"].tolist() == [2]
    assert detections[1]["boxes"].tolist() == [[20, 40, 80, 120]] and detections[1]["scores"].tolist() == [0.9]


def test_lvis_is_scored_by_its_own_protocol_and_groups(
    results: Path, tiny_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "val"):
        document = json.loads((tiny_copy / f"{split}.json").read_text())
        for row, frequency in zip(document["categories"], "ffcr", strict=True):
            row["frequency"] = frequency
        (tiny_copy / f"{split}.json").write_text(json.dumps(document))
    description = tiny_copy / "data.yaml"
    description.write_text(description.read_text().replace("format: coco", "format: lvis"))
    run = iifdet.val(predictions=str(results), data=str(description), project=tmp_path / "out")
    aps = [row["AP"] for row in run.metrics["per_class"]]
    groups = {"rare": aps[3], "common": aps[2], "frequent": np.mean(aps[:2])}
    assert run.metrics["groups"] == pytest.approx(groups) and run.metrics["group_thresholds"] is None
    assert {"tail.png", "pr_curve.png"} <= {path.name for path in run.folder.iterdir()}
    assert "could not be drawn" not in caplog.text


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"weights": "last.pt"}, "weights: does nothing to predictions="),
        ({"model": "yolov3-nano"}, "model: does nothing to predictions="),
        ({"adjust": "iif"}, "adjust: does nothing to predictions="),
        ({"conf": 0.1}, "conf: does nothing to predictions="),
        ({"holdout": 0.1}, "holdout: does nothing to predictions="),
        ({"typo": 1}, "typo: unknown key"),
        ({"first_category": 1 << 70}, "first_category: expected"),
        ({"split": "test"}, "split: expected one of train, val"),
        ({"split": "train"}, "expected images of the split"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    results: Path, tiny_data: str, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    if keys.get("split") == "train":
        results.write_text(json.dumps([detection(77, 5, 0.9, [0, 0, 9, 9])]))
    with pytest.raises(iifdet.InputError, match=said):
        iifdet.val(**{"predictions": str(results), "data": tiny_data, "project": tmp_path / "out", **keys})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", [{"first_category": 1}, {"image_id": "id"}])
def test_keys_about_a_file_are_refused_without_one(key: dict[str, Any]) -> None:
    with pytest.raises(iifdet.InputError, match="belongs to predictions=<file>, got it without"):
        iifdet.val(weights="last.pt", **key)


def test_keys_that_are_none_are_not_given(results: Path, tiny_data: str, tmp_path: Path) -> None:
    keys = {"weights": None, "adjust": None, "model": None, "plots": False, "project": tmp_path}
    assert iifdet.val(predictions=results, data=tiny_data, **keys).metrics["images"] == 12


def test_classes_that_are_off_by_one_are_refused_and_said_where_they_are_meant(tiny_copy: Path, tmp_path: Path) -> None:
    """A file that counts from 0 beside categories from 1 would be scored as finding nothing, without an error."""
    document = json.loads((tiny_copy / "train.json").read_text())
    label = {row["id"]: n for n, row in enumerate(document["categories"])}
    for row in document["categories"]:
        row["id"] = label[row["id"]] + 1
    for box in document["annotations"]:
        box["category_id"] = label[box["category_id"]] + 1
    (tiny_copy / "train.json").write_text(json.dumps(document))
    boxes = [box for box in document["annotations"] if box["category_id"] > 1]  # the first class is not found
    file = tmp_path / "theirs.json"
    entries = [detection(box["image_id"], box["category_id"] - 1, 0.9, box["bbox"]) for box in boxes]
    assert len(entries) > 10
    file.write_text(json.dumps(entries))
    keys = {"predictions": str(file), "data": str(tiny_copy / "data.yaml"), "split": "train", "image_id": "id"}
    keys |= {"project": tmp_path / "out", "plots": False}
    with pytest.raises(iifdet.InputError, match=r"if class 0 is category 0; give first_category="):
        iifdet.val(**keys)
    right = iifdet.val(**keys, first_category=0)
    assert right.metrics["AP"] == pytest.approx(0.75)
    assert right.metrics["notices"] == [
        "12 of 24 images with boxes have no detection, which counts as finding nothing there: was the whole split "
        "predicted?"
    ]
    wrong = iifdet.val(**keys, first_category=1)
    assert "agree as categories are read" in wrong.metrics["notices"][1] and wrong.metrics["AP"] < 0.05


def test_detections_that_lie_on_hardly_any_box_are_said(tiny_root: Path, tiny_data: str, tmp_path: Path) -> None:
    """Coordinates from 0 to 1 are the usual reason, another order of the images the next."""
    file = tmp_path / "theirs.json"
    found = [row | {"bbox": [v / 64 for v in row["bbox"]]} for row in guesses(tiny_root / "train.json")]
    file.write_text(json.dumps(found))
    run = iifdet.val(predictions=str(file), data=tiny_data, split="train", project=tmp_path, plots=False)
    assert "detections lie on 0 of 30 boxes, of whatever class" in run.metrics["notices"][0]


def test_a_description_that_names_some_of_the_classes_takes_their_detections(
    results: Path, tiny_copy: Path, tiny_data: str, tmp_path: Path
) -> None:
    whole = iifdet.val(predictions=str(results), data=tiny_data, project=tmp_path / "out", plots=False)
    description = tiny_copy / "data.yaml"
    description.write_text(description.read_text() + "names: [white, red]\n")
    some = iifdet.val(predictions=str(results), data=str(description), project=tmp_path / "out", plots=False)
    aps = {row["name"]: row["AP"] for row in whole.metrics["per_class"]}
    assert [(r["name"], r["AP"]) for r in some.metrics["per_class"]] == [(n, aps[n]) for n in ("white", "red")]


def test_sizes_that_annotations_do_not_give_are_measured(
    results: Path, tiny_copy: Path, tiny_data: str, tmp_path: Path
) -> None:
    document = json.loads((tiny_copy / "val.json").read_text())
    for image in document["images"]:
        del image["width"], image["height"]
    (tiny_copy / "val.json").write_text(json.dumps(document))
    keys = {"predictions": str(results), "project": tmp_path / "out", "plots": False}
    measured = iifdet.val(data=str(tiny_copy / "data.yaml"), **keys)
    assert measured.metrics["AP"] == iifdet.val(data=tiny_data, **keys).metrics["AP"]


def test_the_file_itself_is_never_written_over(results: Path, tiny_data: str, tmp_path: Path) -> None:
    keys = {"data": tiny_data, "project": tmp_path / "out", "name": "x", "exist_ok": True, "plots": False}
    run = iifdet.val(predictions=str(results), **keys)
    before = (run.folder / "predictions.json").read_bytes()
    with pytest.raises(iifdet.InputError, match="predictions: expected a file outside"):
        iifdet.val(predictions=str(run.folder / "predictions.json"), classes=[0], **keys)
    assert (run.folder / "predictions.json").read_bytes() == before


def test_a_comparison_claims_nothing_about_how_another_program_chose(
    results: Path, tiny_data: str, tiny_keys: Keys, tmp_path: Path
) -> None:
    theirs = iifdet.val(predictions=str(results), data=tiny_data, project=tmp_path, name="theirs", plots=False)
    trained = iifdet.train(**tiny_keys(tmp_path, epochs=1))
    ours = iifdet.val(
        weights=trained.folder / "weights" / "last.pt", project=tmp_path, name="ours", conf=0.1, max_det=9
    )
    found = iifdet.compare([theirs, ours], draws=20)
    assert "theirs: another program's detections; which of them it left out is not known" in found.notices
    assert not any("differently" in notice for notice in found.notices)
    assert not any(key in row.settings for row in found.rows for key in ("conf", "max_det", "imgsz"))


def test_data_without_boxes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("task: classify\nformat: folders\npath: .\ntrain: train\nval: val\n")
    with pytest.raises(iifdet.InputError, match="predictions: expected data with boxes"):
        iifdet.val(predictions="x.json", data=str(tmp_path / "classes.yaml"))


def test_stats_counts_annotations_alone_where_it_is_told_to(tiny_copy: Path, tiny_data: str, tmp_path: Path) -> None:
    whole = iifdet.stats(data=tiny_data, project=tmp_path, plots=False)
    shutil.rmtree(tiny_copy / "train")
    with pytest.raises(iifdet.InputError, match="images: expected the folder"):
        iifdet.stats(data=str(tiny_copy / "data.yaml"), project=tmp_path)
    bare = iifdet.stats(data=str(tiny_copy / "data.yaml"), need_images=False, project=tmp_path, plots=False)
    assert bare.counts.images.tolist() == whole.counts.images.tolist() == [12, 7, 4, 1]
    for format_ in ("", "task: classify\n"):
        (tmp_path / "other.yaml").write_text(f"{format_}path: .\ntrain: train\nval: val\nnames: [a]\n")
        with pytest.raises(iifdet.InputError, match="need_images: expected COCO or LVIS annotations"):
            iifdet.stats(data=str(tmp_path / "other.yaml"), need_images=False)
    assert bare.counts.instances.equal(whole.counts.instances) and bare.table() == whole.table()
