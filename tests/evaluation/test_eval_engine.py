"""Both engines, against each other and against published figures."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.errors import InputError
from iifdet.evaluation.engine import ENGINES, STATS, evaluate, summarise

RESULTS = {"bbox": "instances_val2014_fakebbox100_results.json", "segm": "instances_val2014_fakesegm100_results.json"}
TRUTH = "instances_val2014_100.json"
GT = {
    "images": [{"id": 0, "width": 90, "height": 90}, {"id": 4, "width": 90, "height": 90}],
    "categories": [{"id": 9, "name": "z"}, {"id": 0, "name": "a"}],
    "annotations": [
        {"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 10, 10]},
        {"id": 0, "image_id": 4, "category_id": 9, "bbox": [20, 20, 50, 50]},
    ],
}
PERFECT = np.array([[0, 0, 0, 10, 10, 0.9, 0], [4, 20, 20, 50, 50, 0.7, 9]])


def columns(results: list[dict]) -> np.ndarray:
    return np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in results], dtype=np.float64)


def assert_same(one, other) -> None:
    for field in ("stats", "precision", "recall", "scores", "category_ids", "image_ids"):
        a, b = getattr(one, field), getattr(other, field)
        assert a.shape == b.shape and np.array_equal(a, b), field


@pytest.mark.parametrize("iou_type", RESULTS)
def test_engines_agree_to_the_last_bit_and_give_the_published_figures(oracle, iou_type):
    gt, results = oracle(TRUTH), oracle(RESULTS[iou_type])
    outputs = [evaluate(gt, results, engine=engine, iou_type=iou_type) for engine in ENGINES]
    assert_same(*outputs)
    expected = oracle("val2014_100_expected.json")
    assert expected["order"] == list(STATS)
    assert outputs[0].stats.round(6).tolist() == expected[iou_type]
    assert outputs[0].precision.shape == (10, 101, 80, 4, 3) and len(outputs[0].image_ids) == 100


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_and_dicts_give_the_same(oracle, engine):
    gt, results = oracle(TRUTH), oracle(RESULTS["bbox"])
    assert_same(evaluate(gt, results, engine=engine), evaluate(gt, columns(results), engine=engine))


def test_summary_is_that_of_the_tools_themselves(oracle):
    """Our means over the arrays, against the summarize() of both packages."""
    import hotcoco
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt, results = oracle(TRUTH), oracle(RESULTS["bbox"])
    ours = evaluate(gt, results).stats
    with contextlib.redirect_stdout(io.StringIO()):
        fast = hotcoco.COCO(gt)
        theirs = [hotcoco.COCOeval(fast, fast.load_res(results), "bbox")]
        slow = COCO()
        slow.dataset = gt
        slow.createIndex()
        theirs.append(COCOeval(slow, slow.loadRes(results), "bbox"))
        for run in theirs:
            run.evaluate()
            run.accumulate()
            run.summarize()
    assert all(np.array_equal(ours, run.stats) for run in theirs)


def test_nothing_is_printed_or_modified(oracle, capfd):
    gt, results = oracle(TRUTH), oracle(RESULTS["segm"])
    before = copy.deepcopy((gt, results))
    for engine in ENGINES:
        evaluate(gt, results, engine=engine, iou_type="segm")
        evaluate(GT, PERFECT, engine=engine)
    assert (gt, results) == before
    assert capfd.readouterr() == ("", "")


def test_mask_area_does_not_come_from_a_box_beside_it(oracle):
    gt, results = oracle(TRUTH), oracle(RESULTS["segm"])
    with_boxes = [{**r, "bbox": [0, 0, 2000, 2000]} for r in results]
    assert_same(evaluate(gt, results, iou_type="segm"), evaluate(gt, with_boxes, iou_type="segm"))


@pytest.mark.parametrize("engine", ENGINES)
class TestEdges:
    def test_ids_of_zero_and_repeated_annotation_ids(self, engine):
        output = evaluate(GT, PERFECT, engine=engine)
        assert output.stats[0] == pytest.approx(1)  # the protocol divides by 1 + 2e-16
        assert output.category_ids.tolist() == [0, 9] and output.image_ids.tolist() == [0, 4]

    @pytest.mark.parametrize("nothing", [np.zeros((0, 7)), np.zeros(0), []], ids=["array", "flat", "list"])
    def test_empty_detections_give_zeros(self, engine, nothing):
        output = evaluate(GT, nothing, engine=engine)
        assert output.stats.tolist() == [0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, -1]

    def test_empty_masks(self, engine):
        square = [[0, 0, 9, 0, 9, 9, 0, 9]]
        gt = {**GT, "annotations": [{**a, "segmentation": square} for a in GT["annotations"]]}
        assert evaluate(gt, [], engine=engine, iou_type="segm").stats[0] == 0

    def test_no_ground_truth_gives_minus_one(self, engine):
        gt = {**GT, "annotations": []}
        for results in (PERFECT, PERFECT[:0]):
            assert (evaluate(gt, results, engine=engine).stats == -1).all()

    def test_no_images(self, engine):
        gt = {**GT, "images": [], "annotations": []}
        assert (evaluate(gt, PERFECT[:0], engine=engine).stats == -1).all()

    def test_crowds_are_ignored(self, engine):
        crowd = {"id": 5, "image_id": 0, "category_id": 0, "bbox": [40, 40, 50, 50], "iscrowd": 1}
        gt = {**GT, "annotations": [*GT["annotations"], crowd]}
        inside = np.array([[0, 42, 42, 9, 9, 0.99, 0], [0, 60, 60, 9, 9, 0.98, 0]])
        assert evaluate(gt, np.concatenate([inside, PERFECT]), engine=engine).stats[0] == pytest.approx(1)
        assert evaluate(GT, np.concatenate([inside, PERFECT]), engine=engine).stats[0] < 0.9

    def test_other_limits_reach_the_figures(self, engine):
        decoys = np.array([[0, 70, 70, 9, 9, 0.95 + i / 1000, 0] for i in range(3)])
        results = np.concatenate([decoys, PERFECT])
        one, many = (evaluate(GT, results, engine=engine, max_dets=m).stats for m in ((1, 2, 3), (1, 2, 300)))
        assert one[0] == pytest.approx(0.5) and many[0] > 0.6


def test_wrong_input_says_expected_got_next_step():
    for change, words in [
        ({"engine": "hotcocoa"}, "did you mean 'hotcoco'"),
        ({"iou_type": "obb"}, "expected 'bbox' or 'segm'"),
        ({"iou_type": "segm"}, "got a box alone"),
        ({"max_dets": (100, 1)}, "three ascending limits"),
        ({"results": np.zeros((3, 6))}, r"\(n, 7\) array"),
        ({"results": np.array([[3, 0, 0, 1, 1, 0.5, 0]])}, "image ids .* got 3"),
        ({"results": [{"image_id": 0, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}]}, "category ids .* got 1"),
        ({"results": np.array([[0, 0, 0, 1, 1, math.nan, 0]])}, "expected finite"),
        ({"results": np.array([[0, 0, 0, math.inf, 1, 0.5, 0]])}, "expected finite"),
        ({"gt": {**GT, "images": GT["images"] * 2}}, "image ids: expected each once, got 0"),
    ]:
        call = {"gt": GT, "results": PERFECT} | change
        with pytest.raises(InputError, match=words):
            evaluate(call.pop("gt"), call.pop("results"), **call)


# Few distinct values, so that ties of score and overlap happen.
side = st.integers(1, 4).map(lambda n: 10.0 * n)
place = st.integers(0, 4).map(lambda n: 10.0 * n)
box = st.tuples(place, place, side, side)
truths = st.lists(st.tuples(st.integers(0, 2), box, st.booleans(), st.integers(0, 2)), max_size=10)
founds = st.lists(st.tuples(st.integers(0, 2), box, st.integers(0, 4), st.integers(0, 2)), max_size=15)


@settings(max_examples=40, deadline=None)
@given(truths, founds)
def test_engines_agree_on_anything(truth, found):
    gt = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(3)],
        "categories": [{"id": c, "name": str(c)} for c in range(3)],
        "annotations": [
            {"id": n, "image_id": i, "bbox": list(b), "iscrowd": int(crowd), "category_id": c}
            for n, (i, b, crowd, c) in enumerate(truth)
        ],
    }
    results = np.array([[i, *b, s / 4, c] for i, b, s, c in found]).reshape(-1, 7)
    assert_same(*(evaluate(gt, results, engine=engine) for engine in ENGINES))


def test_summary_of_known_arrays():
    precision, recall = np.zeros((10, 101, 2, 4, 3)), -np.ones((10, 2, 4, 3))
    precision[:5, :, 0, 0, 2] = 1.0  # one class of two, at half of the IoU thresholds
    stats = dict(zip(STATS, summarise(precision, recall), strict=True))
    assert (stats["AP"], stats["AP50"], stats["AP75"], stats["AR100"]) == (0.25, 0.5, 0.0, -1.0)
