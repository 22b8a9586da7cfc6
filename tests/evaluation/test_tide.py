"""TIDE: each kind of error by an example of it, and ΔAP_FP by deleting the false positives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from iifdet.evaluation.engine import evaluate
from iifdet.evaluation.matching import match_records
from iifdet.evaluation.resampling import weighted_ap
from iifdet.evaluation.tide import tide_errors

TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "width": 99, "height": 99}],
    "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}],
    "annotations": [
        {"image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10]},
        {"image_id": 1, "category_id": 6, "bbox": [50, 50, 10, 10]},
    ],
}
RIGHT = [[1, 0, 0, 10, 10, 0.5, 5], [1, 50, 50, 10, 10, 0.5, 6]]
WRONG = {
    "Cls": [1, 0, 0, 10, 10, 0.9, 6],
    "Loc": [1, 0, 0, 10, 3, 0.9, 5],
    "Both": [1, 0, 0, 10, 3, 0.9, 6],
    "Dupe": [1, 0, 0, 10, 9, 0.4, 5],
    "Bkg": [1, 80, 0, 9, 9, 0.9, 5],
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_error_of_a_kind_is_counted_as_that_kind(kind: str) -> None:
    found = tide_errors(TRUTH, np.array([*RIGHT, WRONG[kind]]))
    assert found.counts == {name: int(name == kind) for name in found.counts}
    assert found.delta["FP"] == pytest.approx(1 - found.ap50)


def test_what_nothing_finds_is_missed_and_nothing_at_all_gains_nothing() -> None:
    assert tide_errors(TRUTH, np.array(RIGHT[:1])).counts["Miss"] == 1
    assert tide_errors(TRUTH, np.zeros((0, 7))).ap50 == 0


def test_the_gain_without_false_positives_is_ap50_of_the_true_ones(oracle: Any) -> None:
    gt, found = oracle("instances_val2014_100.json"), oracle("instances_val2014_fakebbox100_results.json")
    found = np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in found])
    categories = [c["id"] for c in gt["categories"]]
    records = match_records(gt, found, categories)
    right, label = records.correct[0], records.label[records.correct[0]]
    alone = replace(
        records,
        image=records.image[right],
        score=records.score[right],
        correct=records.correct[:, right],
        ignored=records.ignored[:, right],
        bounds=np.searchsorted(label, np.arange(len(categories) + 1)),
    )
    errors, once = tide_errors(gt, found), np.ones((1, records.num_images))
    assert errors.ap50 == pytest.approx(evaluate(gt, found).stats[1])
    assert errors.delta["FP"] == pytest.approx(np.nanmean(weighted_ap(alone, once)[0, :, 0]) - errors.ap50)


def test_in_federated_data_a_detection_is_an_error_only_where_its_class_was_looked_for() -> None:
    images = [{"id": 1, "width": 99, "height": 99}, {"id": 2, "width": 99, "height": 99}]
    stray = np.array([*RIGHT, [2, 0, 0, 9, 9, 0.9, 5]])
    for negative, strays in (([], 0), ([5], 1)):
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        truth = {**TRUTH, "images": [images[0] | lists, images[1] | lists | {"neg_category_ids": negative}]}
        found = tide_errors(truth, stray, protocol="lvis")
        assert found.counts["Bkg"] == strays and found.delta["FP"] == pytest.approx(1 - found.ap50)
        assert (found.ap50 < 0.9) == bool(strays)


def test_crowds_are_no_partners_of_an_error_and_excuse_what_lies_in_them() -> None:
    crowd = {"image_id": 1, "category_id": 5, "bbox": [60, 0, 30, 30], "iscrowd": 1}
    truth = {**TRUTH, "annotations": [*TRUTH["annotations"], crowd]}
    beside, inside = [1, 52, 0, 10, 10, 0.9, 5], [1, 65, 5, 10, 10, 0.9, 5]
    for found in (np.array([*RIGHT, beside, inside]), [result(row) for row in (*RIGHT, beside, inside)]):
        errors = tide_errors(truth, found)
        assert errors.counts == {name: int(name == "Bkg") for name in errors.counts}
        assert errors.ap50 == pytest.approx(evaluate(truth, found).stats[1])


def result(row: list[float]) -> dict[str, Any]:
    return {"image_id": row[0], "bbox": row[1:5], "score": row[5], "category_id": row[6]}
