"""Masks in the evaluation: what they are encoded to, and the figures, against pycocotools and plain interpolation."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from iifdet.datasets import DatasetIndex, DetectionDataset, EvalTransform, collate, load_index
from iifdet.datasets.resizing import letterbox_shape
from iifdet.evaluation import DetectionEvaluator, evaluate
from iifdet.evaluation.engine import ENGINES, STATS
from iifdet.evaluation.masks import encode_masks
from iifdet.types import Batch, Detection, ImageInfo, Target

# pycocotools and numpy 2: its own business.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

SIDE = 96
SIZE = (50, 80)


def info_of(size: tuple[int, int], side: int = SIDE, image_id: int = 1, square: bool = False) -> ImageInfo:
    """Where the letterbox, or the square resize, puts an image of this (height, width)."""
    height, width = size
    new_height, new_width = (side, side) if square else letterbox_shape(height, width, side)
    offset = float((side - new_width) // 2), float((side - new_height) // 2)
    return ImageInfo(image_id, 0, "a.png", size, (new_width / width, new_height / height), offset)


def plainly(masks: torch.Tensor, info: ImageInfo) -> torch.Tensor:
    """(n, h, w) probabilities in the original's pixels: padding off, the whole rest resized by torch."""
    height, width = info.size
    left, top = (int(v) for v in info.offset)
    bottom, right = top + round(info.scale[1] * height), left + round(info.scale[0] * width)
    inner = masks[:, None, top:bottom, left:right]
    return F.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def soft_masks(seed: int, number: int, side: int = SIDE) -> torch.Tensor:
    """(number, side, side) smooth random probabilities, padding and borders included."""
    noise = torch.randn(number, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(2 * noise, size=(side, side), mode="bicubic")[:, 0].sigmoid()


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


length = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(st.tuples(length, length), st.integers(8, 96), st.booleans(), st.integers(0, 10**6), st.floats(0.2, 0.8))
def test_masks_come_back_as_by_resizing_all_of_them(
    size: tuple[int, int], side: int, square: bool, seed: int, t: float
) -> None:
    info, masks = info_of(size, side, square=square), soft_masks(seed, 3, side)
    masks[1, :, : side // 2] = 0
    masks[2] = 0
    for rle, expected in zip(encode_masks(masks, info, t), plainly(masks, info), strict=True):
        found = coco_mask.decode(rle).astype(bool)
        unclear = (expected - t).abs() < 1e-5
        assert torch.equal(torch.from_numpy(found) | unclear, (expected > t) | unclear)
        assert rle == rle_of(found)  # the very text that pycocotools writes


def test_chosen_masks_are_encoded_in_the_order_asked_for() -> None:
    info, masks = info_of(SIZE), soft_masks(0, 4)
    every = encode_masks(masks, info)
    assert encode_masks(masks, info, rows=[2, 0]) == [every[2], every[0]]
    assert encode_masks(masks[:0], info) == []
    binary = masks > 0.5
    assert encode_masks(binary.half(), info) == encode_masks(binary.byte(), info) == encode_masks(binary.float(), info)


# -- figures -----------------------------------------------------------------------------------------------------------


def blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An ellipse somewhere in an image."""
    mask = np.zeros((height, width), np.uint8)
    axes = rng.integers(6, [width // 3, height // 3]).tolist()
    centre = int(rng.integers(0, width)), int(rng.integers(0, height))
    return np.asarray(cv2.ellipse(mask, centre, axes, float(rng.integers(0, 180)), 0, 360, 1, -1))


def annotation(number: int, image: int, category: int, mask: np.ndarray, crowd: bool = False) -> dict[str, Any]:
    """Every third as compressed runs, as plain runs (crowds always), as polygons."""
    rle = coco_mask.encode(np.asfortranarray(mask))
    box, area = coco_mask.toBbox(rle).tolist(), float(coco_mask.area(rle))
    flat = mask.T.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=0))
    plain = {"size": list(mask.shape), "counts": np.diff(starts, prepend=0, append=flat.size).tolist()}
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [c.ravel().astype(float).tolist() for c in contours if len(c) > 2]
    forms = (rle_of(mask), plain, polygons or rle_of(mask))
    segmentation = plain if crowd else forms[number % 3]
    row = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area}
    return {**row, "iscrowd": int(crowd), "segmentation": segmentation}


Make = Callable[..., DatasetIndex]


@pytest.fixture
def make_index(tmp_path: Path) -> Make:
    """make_index(change): 8 images of many sizes, 3 classes, 40 masks in three forms, one crowd."""

    def make(change: Callable[[dict[str, Any]], None] = lambda a: None) -> DatasetIndex:
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for image in range(1, 9):
            height, width = rng.integers(80, 420, 2).tolist()
            images.append({"id": 3 * image, "file_name": f"{image}.png", "height": height, "width": width})
            (tmp_path / f"{image}.png").touch()
            for _ in range(5):
                mask = blob(rng, height, width)
                number = len(annotations) + 1
                annotations.append(annotation(number, 3 * image, int(rng.integers(1, 4)), mask, number == 7))
        for a in annotations:
            change(a)
        categories = [{"id": c, "name": f"class {c}"} for c in (1, 2, 3)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "truth.json").write_text(json.dumps(document))
        split = {"images": str(tmp_path), "annotations": str(tmp_path / "truth.json")}
        return load_index({"format": "coco", "val": split}, "val", cache_index=False)

    return make


def as_batch(infos: list[ImageInfo]) -> Batch:
    nothing = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return Batch(torch.zeros(len(infos), 3, 1, 1), [nothing] * len(infos), infos)


def letterboxed(index: DatasetIndex) -> list[tuple[ImageInfo, Detection]]:
    """For each image its own masks in letterboxed tensors, spoilt by smooth noise, with strays, one of them empty."""
    rng = np.random.default_rng(1)
    found = []
    for row, size in enumerate(index.sizes.tolist()):
        info = info_of((size[0], size[1]), image_id=int(index.image_ids[row]))
        where = index.boxes_of(row)
        assert index.segments is not None
        truth = np.stack([index.segments.mask(m, *size) for m in range(where.start, where.stop)])
        height, width = letterbox_shape(*size, SIDE)
        left, top = (int(v) for v in info.offset)
        masks = soft_masks(row, 2 * len(truth)) * 0.9
        inner = F.interpolate(torch.from_numpy(truth)[:, None].float(), size=(height, width), mode="bilinear")[:, 0]
        part = masks[: len(truth), top : top + height, left : left + width]
        part.copy_(0.3 * part + 0.7 * inner)
        masks[-1] = 0
        labels = torch.from_numpy(np.concatenate([index.labels[where], rng.integers(0, 3, len(truth))]))
        scores = torch.from_numpy(rng.permutation(len(labels)) / 97 + row / 997).float()
        boxes = torch.tensor([[0.0, 0.0, SIDE, SIDE]]).repeat(len(labels), 1)
        found.append((info, Detection(boxes=boxes, labels=labels, scores=scores, masks=masks)))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_figures_of_letterboxed_masks_are_those_of_pycocotools(make_index: Make, engine: str) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    index = make_index()
    found = letterboxed(index)
    evaluator = DetectionEvaluator(index, engine, masks=True)
    for info, detection in found:
        evaluator.update([detection], as_batch([info]))
    result = evaluator.compute()

    results = [
        {"image_id": info.image_id, "category_id": int(label) + 1, "score": float(score), "segmentation": rle_of(mask)}
        for info, d in found
        for label, score, mask in zip(d["labels"], d["scores"], plainly(d["masks"], info).numpy() > 0.5, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = index.to_coco()
        truth.createIndex()
        reference = COCOeval(truth, truth.loadRes(results), "segm")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    segm = result.metrics()["segm"]
    assert [segm[name] for name in STATS] == pytest.approx(reference.stats.tolist(), abs=1e-12)
    assert 0.2 < segm["AP"] < 0.9 and result.stats["AP"] < 0.1  # the boxes are of no use here
    assert result.masks is not None and result.masks.gt_instances.sum() == 39


def test_predictions_carry_masks_that_give_the_same_figures(make_index: Make) -> None:
    index = make_index()
    evaluator = DetectionEvaluator(index, masks=True)
    for info, detection in letterboxed(index):
        evaluator.update([detection], as_batch([info]))
    stored = json.loads(json.dumps(evaluator.predictions()))
    assert set(stored[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    again = evaluate(index.to_coco(), stored, iou_type="segm")
    masks = evaluator.compute().masks
    assert masks is not None and np.array_equal(again.precision, masks.precision)
    evaluator.reset()
    assert evaluator.predictions() == []


@pytest.mark.parametrize("engine", ENGINES)
def test_no_detection_at_all_is_an_ap_of_0(make_index: Make, engine: str) -> None:
    index = make_index()
    evaluator = DetectionEvaluator(index, engine, masks=True)
    nothing = Detection(
        boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0), masks=torch.zeros(0, SIDE, SIDE)
    )
    for row in range(len(index)):
        evaluator.update([nothing], as_batch([info_of(SIZE, image_id=int(index.image_ids[row]))]))
    metrics = evaluator.compute().metrics()
    assert metrics["AP"] == metrics["segm"]["AP"] == metrics["segm"]["AR100"] == 0 and evaluator.predictions() == []


def test_the_threshold_is_the_one_asked_for_and_the_best_are_kept(make_index: Make) -> None:
    index = make_index()
    info, detection = letterboxed(index)[0]
    evaluator = DetectionEvaluator(index, max_per_image=3, masks=True, mask_threshold=0.3)
    evaluator.update([detection], as_batch([info]))
    best = detection["scores"].argsort(descending=True)[:3]
    kept = evaluator.predictions()
    assert [p["score"] for p in kept] == detection["scores"][best].tolist()
    for prediction, expected in zip(kept, plainly(detection["masks"], info)[best].numpy(), strict=True):
        assert (coco_mask.decode(prediction["segmentation"]) != (expected > 0.3)).sum() == 0


def test_detections_without_fitting_masks_are_refused(make_index: Make) -> None:
    index = make_index()
    info, detection = letterboxed(index)[0]
    evaluator = DetectionEvaluator(index, masks=True)
    few = Detection(**{**detection, "masks": detection["masks"][1:]})
    bare = Detection(**{k: v for k, v in detection.items() if k != "masks"})  # type: ignore[typeddict-item]
    for wrong, got in ((bare, "got none"), (few, r"got a tensor of shape \(9, 96, 96\)")):
        with pytest.raises(ValueError, match=rf"image 3: expected masks \(10, H, W\) beside the boxes, {got}"):
            evaluator.update([wrong], as_batch([info]))


def test_boxes_without_masks_stand_as_rectangles_and_that_is_said(make_index: Make, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "iifdet"):
        index = make_index(lambda a: a.pop("segmentation") if a["id"] in (2, 30) else None)
        evaluator = DetectionEvaluator(index, masks=True)
    notice = "2 of 40 boxes of the evaluated split have no mask: their rectangles stand for masks"
    assert notice in caplog.messages
    assert evaluator.masks and index.segments is not None
    for row, size in enumerate(index.sizes.tolist()):
        info = ImageInfo(int(index.image_ids[row]), row, "a.png", (size[0], size[1]))
        rows = [m for m in range(*index.boxes_of(row).indices(40)) if not index.crowd[m]]
        masks = torch.zeros(len(rows), *size)
        for mask, m in zip(masks, rows, strict=True):
            own = index.segments.mask(m, *size)
            x1, y1, x2, y2 = index.boxes[m].round().astype(int).tolist()
            if own is None:
                mask[y1:y2, x1:x2] = 1
            else:
                mask.copy_(torch.from_numpy(own))
        boxes, labels = torch.from_numpy(index.boxes[rows]), torch.from_numpy(index.labels[rows])
        scores = torch.full((len(rows),), 0.9)
        evaluator.update([Detection(boxes=boxes, labels=labels, scores=scores, masks=masks)], as_batch([info]))
    metrics = evaluator.compute().metrics()
    assert metrics["AP"] == metrics["segm"]["AP"] == pytest.approx(1)
    assert metrics["notices"][0] == notice


def test_without_any_mask_boxes_alone_are_scored_and_that_is_said(make_index: Make) -> None:
    index = make_index(lambda a: a.pop("segmentation"))
    evaluator = DetectionEvaluator(index, masks=True)
    for info, detection in letterboxed_boxes(index):
        evaluator.update([detection], as_batch([info]))
    metrics = evaluator.compute().metrics()
    assert metrics["AP"] == pytest.approx(1) and "segm" not in metrics
    assert metrics["notices"][0] == "no box of the evaluated split has a mask: boxes alone are scored"
    assert "mask_AP" not in DetectionEvaluator.summary(metrics) | metrics["per_class"][0]


def letterboxed_boxes(index: DatasetIndex) -> list[tuple[ImageInfo, Detection]]:
    found = []
    for row, (height, width) in enumerate(index.sizes.tolist()):
        where = index.boxes_of(row)
        boxes, labels = torch.from_numpy(index.boxes[where]), torch.from_numpy(index.labels[where])
        detection = Detection(boxes=boxes, labels=labels, scores=torch.full((len(labels),), 0.9))
        found.append((ImageInfo(int(index.image_ids[row]), row, "a.png", (height, width)), detection))
    return found


@pytest.mark.parametrize(("imgsz", "at_least"), [(448, 0.99), (256, 0.9)])
def test_real_masks_as_detections_are_nearly_perfect(imgsz: int, at_least: float) -> None:
    """Through the loader and back: at full size no pixel is resampled, at 256 px edges are."""
    if "IIFDET_DATA_DIR" not in os.environ:
        pytest.skip("IIFDET_DATA_DIR is unset: no car_damage")
    whole = load_index("car_damage", "val")
    index = whole.select(range(0, len(whole), 6))
    dataset = DetectionDataset(index, EvalTransform(imgsz), masks=True)
    evaluator = DetectionEvaluator(index, masks=True)
    for row in range(len(index)):
        batch = collate([dataset[(0, row)]])
        target = batch.targets[0]
        scores = torch.linspace(0.9, 0.8, len(target["labels"]))
        found = Detection(boxes=target["boxes"], labels=target["labels"], scores=scores, masks=target["masks"].float())
        evaluator.update([found], batch)
    result = evaluator.compute()
    assert result.masks is not None and result.masks.stats["AP"] > at_least
    assert len(result.masks.skipped) < len(index.names) / 2 and result.stats["AP"] > at_least
    summary = evaluator.summary(result.metrics(index.counts()))
    assert list(summary)[:5] == ["AP", "AP50", "AP75", "mask_AP", "mask_AP50"]
    rows = result.per_class()
    assert [r["mask_AP"] for r in rows] == [None if np.isnan(v) else v for v in result.masks.ap.tolist()]
