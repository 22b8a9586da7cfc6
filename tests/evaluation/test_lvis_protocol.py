"""LVIS's protocol: what counts as a fault, groups by the file's own field, and the figures of LVIS's own tool."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iifdet.datasets import DatasetIndex, load_index
from iifdet.errors import InputError
from iifdet.evaluation import DetectionEvaluator
from iifdet.evaluation.detection import Part
from iifdet.evaluation.engine import evaluate
from iifdet.evaluation.matching import judged_rows

BOX, ELSEWHERE = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 9.0, 9.0]


def truth(negative: list[int], not_exhaustive: list[int]) -> dict[str, Any]:
    """Image 1 holds class 3 and class 7; image 2 holds neither."""
    images = [
        {"id": 1, "height": 99, "width": 99, "neg_category_ids": [], "not_exhaustive_category_ids": not_exhaustive},
        {"id": 2, "height": 99, "width": 99, "neg_category_ids": negative, "not_exhaustive_category_ids": []},
    ]
    rows = [{"id": n, "image_id": 1, "category_id": c, "bbox": BOX, "area": 100} for n, c in enumerate((3, 7))]
    groups = [{"id": c, "name": str(c), "frequency": f} for c, f in ((3, "r"), (7, "f"), (8, "c"))]
    return {"images": images, "categories": groups, "annotations": rows}


def ap(gt: dict[str, Any], *found: tuple[int, list[float], float]) -> float:
    """AP of class 3 for these detections (image, box, score) of it."""
    rows = np.array([[image, *box, score, 3] for image, box, score in found])
    output = evaluate(gt, rows, protocol="lvis")
    assert output.precision.shape == (10, 101, 3, 4, 1)
    return float(output.precision[:, :, 0, 0, 0].mean())


def test_a_detection_is_a_fault_only_where_the_class_was_looked_for() -> None:
    good, stray = (1, BOX, 0.5), (2, BOX, 0.9)
    assert ap(truth([], []), good, stray) == pytest.approx(1)  # unknown in image 2
    assert ap(truth([8], []), good, stray) == pytest.approx(1)
    assert ap(truth([3], []), good, stray) == pytest.approx(0.5)  # known to be absent


def test_further_instances_are_no_faults_where_labels_are_not_exhaustive() -> None:
    good, further = (1, BOX, 0.5), (1, ELSEWHERE, 0.9)
    assert ap(truth([], []), good, further) == pytest.approx(0.5)
    assert ap(truth([], [3]), good, further) == pytest.approx(1)


def test_pictures_too_count_as_faults_only_what_was_looked_for() -> None:
    """Image 2 is known to be without class 3, nothing is known of class 8; class 3 of image 1 may have more."""
    gt = truth([3], [3])
    index: Any = SimpleNamespace(
        names=["3", "7", "8"], image_ids=[1, 2], category_ids=[3, 7, 8], federated=object(), to_coco=lambda: gt
    )
    finds = [(1, BOX, 3), (1, ELSEWHERE, 3), (1, BOX, 8), (1, ELSEWHERE, 7), (2, BOX, 3), (2, BOX, 8)]
    evaluator = DetectionEvaluator(index)
    evaluator.parts = [Part([1, 2], [np.array([[image, *box, 0.9, category] for image, box, category in finds])])]
    judged, unsure = judged_rows(gt, evaluator.rows(), [3, 7, 8], "lvis")
    assert judged.tolist() == [True, True, False, True, True, False]
    assert unsure.tolist() == [True, True, False, False, False, False]
    assert evaluator.confusion_matrix().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    seen = evaluator.reliability()
    assert seen.count.sum() == 3 and seen.precision[-1] == pytest.approx(1 / 3)


def test_an_image_has_300_detections_of_all_classes_together() -> None:
    others = np.array([[1, *ELSEWHERE, 0.9, 7]] * 300)
    rows = np.concatenate([others, [[1, *BOX, 0.5, 3]]])
    assert evaluate(truth([], []), rows, protocol="lvis").precision[0, :, 0, 0, 0].mean() == 0
    assert evaluate(truth([], []), rows[1:], protocol="lvis").precision[0, :, 0, 0, 0].mean() == pytest.approx(1)
    more = evaluate(truth([], []), rows, protocol="lvis", max_dets=[301])
    assert more.precision[0, :, 0, 0, 0].mean() == pytest.approx(1)
    assert more.stats[6:8].tolist() == [-1, -1]  # no AR1, AR10


def test_choices_that_make_no_sense_are_refused() -> None:
    rows = np.zeros((0, 7))
    for options, message in (
        ({"engine": "pycocotools"}, "expected hotcoco for LVIS"),
        ({"max_dets": [1, 10, 100]}, "one limit such as 300"),
        ({"protocol": "lvsi"}, "protocol: expected one of coco, lvis"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(truth([], []), rows, **{"protocol": "lvis", **options})


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    """40 images of 5 classes, with random federated labels, two classes a group, one class never seen."""
    rng = np.random.default_rng(0)
    images, rows = [], []
    for number in range(1, 41):
        some = rng.permutation(5) + 1
        for category in some[:2].tolist():
            for _ in range(int(rng.integers(1, 4))):
                x, y, w, h = np.round(rng.uniform([0, 0, 5, 5], [60, 60, 120, 120]), 2).tolist()
                box = {"bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h]]}
                rows.append({"id": len(rows) + 1, "image_id": number, "category_id": category, **box})
        lists = {"neg_category_ids": some[2:4].tolist(), "not_exhaustive_category_ids": some[1:2].tolist()}
        url = f"http://images.cocodataset.org/val2017/{number}.jpg"
        images.append({"id": number, "height": 200, "width": 200, "coco_url": url, **lists})
        (tmp_path / "val2017").mkdir(exist_ok=True)
        (tmp_path / "val2017" / f"{number}.jpg").touch()
    categories = [
        {"id": c, "name": f"class {c}", "synset": "a.n.01", "frequency": f, "image_count": 9, "instance_count": 9}
        for c, f in zip(range(1, 7), "rccffr", strict=True)
    ]
    (tmp_path / "lvis.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    split = {"images": str(tmp_path), "annotations": str(tmp_path / "lvis.json")}
    return load_index({"format": "lvis", "val": split}, "val")


def guesses(index: DatasetIndex) -> np.ndarray:
    """Shaken boxes, some of a wrong class, and strays: (n, 7)."""
    rng = np.random.default_rng(1)
    rows = []
    for m in np.repeat(np.arange(len(index.labels)), 3).tolist():
        x1, y1, x2, y2 = index.boxes[m] + rng.normal(0, 4, 4)
        label = int(index.labels[m]) if rng.random() < 0.8 else int(rng.integers(0, 6))
        image, category = index.image_ids[index.box_image[m]], index.category_ids[label]
        rows.append([image, x1, y1, max(x2 - x1, 1), max(y2 - y1, 1), round(float(rng.random()), 6), category])
    return np.array(rows)


def test_the_evaluator_takes_the_protocol_and_the_groups_from_the_index(index: DatasetIndex) -> None:
    evaluator = DetectionEvaluator(index)
    rows = guesses(index)
    evaluator.parts = [Part(index.image_ids.tolist(), [rows])]
    result = evaluator.compute()
    expected = evaluate(index.to_coco(), rows, protocol="lvis")
    assert result.stats["AP"] == expected.stats[0]
    assert result.stats["AP"] != evaluate(index.to_coco(), rows).stats[0]
    assert np.isnan(result.stats["AR1"]) and result.stats["AR100"] > 0
    groups = result.metrics()["groups"]
    assert groups == pytest.approx(
        {"rare": result.ap[0], "common": result.ap[1:3].mean(), "frequent": result.ap[3:5].mean()}
    )
    with pytest.raises(InputError, match="expected hotcoco"):
        DetectionEvaluator(index, engine="pycocotools")


def test_figures_are_those_of_lvis_own_tool(index: DatasetIndex, tmp_path: Path, monkeypatch: Any) -> None:
    """``make install`` adds it without its requirements, which would bring a second OpenCV."""
    if not hasattr(np, "float"):
        monkeypatch.setattr(np, "float", float, raising=False)  # what it was written for
    lvis = pytest.importorskip("lvis")
    logging.getLogger("lvis").setLevel(logging.ERROR)
    gt, rows = index.to_coco(), guesses(index)
    (tmp_path / "truth.json").write_text(json.dumps(gt))
    found = [
        {"image_id": int(i), "category_id": int(c), "bbox": box, "score": score} for i, *box, score, c in rows.tolist()
    ]
    own = lvis.LVISEval(str(tmp_path / "truth.json"), found, "bbox")
    own.run()
    ours = evaluate(gt, rows, protocol="lvis")
    assert np.allclose(ours.precision[..., 0], own.eval["precision"], atol=1e-12)
    named = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), ours.stats, strict=False))
    assert {name: own.results[name] for name in named} == pytest.approx(named)
    evaluator = DetectionEvaluator(index)
    evaluator.parts = [Part(index.image_ids.tolist(), [rows])]
    groups = evaluator.compute().metrics()["groups"]
    letters = {"rare": "APr", "common": "APc", "frequent": "APf"}
    assert groups == pytest.approx({name: own.results[letter] for name, letter in letters.items()})
