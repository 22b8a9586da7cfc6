"""DetectionEvaluator and EvalResult: from detections in tensor pixels to metrics.json."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.datasets.index import DatasetIndex
from iifdet.evaluation import EVALUATORS, DetectionEvaluator, EvalResult, evaluate, tail_k
from iifdet.evaluation.engine import ENGINES, STATS
from iifdet.longtail import ClassCounts, iif_weights
from iifdet.types import ImageInfo

#: image row, label, xyxy; the third class never appears
BOXES = [(0, 0, 10, 10, 30, 30), (0, 1, 50, 20, 90, 80), (1, 0, 5, 5, 60, 60), (2, 0, 100, 10, 190, 90)]
COUNTS = ClassCounts(["car", "bus", "tram"], torch.tensor([90, 20, 3]), torch.tensor([200, 25, 3]), num_images=95)


def scored(index, feed, boxes, scores=0.9, order=None, **kwargs):
    evaluator = DetectionEvaluator(index, **kwargs)
    feed(evaluator, boxes, scores, order)
    return evaluator.compute()


@pytest.fixture
def index(fake_index):
    return fake_index(BOXES)


@pytest.mark.parametrize("engine", ENGINES)
def test_perfect_detections_give_ap_1(index, feed, engine):
    result = scored(index, feed, BOXES, engine=engine)
    assert list(result.stats) == list(STATS)
    assert result.stats["AP"] == pytest.approx(1) and result.stats["AR100"] == 1
    assert result.ap[:2] == pytest.approx([1, 1]) and math.isnan(result.ap[2])
    assert DetectionEvaluator.fitness(result) == result.stats["AP"]
    assert EVALUATORS["detect"] is DetectionEvaluator


def test_arrays_are_in_label_order_whatever_the_category_ids(index, feed):
    """Category ids 4, 9, 14 with names in another order: only the bus is found."""
    index.names = ["a", "b", "c", "d"]  # ids 4, 9, 14, 2
    index.boxes = [(0, 0, 10, 10, 30, 30), (0, 3, 50, 20, 90, 80)]
    result = scored(index, feed, index.boxes[1:])
    assert result.ap == pytest.approx([0, math.nan, math.nan, 1], nan_ok=True)
    assert result.gt_instances.tolist() == [1, 0, 0, 1]
    assert result.precision[0, 0, :, 0, -1] == pytest.approx([0, -1, -1, 1])
    assert result.recall[0, :, 0, -1].tolist() == [0, -1, -1, 1]


def test_boxes_come_back_through_the_letterbox(index, as_batch, as_detection):
    evaluator = DetectionEvaluator(index)
    for row in range(3):
        mine = as_detection([b for b in BOXES if b[0] == row])
        # 200 x 100 into a square of 64: scale .32, 16 pixels of border above and below
        mine["boxes"] = mine["boxes"] * 0.32 + torch.tensor([0.0, 16.0, 0.0, 16.0])
        evaluator.update([mine], as_batch([index.info(row, scale=(0.32, 0.32), offset=(0.0, 16.0))]))
    assert evaluator.compute().stats["AP"] == pytest.approx(1)
    found = evaluator.predictions()[0]
    assert found["bbox"] == pytest.approx([10, 10, 20, 20], abs=1e-4)
    assert (found["image_id"], found["category_id"]) == (100, 4)


@pytest.mark.parametrize("fixed", [False, True])
def test_boxes_in_the_padding_are_no_detections(index, as_batch, as_detection, fixed):
    evaluator = DetectionEvaluator(index, fixed=fixed, max_per_image=2)
    above, beside, inside = (0, 0, 5.0, 2.0, 20.0, 15.0), (0, 1, 10.0, 50.0, 30.0, 63.0), (0, 0, 5.0, 2.0, 20.0, 30.0)
    info = index.info(0, scale=(0.32, 0.32), offset=(0.0, 16.0))
    evaluator.update([as_detection([above, beside, inside])], as_batch([info]))
    (found,) = evaluator.predictions()
    assert found["bbox"][1] == 0 and found["bbox"][3] == pytest.approx(14 / 0.32)
    assert not fixed or len(evaluator.unlimited().rows) == 1


def test_boxes_are_clipped_to_the_image(index, as_batch, as_detection):
    evaluator = DetectionEvaluator(index)
    evaluator.update([as_detection([(0, 0, -50.0, -50.0, 500.0, math.inf)])], as_batch([index.info(0)]))
    assert evaluator.predictions()[0]["bbox"] == [0, 0, 200, 100]


def test_crowds_are_ignored_and_not_counted(fake_index, feed):
    crowd = (1, 0, 100, 0, 190, 90)
    index = fake_index([*BOXES, crowd], crowds=(len(BOXES),))
    inside = [(1, 0, 110, 10, 130, 30), (1, 0, 140, 10, 160, 30)]
    result = scored(index, feed, [*inside, *BOXES], [0.99, 0.99, *[0.9] * 4])
    assert result.stats["AP"] == pytest.approx(1)
    assert result.gt_instances.tolist() == [3, 1, 0] and result.gt_images.tolist() == [3, 1, 0]


def test_a_class_with_crowds_only_is_skipped(fake_index, feed):
    index = fake_index([*BOXES, (1, 2, 100, 0, 190, 90)], crowds=(len(BOXES),))
    result = scored(index, feed, BOXES)
    assert result.skipped == ["tram"] and math.isnan(result.ap[2])


def test_images_without_boxes_stay(fake_index, feed):
    index = fake_index(BOXES, num_images=5)
    false_alarm = (4, 1, 10, 10, 20, 20)
    result = scored(index, feed, [*BOXES, false_alarm], [*[0.5] * 4, 0.9])
    assert result.num_images == 5
    assert result.ap[1] == pytest.approx(0.5) and result.ap[0] == pytest.approx(1)


def test_empty_detections(index, feed, fake_index):
    result = scored(index, feed, [])
    assert result.stats["AP"] == 0 and math.isnan(result.ap[2])
    nothing = scored(fake_index([]), feed, [])
    assert math.isnan(nothing.stats["AP"]) and DetectionEvaluator.fitness(nothing) == 0
    json.dumps(nothing.metrics(COUNTS), allow_nan=False)


@pytest.mark.parametrize("order, words", [([0, 2], "1 are missing: 93;"), ([0, 1, 1, 2], "1 came more than once: 93")])
def test_each_image_must_come_once(index, feed, order, words):
    evaluator = DetectionEvaluator(index)
    feed(evaluator, BOXES, order=order)
    with pytest.raises(ValueError, match=words):
        evaluator.compute()


def test_partial_scores_the_images_seen(index, feed):
    evaluator = DetectionEvaluator(index)
    feed(evaluator, BOXES, order=[1, 2])
    result = evaluator.compute(partial=True)
    assert result.num_images == 2 and result.gt_instances.tolist() == [2, 0, 0]
    assert result.stats["AP"] == pytest.approx(1) and result.data_digest is None
    feed(evaluator, BOXES, order=[0])
    assert evaluator.compute().data_digest == index.digest()


def test_strange_images_labels_and_numbers_are_refused(index, fake_index, feed, as_batch, as_detection):
    evaluator = DetectionEvaluator(fake_index(BOXES, num_images=2))
    feed(DetectionEvaluator(index), BOXES)
    evaluator.update([as_detection([])], as_batch([index.info(2)]))
    with pytest.raises(ValueError, match="are not of this split: 86"):
        evaluator.compute(partial=True)
    with pytest.raises(ValueError, match="expected 2 detections, one an image, got 1"):
        evaluator.update([as_detection([])], as_batch([index.info(0), index.info(1)]))
    with pytest.raises(ValueError, match="image 100: expected labels 0…2, got 0…3"):
        evaluator.update([as_detection([(0, 3, 1, 1, 2, 2), (0, 0, 1, 1, 2, 2)])], as_batch([index.info(0)]))
    with pytest.raises(ValueError, match="image 100: expected finite"):
        evaluator.update([as_detection([(0, 0, math.nan, 1, 2, 2)])], as_batch([index.info(0)]))


def test_best_300_of_an_image_are_kept(index, feed):
    evaluator = DetectionEvaluator(index)
    many = [(0, 1, 0, 0, 5, 5)] * 400
    scores = [i / 400 for i in range(400)]
    random.Random(0).shuffle(scores)
    feed(evaluator, many, scores)
    kept = evaluator.rows()
    assert kept.shape == (300, 7) and kept[:, 5].min() == pytest.approx(0.25)


def test_half_precision_under_inference_mode(index, as_batch, as_detection):
    """What a model under autocast hands over."""
    evaluator = DetectionEvaluator(index)
    with torch.inference_mode():
        for row in range(3):
            mine = as_detection([b for b in BOXES if b[0] == row])
            mine["boxes"], mine["scores"] = mine["boxes"].half(), mine["scores"].bfloat16()
            evaluator.update([mine], as_batch([index.info(row)]))
        assert evaluator.compute().stats["AP"] == pytest.approx(1)


def test_reset_forgets(index, feed):
    evaluator = DetectionEvaluator(index)
    feed(evaluator, BOXES)
    evaluator.reset()
    assert len(evaluator.rows()) == 0
    feed(evaluator, BOXES)
    assert evaluator.compute().stats["AP"] == pytest.approx(1)


def test_predictions_give_the_same_figures(index, feed, tmp_path):
    shifted = [(r, c, x0 + 3, y0 + 1.1, x1, y1) for r, c, x0, y0, x1, y1 in BOXES]
    evaluator = DetectionEvaluator(index)
    feed(evaluator, shifted, [0.3, 0.1, 0.7, 0.33])
    stored = json.loads(json.dumps(evaluator.predictions()))
    one, other = (evaluate(index.to_coco(), results) for results in (stored, evaluator.rows()))
    assert np.array_equal(one.precision, other.precision) and 0 < one.stats[0] < 1


class TestMetrics:
    @pytest.fixture
    def result(self, index, feed):
        return scored(index, feed, [BOXES[0], BOXES[1]])

    def test_are_json_and_complete(self, result):
        metrics = json.loads(json.dumps(result.metrics(COUNTS, weights=iif_weights(COUNTS)), allow_nan=False))
        assert set(STATS) < set(metrics)
        assert metrics["tail5"]["image"] == tail_k(result, COUNTS, 5)
        assert metrics["tail10"] == metrics["tail20"] == metrics["tail5"]
        assert metrics["tail_classes"]["tail5"]["image"] == {"classes": ["bus", "car"], "skipped": ["tram"]}
        assert metrics["groups"] == {"rare": None, "common": pytest.approx(result.ap[:2].mean()), "frequent": None}
        assert metrics["skipped"] == ["tram"] and metrics["notices"] == []
        assert metrics["data_digest"].startswith("digest of")

    def test_rows_a_class(self, result):
        rows = result.per_class(COUNTS, iif_weights(COUNTS))
        columns = ["class", "name", "train_images", "train_instances", "weight", "val_instances", "AP", "AP50", "AR"]
        columns += ["best_F1", "best_score"]
        assert all(list(row) == columns for row in rows)
        assert rows[1] | {"weight": None} == {
            "class": 1, "name": "bus", "train_images": 20, "train_instances": 25, "weight": None,
            "val_instances": 1, "AP": pytest.approx(1), "AP50": pytest.approx(1), "AR": 1,
            "best_F1": pytest.approx(1), "best_score": pytest.approx(0.9),
        }  # fmt: skip
        assert rows[2]["weight"] == pytest.approx(float(iif_weights(COUNTS)[2]))
        assert rows[2]["AP"] is None and rows[2]["val_instances"] == 0

    def test_without_counts_tails_are_null_with_a_notice(self, result):
        metrics = result.metrics()
        assert metrics["tail5"] == {"image": None, "instance": None} and metrics["tail_classes"] is None
        assert set(metrics["groups"].values()) == {None}
        assert "no training counts" in metrics["notices"][0]
        assert metrics["per_class"][0]["train_images"] is None

    def test_ks_and_groups_of_choice(self, result):
        metrics = result.metrics(COUNTS, ks=(1,), groups=(19, 20))
        assert "tail5" not in metrics and metrics["tail1"]["image"] == pytest.approx(1)
        assert metrics["groups"] == pytest.approx({"rare": None, "common": result.ap[1], "frequent": result.ap[0]})

    def test_masks_of_the_reference_files(self, oracle):
        """Means over classes of the result are the engine's own figures."""
        gt = oracle("instances_val2014_100.json")
        categories = list(reversed(gt["categories"]))
        output = evaluate(gt, oracle("instances_val2014_fakesegm100_results.json"), iou_type="segm")
        ids = np.array([c["id"] for c in categories])
        result = EvalResult.from_engine(output, gt, [c["name"] for c in categories], ids, "segm")
        for figure, values in (("AP", result.ap), ("AP50", result.ap50), ("AR100", result.ar)):
            assert np.nanmean(values) == pytest.approx(result.stats[figure], abs=1e-12)
        assert result.gt_instances.sum() == sum(not a["iscrowd"] for a in gt["annotations"])
        assert [np.isnan(ap) for ap in result.ap] == (result.gt_instances == 0).tolist()


coordinate = st.integers(0, 139)  # inside the image, as a DatasetIndex promises
side = st.integers(4, 60)
box = st.builds(
    lambda row, label, x, y, w, h: (row, label, float(x), float(y % 40), float(x + w), float(y % 40 + h)),
    st.integers(0, 2), st.integers(0, 2), coordinate, coordinate, side, side,
)  # fmt: skip
boxes_and_finds = st.tuples(st.lists(box, min_size=1, max_size=8), st.lists(box, max_size=8), st.integers(0, 2**20))


def mix(truth, noise, seed):
    """Some true boxes, some noise, some scores."""
    rng = random.Random(seed)
    found = [b for b in truth if rng.random() < 0.7] + noise
    rng.shuffle(found)
    return found, [rng.randint(1, 9) / 10 for _ in found]


@settings(max_examples=40, deadline=None)
@given(boxes_and_finds)
def test_any_perfect_detections_give_ap_1(fake_index, feed, drawn):
    truth = drawn[0]
    assert scored(fake_index(truth), feed, truth).stats["AP"] == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(boxes_and_finds, st.permutations(range(3)))
def test_the_order_of_images_changes_nothing(fake_index, feed, drawn, order):
    found, scores = mix(*drawn)
    one, other = (scored(fake_index(drawn[0]), feed, found, scores, o) for o in (None, order))
    assert np.array_equal(one.precision, other.precision) and np.array_equal(one.recall, other.recall)


@settings(max_examples=40, deadline=None)
@given(boxes_and_finds, st.integers(0, 2))
def test_removing_a_class_never_raises_its_ap_nor_touches_the_others(fake_index, feed, drawn, label):
    found, scores = mix(*drawn)
    index = fake_index(drawn[0])
    kept = [(b, s) for b, s in zip(found, scores, strict=True) if b[1] != label]
    whole = scored(index, feed, found, scores).ap
    less = scored(index, feed, [b for b, _ in kept], [s for _, s in kept]).ap
    assert np.isnan(whole[label]) or less[label] <= whole[label]
    others = np.arange(3) != label
    assert np.array_equal(less[others], whole[others], equal_nan=True)


def test_the_real_index(feed, as_batch, as_detection, tmp_path):
    """The same through a DatasetIndex."""
    boxes = np.array([b[2:] for b in BOXES], dtype=np.float32)
    index = DatasetIndex(
        names=["car", "bus", "tram"],
        root=str(tmp_path),
        files=[f"{i}.jpg" for i in range(3)],
        sizes=np.array([[100, 200]] * 3, dtype=np.int32),
        image_ids=np.array([12, 5, 7]),
        box_image=np.array([b[0] for b in BOXES]),
        boxes=boxes,
        labels=np.array([b[1] for b in BOXES]),
        crowd=np.zeros(4, bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        ann_ids=np.arange(4),
        category_ids=np.array([3, 1, 2]),
    )
    evaluator = DetectionEvaluator(index)
    for row, image_id in enumerate([12, 5, 7]):
        mine = as_detection([b for b in BOXES if b[0] == row])
        evaluator.update([mine], as_batch([ImageInfo(image_id, row, f"{row}.jpg", (100, 200))]))
    result = evaluator.compute()
    assert result.stats["AP"] == pytest.approx(1) and result.gt_instances.tolist() == [3, 1, 0]
    assert result.metrics(index.counts())["data_digest"] == index.digest()
