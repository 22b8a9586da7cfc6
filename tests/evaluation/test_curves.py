"""Confusion matrix, reliability and curves: against hotcoco's own where they mean the same, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.evaluation import DetectionEvaluator, EvalResult, evaluate
from iifdet.evaluation.curves import (
    Matches,
    confusion_matrix,
    greedy_match,
    precision_recall,
    reliability,
    truth_rows,
)
from iifdet.evaluation.matching import match_records

IDS = np.array([7, 3])  # label -> category id, out of order
CAR, BUS = 7, 3


def truth(*rows):
    return np.array([(1, *box, crowd, category) for box, category, crowd in rows], dtype=float).reshape(-1, 7)


def found(*rows):
    return np.array([(1, *box, score, category) for box, category, score in rows], dtype=float).reshape(-1, 7)


A, B, FAR = (0, 0, 10, 10), (50, 50, 20, 20), (90, 90, 5, 5)


class TestConfusion:
    def test_by_hand(self):
        boxes = truth((A, CAR, 0), (B, BUS, 0))
        finds = found((A, CAR, 0.9), (B, CAR, 0.8), (FAR, BUS, 0.7), (A, CAR, 0.6), (B, BUS, 0.1))
        assert confusion_matrix(boxes, finds, IDS).tolist() == [
            [1, 0, 0],  # car: found
            [1, 0, 0],  # bus: called a car; the right answer has too low a score
            [1, 1, 0],  # background: the second car, the far bus
        ]

    def test_operating_point(self):
        boxes, finds = truth((A, CAR, 0)), found((A, CAR, 0.3))
        assert confusion_matrix(boxes, finds, IDS, score=0.3)[0].tolist() == [1, 0, 0]
        assert confusion_matrix(boxes, finds, IDS, score=0.31)[0].tolist() == [0, 0, 1]
        half = found(((0, 0, 10, 5), CAR, 0.9))
        assert confusion_matrix(boxes, half, IDS, iou=0.5)[0, 0] == 1
        assert confusion_matrix(boxes, half, IDS, iou=0.51)[[0, 2], [2, 0]].tolist() == [1, 1]

    def test_own_class_goes_first_where_boxes_overlap(self):
        """A rider over a horse: the detection overlaps the other's box more, but answers for its own."""
        boxes = truth(((0, 0, 10, 12), BUS, 0), (A, CAR, 0))
        finds = found(((0, 0, 10, 11.5), CAR, 0.9), ((0, 0, 10, 10.5), BUS, 0.8))
        assert confusion_matrix(boxes, finds, IDS).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]

    def test_crowds_excuse_their_own_class_only(self):
        boxes = truth((B, CAR, 1))
        inside = (55, 55, 5, 5)
        assert confusion_matrix(boxes, found((inside, CAR, 0.9), (inside, CAR, 0.8)), IDS).sum() == 0
        assert confusion_matrix(boxes, found((inside, BUS, 0.9)), IDS)[2].tolist() == [0, 1, 0]

    def test_images_with_only_one_side(self):
        boxes, finds = truth((A, CAR, 0)), found((A, CAR, 0.9))
        finds[:, 0] = 2
        assert confusion_matrix(boxes, finds, IDS).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
        nothing = np.zeros((0, 7))
        assert confusion_matrix(nothing, nothing, IDS).sum() == 0

    # One box a cell of a coarse grid: no box overlaps two others, so every sensible matching agrees.
    cells = st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 1)), max_size=8, unique_by=lambda c: c[:2]
    )
    finds = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 1), st.integers(0, 6)), max_size=15)

    @settings(max_examples=50, deadline=None)
    @given(cells, finds)
    def test_equals_hotcoco_where_boxes_do_not_overlap(self, cells, finds):
        import hotcoco

        finds = [(*f, 0.99 - i / 40) for i, f in enumerate(finds)]  # no ties
        place = [(30.0 * (c % 3), 30.0 * (c // 3)) for c in range(9)]
        gt = {
            "images": [{"id": i, "width": 90, "height": 90} for i in range(2)],
            "categories": [{"id": BUS, "name": "bus"}, {"id": CAR, "name": "car"}],
            "annotations": [
                {"id": n, "image_id": i, "category_id": int(IDS[c]), "bbox": [*place[p], 20.0, 20.0], "iscrowd": 0}
                for n, (i, p, c) in enumerate(cells, start=1)
            ],
        }
        rows = np.array([[i, *place[p], 20.0, 20.0 - 3 * d, s, IDS[c]] for i, p, c, d, s in finds]).reshape(-1, 7)
        reference = hotcoco.COCO(gt)
        run = hotcoco.COCOeval(reference, reference.load_res(rows), "bbox")
        matrix = run.confusion_matrix(0.5, min_score=0.7)["matrix"]
        order = [1, 0, 2]  # hotcoco sorts by category id
        assert confusion_matrix(truth_rows(gt), rows, IDS, score=0.7).tolist() == matrix[np.ix_(order, order)].tolist()


class TestReliability:
    def test_equals_hotcoco_on_the_reference_files(self, oracle):
        import hotcoco

        gt, results = oracle("instances_val2014_100.json"), oracle("instances_val2014_fakebbox100_results.json")
        run = hotcoco.COCOeval(reference := hotcoco.COCO(gt), reference.load_res(results), "bbox")
        run.evaluate()
        ids = np.array([c["id"] for c in reversed(gt["categories"])])
        rows = np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in results])
        for iou in (0.5, 0.75):
            expected = run.calibration(10, iou)
            matches = match_records(gt, rows, ids).matches(iou)
            ours = reliability(matches, least=0)
            assert ours.count.tolist() == [b["count"] for b in expected["bins"]]
            assert np.nan_to_num(ours.confidence) == pytest.approx([b["avg_confidence"] for b in expected["bins"]])
            assert np.nan_to_num(ours.precision) == pytest.approx([b["avg_accuracy"] for b in expected["bins"]])
            assert (ours.ece, ours.mce) == pytest.approx((expected["ece"], expected["mce"]))
            names = [c["name"] for c in reversed(gt["categories"])]
            for label in {*matches.labels.tolist()}:
                mine = reliability(matches, labels=[label], least=0)
                assert mine.ece == pytest.approx(expected["per_category"][names[label]])

    def test_false_alarms_that_nobody_would_believe_do_not_dilute_the_error(self):
        scores, correct = np.full(1000, 0.9), np.arange(1000) % 2 == 0
        junk = Matches(np.full(50_000, 0.002), np.zeros(50_000, int), np.zeros(50_000, bool))
        sure = Matches(scores, np.zeros(1000, int), correct)
        fields = ("scores", "labels", "correct")
        both = Matches(*(np.concatenate([getattr(m, f) for m in (sure, junk)]) for f in fields))
        assert reliability(both).ece == reliability(sure).ece == pytest.approx(0.4)
        assert reliability(both, least=0).ece < 0.01

    def test_empty(self):
        nothing = reliability(Matches(np.zeros(0), np.zeros(0, int), np.zeros(0, bool)))
        assert math.isnan(nothing.ece) and nothing.count.sum() == 0 and np.isnan(nothing.precision).all()

    def test_limit_and_edges(self):
        finds = found(*[(A, CAR, 1.0 - i / 200) for i in range(101)])
        gt = {
            "images": [{"id": 1}],
            "categories": [{"id": int(i)} for i in IDS],
            "annotations": [{"image_id": 1, "category_id": CAR, "bbox": list(A)}],
        }
        matches = match_records(gt, finds, IDS).matches()
        assert len(matches.scores) == 100 and matches.correct.sum() == 1 and matches.correct[0]
        assert reliability(matches).count[-1] == 21  # 1.0 falls into the last bin


class TestCurves:
    def test_average_of_the_curve_is_ap50(self, oracle):
        gt, results = oracle("instances_val2014_100.json"), oracle("instances_val2014_fakebbox100_results.json")
        ids = np.array([c["id"] for c in gt["categories"]])
        output = evaluate(gt, results)
        result = EvalResult.from_engine(output, gt, [c["name"] for c in gt["categories"]], ids)
        curves = result.pr_curves()
        assert curves.precision.shape == (80, 101)
        assert curves.precision.mean(axis=1) == pytest.approx(result.ap50, nan_ok=True)
        assert np.nanmean(curves.precision) == pytest.approx(result.stats["AP50"])
        assert np.nanmean(result.pr_curves(0.75).precision) == pytest.approx(result.stats["AP75"])
        with pytest.raises(ValueError, match="iou: expected one of"):
            result.pr_curves(0.52)

    def test_f1_by_hand(self):
        precision = np.zeros((101, 3))
        precision[:51, 0] = 1.0  # all found up to recall .5, nothing beyond
        precision[:, 2] = -1  # no ground truth
        scores = np.tile(np.linspace(1, 0, 101)[:, None], 3)
        curves = precision_recall(precision, scores)
        assert curves.best_f1 == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
        assert curves.best_score == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
        assert np.isnan(precision_recall(-np.ones((101, 2)), np.zeros((101, 2))).best_f1).all()


def test_greedy_match_is_one_to_one_and_best_first():
    iou = np.array([[0.6, 0.9, 0.0], [0.7, 0.95, 0.0], [0.9, 0.9, 0.4]])
    assert greedy_match(iou, np.zeros(3, bool), 0.5).tolist() == [1, 0, -1]
    assert greedy_match(iou, np.array([False, True, False]), 0.5).tolist() == [0, -1, -1]
    assert greedy_match(iou[:, :0], np.zeros(0, bool), 0.5).tolist() == [-1, -1, -1]


def test_evaluator_offers_both(fake_index, feed):
    boxes = [(0, 0, 10, 10, 30, 30), (1, 1, 50, 20, 90, 80)]
    evaluator = DetectionEvaluator(fake_index(boxes))
    feed(evaluator, [boxes[0], (1, 0, 50, 20, 90, 80)], [0.9, 0.7])
    assert evaluator.confusion_matrix().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    curve = evaluator.reliability()
    assert curve.count.sum() == 2
    assert curve.ece == pytest.approx((0.1 + 0.7) / 2)
