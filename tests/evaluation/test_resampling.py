"""Match records and resampled AP, against both engines on whole and on duplicated data, and against a known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iifdet.evaluation import matching
from iifdet.evaluation.engine import evaluate
from iifdet.evaluation.matching import IOUS, MatchRecords, match_both, match_records
from iifdet.evaluation.resampling import enough_images, image_weights, interval, weighted_ap

CATEGORIES = [7, 3, 11]  #: label -> category; the last class has no box


def split(seed: int, images: int = 12) -> tuple[dict[str, Any], np.ndarray]:
    """Boxes, crowds and detections around them and elsewhere; no two detections have the same score."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(500)[:images].tolist()
    annotations, rows = [], []
    for image in ids[1:]:  # the first image is empty
        for _ in range(rng.integers(0, 4)):
            box = [*rng.integers(0, 60, 2), *rng.integers(10, 40, 2)]
            category, crowd = CATEGORIES[rng.integers(2)], int(rng.random() < 0.15)
            annotations.append({"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd})
            for _ in range(rng.integers(0, 4)):
                rows.append([image, *(np.array(box) + rng.normal(0, 2.5, 4)), 0, category])
        for _ in range(rng.integers(0, 5)):
            rows.append([image, *rng.integers(0, 60, 2), *rng.integers(10, 40, 2), 0, CATEGORIES[rng.integers(3)]])
    found = np.array(rows, float).reshape(-1, 7)
    found[:, 5] = rng.permutation(len(found)) / len(found)
    gt: dict[str, Any] = {"images": [{"id": i, "width": 120, "height": 120} for i in ids]}
    gt |= {"categories": [{"id": c, "name": str(c)} for c in CATEGORIES], "annotations": annotations}
    return gt, found


def engine_ap(gt: dict[str, Any], found: Any, categories: list[int] = CATEGORIES, **options: Any) -> np.ndarray:
    """(C, T) AP of each class as an engine gives it; NaN without boxes."""
    output = evaluate(gt, found, **options)
    precision = output.precision[:, :, np.searchsorted(output.category_ids, categories), 0, -1]
    return np.where(precision > -1, precision, np.nan).mean(axis=1).T


def repeated(gt: dict[str, Any], found: np.ndarray, times: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The data set in which the n-th image, by id, lies ``times[n]`` times, under new ids."""
    images, annotations, rows = [], [], []
    for image, count in zip(sorted(gt["images"], key=lambda i: i["id"]), times.astype(int), strict=True):
        for _ in range(count):
            new = len(images) + 1000
            images.append({**image, "id": new})
            annotations += [{**a, "image_id": new} for a in gt["annotations"] if a["image_id"] == image["id"]]
            rows += [[new, *row[1:]] for row in found.tolist() if row[0] == image["id"]]
    return {**gt, "images": images, "annotations": annotations}, np.array(rows).reshape(-1, 7)


def ones(gt: dict[str, Any]) -> np.ndarray:
    return np.ones((1, len(gt["images"])))


@pytest.mark.parametrize("seed", range(5))
def test_without_resampling_ap_is_the_engines(seed: int) -> None:
    gt, found = split(seed)
    ap = weighted_ap(match_records(gt, found, CATEGORIES), ones(gt))[0]
    np.testing.assert_allclose(ap, engine_ap(gt, found), rtol=0, atol=1e-12)
    assert np.isnan(ap[2]).all() and np.isfinite(ap[:2]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_replicate_is_pycocotools_on_duplicated_images(seed: int) -> None:
    gt, found = split(seed)
    weights = next(image_weights(len(gt["images"]), 4, seed))
    ap = weighted_ap(match_records(gt, found, CATEGORIES), weights)
    for times, mine in zip(weights, ap, strict=True):
        theirs = engine_ap(*repeated(gt, found, times), engine="pycocotools")
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_boxes_and_masks_of_coco_give_the_engines_ap(oracle: Any, iou_type: str) -> None:
    gt, found = oracle("instances_val2014_100.json"), oracle(f"instances_val2014_fake{iou_type}100_results.json")
    categories = [c["id"] for c in gt["categories"]]
    ap = weighted_ap(match_records(gt, found, categories, iou_type), ones(gt))[0]
    np.testing.assert_allclose(ap, engine_ap(gt, found, categories, iou_type=iou_type), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_federated_data_give_lvis_protocols_ap(seed: int) -> None:
    gt, found = split(seed)
    rng = np.random.default_rng(seed)
    present = {(a["image_id"], a["category_id"]) for a in gt["annotations"]}
    for a in gt["annotations"]:
        a["iscrowd"] = 0
    for image in gt["images"]:
        here = [c for c in CATEGORIES if (image["id"], c) in present]
        image["neg_category_ids"] = [c for c in CATEGORIES if c not in here and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in here if rng.random() < 0.4]
    ap = weighted_ap(match_records(gt, found, CATEGORIES, protocol="lvis"), ones(gt))[0]
    np.testing.assert_allclose(ap, engine_ap(gt, found, protocol="lvis"), rtol=0, atol=1e-12)


def test_only_the_best_100_of_an_image_and_class_count_unless_ap_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    gt, found = split(1)
    box = next(a for a in gt["annotations"] if not a["iscrowd"])
    stray = [[box["image_id"], 90, 90, 5, 5, 2 - i / 200, box["category_id"]] for i in range(100)]
    crowded = np.concatenate([found, stray])
    records = match_records(gt, crowded, CATEGORIES)
    assert (records.image == records.image[records.score > 1][0]).sum() >= 100
    np.testing.assert_allclose(weighted_ap(records, ones(gt))[0], engine_ap(gt, crowded), rtol=0, atol=1e-12)
    fixed = match_both(gt, crowded, CATEGORIES)[1]
    theirs = engine_ap(gt, crowded, max_dets=(1, 10, 10_000))
    np.testing.assert_allclose(weighted_ap(fixed, ones(gt))[0], theirs, rtol=0, atol=1e-12)
    monkeypatch.setattr(matching, "FIXED", 6)
    six = np.concatenate([f[np.argsort(-f[:, 5])][:6] for f in (found[found[:, 6] == c] for c in CATEGORIES)])
    capped = weighted_ap(match_both(gt, found, CATEGORIES)[1], ones(gt))[0]
    np.testing.assert_allclose(capped, engine_ap(gt, six), rtol=0, atol=1e-12)


def test_no_detections_are_zero_and_classes_that_were_not_drawn_are_unknown() -> None:
    gt, found = split(2)
    nothing = match_records(gt, np.zeros((0, 7)), CATEGORIES)
    assert weighted_ap(nothing, ones(gt))[0, :2].max() == 0 and nothing.truth_score.max() == -np.inf
    assert np.isnan(weighted_ap(match_records(gt, found, CATEGORIES), 0 * ones(gt))).all()


def test_draws_are_the_same_for_every_run_and_draw_as_many_images_as_there_are() -> None:
    first, second = (np.concatenate(list(image_weights(20, 300, seed=4))) for _ in range(2))
    assert np.array_equal(first, second) and first.shape == (300, 20) and (first.sum(axis=1) == 20).all()
    assert not np.array_equal(first, np.concatenate(list(image_weights(20, 300, seed=5))))
    assert list(image_weights(20, 0)) == []


def test_an_interval_lies_about_its_figure_and_leaves_undefined_draws_out() -> None:
    draws = np.append(np.linspace(0.5, 0.7, 101), np.nan)  # the draws are .1 higher than the figure
    found = interval(0.5, draws, 0.9)
    assert (found.low, found.high) == pytest.approx((0.41, 0.59))
    assert interval(0.05, draws, 0.9, (0.0, 1.0)).low == 0
    assert np.isnan(interval(0.5, np.array([np.nan])).low) and np.isnan(interval(float("nan"), draws).high)


def simulate(rng: np.random.Generator, images: int, rate: float, classes: int, bonus: float) -> list[MatchRecords]:
    """Two runs over the same boxes, Poisson(rate) of each class an image; the second is surer of them by ``bonus``."""
    boxes = rng.poisson(rate, (classes, images))
    image = np.concatenate([np.repeat(np.arange(images), n) for n in boxes])
    label = np.repeat(np.arange(classes), boxes.sum(axis=1))
    found, quality = rng.random(len(image)) < 0.85, rng.beta(5, 2, len(image))
    sure = 0.8 * quality + rng.normal(0, 0.3, len(image))
    alarms = rng.poisson(2 * rate, (classes, images))
    strays = np.concatenate([np.repeat(np.arange(images), n) for n in alarms])
    runs = []
    for extra in (0.0, bonus):
        rows = np.concatenate([image[found], strays])
        labels = np.concatenate([label[found], np.repeat(np.arange(classes), alarms.sum(axis=1))])
        noise = rng.normal(0, 0.1, len(rows))
        score = np.concatenate([sure[found] + extra, rng.normal(0.1, 0.3, len(strays))]) + noise
        overlap = np.concatenate([quality[found], np.zeros(len(strays))])
        order = np.lexsort((rows, -score, labels))
        correct = overlap[order] >= IOUS[:, None]
        bounds, ends = (np.searchsorted(v, np.arange(classes + 1)) for v in (labels[order], label))
        unused = np.full((len(IOUS), len(image)), -np.inf)
        nothing = np.zeros_like(correct)
        runs.append(
            MatchRecords(images, classes, rows[order], score[order], bounds, correct, nothing, image, ends, unused)
        )
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "rate"), [(2, 0.2), (12, 0.08)])
def test_intervals_cover_what_they_say(classes: int, rate: float) -> None:
    """Nominal 95 %: the mean AP of splits of this size, and its difference between two runs."""
    images, trials, bonus = 150, 100, 0.15
    samples = [simulate(np.random.default_rng(10_000 + n), images, rate, classes, bonus) for n in range(400)]
    aps = np.array([[np.nanmean(weighted_ap(run, np.ones((1, images)))) for run in runs] for runs in samples])
    truth, change = aps[:, 0].mean(), (aps[:, 1] - aps[:, 0]).mean()
    assert change > 0.01
    covered = np.zeros(2)
    for trial in range(trials):
        runs = simulate(np.random.default_rng(trial), images, rate, classes, bonus)
        values = [np.nanmean(weighted_ap(run, np.ones((1, images)))) for run in runs]
        weights = list(image_weights(images, 200, trial))
        draws = [np.concatenate([np.nanmean(weighted_ap(run, w), axis=(1, 2)) for w in weights]) for run in runs]
        single, paired = interval(values[0], draws[0]), interval(values[1] - values[0], draws[1] - draws[0])
        covered += [single.low <= truth <= single.high, paired.low <= change <= paired.high]
    assert (covered / trials >= 0.9).all() and (covered / trials <= 0.99).all(), covered / trials


@pytest.mark.parametrize(
    ("sizes", "given"), [([1] * 5 + [50] * 15, False), ([1] * 10 + [10] * 10, False), ([5] * 20, True), ([10], True)]
)
def test_intervals_are_given_where_runs_of_equal_quality_are_rarely_told_apart(sizes: list[int], given: bool) -> None:
    """And not where they would be more than twice as often as the level promises."""
    rng, label = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    apart = 0
    for trial in range(300):
        change = (rng.random((2, len(label))) < 0.5).astype(int)
        difference = change[1] - change[0]
        weights = np.concatenate([np.ones((1, len(label))), *image_weights(len(label), 200, trial)])
        of_class = np.stack([weights * (label == c) for c in range(len(sizes))], axis=1)  # (B, C, N)
        with np.errstate(invalid="ignore"):
            drawn = np.nanmean((of_class * difference).sum(axis=2) / of_class.sum(axis=2), axis=1)
        span = interval(drawn[0], drawn[1:])
        apart += not span.low <= 0 <= span.high
    assert enough_images(np.array(sizes)) == given == (apart / 300 < 0.12)


def test_without_enough_images_there_is_no_interval() -> None:
    span = interval(0.4, np.linspace(0, 1, 101), enough=False)
    assert span.value == 0.4 and np.isnan(span.low) and np.isnan(span.high)
    assert not enough_images(np.zeros(3)) and enough_images(np.array([10])) and not enough_images(np.array([9]))
