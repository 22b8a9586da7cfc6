"""Data in the form of LVIS v1, all 1,203 classes, from the file to AP, APr, APc and APf of boxes and of masks."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import iifdet
from iifdet.datasets import DetectionDataset, EvalTransform, collate, load_index
from iifdet.evaluation import DetectionEvaluator
from iifdet.types import Detection

pytestmark = pytest.mark.slow

SIZE = (80, 104)
#: Classes of each frequency group in LVIS v1: rare, common, frequent.
GROUPS = {"r": 337, "c": 461, "f": 405}


def document(seed: int, images: int) -> dict[str, Any]:
    """An LVIS v1 file: polygons of one or two parts, federated labels, no crowds."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation([letter for letter, count in GROUPS.items() for _ in range(count)]).tolist()
    known = rng.permutation(len(groups))[:90] + 1  # so few that classes come more than once
    rows, pictures = [], []
    for number in range(1, images + 1):
        some = rng.choice(known, 12, replace=False).tolist()
        for category in some[:5]:
            for _ in range(int(rng.integers(1, 4))):
                rows.append({"id": len(rows) + 1, "image_id": number, "category_id": category, **shape(rng)})
        lists = {"neg_category_ids": some[5:9], "not_exhaustive_category_ids": some[:2]}
        place = {"coco_url": f"http://images.cocodataset.org/val2017/{number}.png"}
        pictures.append({"id": number, "height": SIZE[0], "width": SIZE[1], **place, **lists})
    categories = [
        {"id": c, "name": f"class {c}", "synset": f"c{c}.n.01", "frequency": f, "image_count": 9, "instance_count": 9}
        for c, f in enumerate(groups, start=1)
    ]
    return {"images": pictures, "annotations": rows, "categories": categories}


def shape(rng: np.random.Generator) -> dict[str, Any]:
    """A rhombus, every third time with a square beside it; box and area are those of its pixels."""
    from pycocotools import mask as coco_mask

    (x, y), (w, h) = rng.integers([0, 0], [60, 40]).tolist(), rng.integers(10, 38, 2).tolist()
    polygons = [[x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]]
    if rng.random() < 1 / 3:
        polygons.append([x + w, y, x + w + 6, y, x + w + 6, y + 6, x + w, y + 6])
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE))
    return {"segmentation": polygons, "area": float(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist()}


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, int]], Path]:
    """write({split: images}): a data YAML with such splits, and noise for pictures."""

    def _write(splits: dict[str, int]) -> Path:
        root = tmp_path_factory.mktemp("lvis")
        (root / "val2017").mkdir()
        for number in range(1, max(splits.values()) + 1):
            noise = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "val2017" / f"{number}.png"), noise)
        for seed, (split, images) in enumerate(splits.items()):
            (root / f"{split}.json").write_text(json.dumps(document(seed, images)))
        places = {split: {"images": ".", "annotations": f"{split}.json"} for split in splits}
        (root / "data.yaml").write_text(yaml.safe_dump({"format": "lvis", "path": str(root), **places}))
        return root / "data.yaml"

    return _write


def shaken(rng: np.random.Generator, found: Detection, wrong: np.ndarray) -> Detection:
    """Every object twice and moved, a fifth of them as another class; scores of the whole split have no ties."""
    masks, boxes, labels = [], [], []
    for m, box, label in zip(found["masks"], found["boxes"], found["labels"].tolist(), strict=True):
        for _ in range(2):
            dx, dy = rng.integers(-5, 6, 2).tolist()
            masks.append(torch.roll(m, (dy, dx), (0, 1)).float() * 0.8)
            boxes.append(box + torch.tensor([dx, dy, dx, dy]) + torch.from_numpy(rng.normal(0, 1, 4)).float())
            labels.append(int(rng.choice(wrong)) if rng.random() < 0.2 else label)
    scores = torch.from_numpy(rng.random(len(labels))).float()
    return Detection(boxes=torch.stack(boxes), labels=torch.tensor(labels), scores=scores, masks=torch.stack(masks))


def oracle(kind: str, truth: Path, found: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of LVIS's own tool."""
    lvis = pytest.importorskip("lvis", reason="pip install --no-deps lvis==0.5.3, as make install does")
    logging.getLogger("lvis").setLevel(logging.ERROR)
    drop = "bbox" if kind == "segm" else "segmentation"  # it would take a mask's area from the box beside it
    tool = lvis.LVISEval(str(truth), [{k: v for k, v in f.items() if k != drop} for f in found], kind)
    tool.run()
    return dict(tool.results)


@pytest.mark.filterwarnings("ignore:The 'warn' method", "ignore:__array__ implementation")
def test_boxes_and_masks_have_the_figures_of_lvis_own_tool(
    write: Callable[[dict[str, int]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(np, "float"):
        monkeypatch.setattr(np, "float", float, raising=False)  # what lvis 0.5.3 was written for
    data = write({"val": 64})
    index = load_index(str(data), "val")
    assert len(index.names) == 1203 and len(index.labels) > 500 and len(np.unique(index.labels)) > 80
    dataset = DetectionDataset(index, EvalTransform(128), masks=True)
    evaluator, rng = DetectionEvaluator(index, masks=True), np.random.default_rng(7)
    assert index.federated is not None
    for row in range(len(index)):
        batch = collate([dataset[(0, row)]])
        target = batch.targets[0]
        wrong = np.concatenate([index.federated.negative.of(row), target["labels"].numpy(), [0, 5]])
        found = shaken(rng, Detection(scores=torch.ones(0), **target), wrong)
        evaluator.update([found], batch)
    found, metrics = evaluator.predictions(), evaluator.compute().metrics()
    assert len({f["score"] for f in found}) == len(found) > 1000
    named = {"AR100": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300"}
    groups = {"rare": "APr", "common": "APc", "frequent": "APf"}
    for kind, ours in (("bbox", metrics), ("segm", metrics["segm"])):
        theirs = oracle(kind, data.parent / "val.json", found)
        for name in ("AP", "AP50", "AP75", "APs", "APm", *named):
            value = ours[name]
            assert (-1 if value is None else value) == pytest.approx(theirs[named.get(name, name)], abs=1e-12), name
        for group, name in groups.items():
            assert ours["groups"][group] == pytest.approx(theirs[name], abs=1e-12), (kind, group)
        assert 0.1 < ours["AP"] < 0.9 and len(set(ours["groups"].values())) == 3
    assert metrics["AP"] != metrics["segm"]["AP"]


def pixels(found: dict[str, Any]) -> int:
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(found["segmentation"]))


def test_mask_rcnn_trains_a_step_and_is_validated(
    write: Callable[[dict[str, int]], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write({"train": 4, "val": 3})
    sizes = {"min_size": 64, "max_size": 96, "box_batch_size_per_image": 16, "rpn_post_nms_top_n_test": 10}
    keys: dict[str, Any] = {"data": str(data), "project": str(tmp_path), "device": "cpu", "workers": 0, "imgsz": 64}
    run = iifdet.train(
        **keys,
        model="maskrcnn",
        model_args={"backbone": "mobilenet_v3_large_320_fpn", **sizes},
        adjust="iif",
        epochs=1,
        batch=4,
        optimizer="adamw",
        lr=1e-5,
        conf=1e-5,
        max_det=5,
        group_limits=[1, 2],
        name="run",
    )
    assert "group_limits: [1, 2] has no effect, the data have groups of their own" in caplog.text
    assert "LVIS scores up to 300 detections an image, the tail's among them; got max_det=5" in caplog.text
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert len(metrics["per_class"]) == 1203 and "mask_AP" in metrics["per_class"][0]
    assert metrics["segm"]["AP"] is not None and set(metrics["segm"]["groups"]) == set(metrics["groups"])
    assert metrics["segm"]["tail10"].keys() == metrics["tail10"].keys() == {"image", "instance"}
    (row,) = csv.DictReader((run.folder / "results.csv").open())
    assert float(row["mask_AP"]) == metrics["segm"]["AP"] == run.summary["mask_AP"] and float(row["loss_mask"]) > 0
    found = json.loads((run.folder / "predictions.json").read_text())
    assert len(found) == 15 and all(f["segmentation"]["size"] == list(SIZE) for f in found)
    pictures = {"val_batch0_labels.jpg", "val_batch0_pred.jpg", "mask_pr_curve.png", "train_batch0.jpg"}
    assert pictures <= {f.name for f in run.folder.iterdir()}
    strict = iifdet.val(**keys, weights=str(run.folder / "weights" / "last.pt"), mask_threshold=1, plots=False)
    assert strict.metrics["AP"] == metrics["AP"] and strict.metrics["segm"]["AP"] == 0
    empty = json.loads((strict.folder / "predictions.json").read_text())
    assert not sum(map(pixels, empty)) and sum(map(pixels, found)) > 1000
