"""Figures of a classifier, against scikit-learn and torchmetrics."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from iifdet.comparison.classifiers import read_classified
from iifdet.datasets.classification import ArrayImages, ClassIndex
from iifdet.errors import InputError
from iifdet.evaluation import EVALUATORS, ClassificationEvaluator, ClassResult, shots
from iifdet.longtail import ClassCounts
from iifdet.types import Batch, ImageInfo

C = 7
NAMES = [f"c{i}" for i in range(C)]
COUNTS = ClassCounts(NAMES, *[torch.tensor([500, 101, 100, 50, 20, 19, 1])] * 2, num_images=791)


def index_of(labels: Tensor, names: list[str] = NAMES) -> ClassIndex:
    images = ArrayImages(np.zeros((len(labels), 1, 1, 3), np.uint8), [str(i) for i in range(len(labels))])
    return ClassIndex.of(names, images, labels.numpy())


def batch_of(labels: Tensor, ids: list[int] | None = None) -> Batch:
    infos = [ImageInfo(i, i, str(i), (1, 1)) for i in ids or []]
    return Batch(torch.zeros(len(labels), 3, 1, 1), labels, infos)  # type: ignore[arg-type]


def guesses(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right more often than not, and labels."""
    torch.manual_seed(seed)
    labels = torch.randint(0, C, (n,))
    return 2 * torch.randn(n, C) + 2 * torch.nn.functional.one_hot(labels, C), labels


def evaluate(logits: Tensor, labels: Tensor, size: int = 64, activation: str = "softmax") -> ClassResult:
    evaluator = ClassificationEvaluator(index_of(labels), activation)
    for i in range(0, len(labels), size):
        evaluator.update(logits[i : i + size], batch_of(labels[i : i + size]))
    return evaluator.compute()


def test_accuracies_and_confusions_are_scikit_learn_s() -> None:
    logits, labels = guesses()
    result, p = evaluate(logits, labels), logits.softmax(1)
    predicted = logits.argmax(1)
    assert result.top_k(1) == pytest.approx(sk.accuracy_score(labels, predicted))
    assert result.top_k(5) == pytest.approx(sk.top_k_accuracy_score(labels, p, k=5))
    assert result.mean_class_accuracy() == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    np.testing.assert_array_equal(result.confusion_matrix(), sk.confusion_matrix(labels, predicted))
    np.testing.assert_allclose(result.class_accuracy(), sk.recall_score(labels, predicted, average=None))
    precision = [row["precision"] for row in result.per_class()]
    np.testing.assert_allclose(precision, sk.precision_score(labels, predicted, average=None))


def test_likelihood_and_brier_are_scikit_learn_s() -> None:
    logits, labels = guesses()
    metrics, p = evaluate(logits, labels).metrics(COUNTS), logits.double().softmax(1).numpy()
    assert metrics["nll"] == pytest.approx(sk.log_loss(labels, p), rel=1e-5)
    assert metrics["brier"] == pytest.approx(((p - np.eye(C)[labels]) ** 2).sum(1).mean(), rel=1e-5)


def test_under_sigmoid_every_class_is_judged_for_itself() -> None:
    logits, labels = guesses()
    metrics, p = evaluate(logits, labels, activation="sigmoid").metrics(COUNTS), logits.double().sigmoid().numpy()
    hot = np.eye(C)[labels]
    nll = -(hot * np.log(p) + (1 - hot) * np.log(1 - p)).sum(1).mean()
    assert metrics["nll"] == pytest.approx(nll, rel=1e-5)
    assert metrics["brier"] == pytest.approx(((p - hot) ** 2).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_errors_are_torchmetrics(bins: int) -> None:
    logits, labels = guesses()
    result, p = evaluate(logits, labels), logits.softmax(1)
    ours = result.reliability(bins=bins)
    for norm, value in (("l1", ours.ece), ("max", ours.mce)):
        theirs = multiclass_calibration_error(p, labels, C, n_bins=bins, norm=norm)  # type: ignore[arg-type]
        assert value == pytest.approx(theirs.item(), abs=1e-5)
    few = result.reliability([5, 6], bins=bins)
    chosen = labels >= 5
    theirs = multiclass_calibration_error(p[chosen], labels[chosen], C, n_bins=bins)
    assert few.ece == pytest.approx(theirs.item(), abs=1e-5)
    assert few.count.sum() == chosen.sum()


def test_bins_are_closed_on_the_right_and_zero_counts() -> None:
    nothing = np.zeros(0)
    blank = ClassResult(["a"], *[np.zeros(0, np.int64)] * 3, *[nothing] * 3)
    confidence = np.array([0.0, 0.1, 0.2, 0.20000001, 1.0])
    zeros = np.zeros(5, np.int64)
    result = replace(blank, labels=zeros, predicted=zeros, rank=zeros, confidence=confidence)
    assert result.reliability(bins=10).count.tolist() == [2, 1, 1, 0, 0, 0, 0, 0, 0, 1]
    assert blank.reliability().count.sum() == 0 and np.isnan(blank.reliability().ece)


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 5))
def test_ties_go_to_the_first_class_as_argmax_has_it(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 3, (n, classes), generator=generator).float()
    labels = torch.randint(0, classes, (n,), generator=generator)
    evaluator = ClassificationEvaluator(index_of(labels, [str(c) for c in range(classes)]))
    evaluator.update(logits, batch_of(labels))
    result = evaluator.compute()
    expected = logits.argmax(1) if n else torch.zeros(0)
    assert result.predicted.tolist() == expected.tolist()
    assert ((result.rank == 0) == (result.predicted == result.labels)).all()
    assert result.top_k(classes) == 1 or n == 0
    order = [sorted(range(classes), key=lambda c: (-float(row[c]), c)) for row in logits]
    assert result.rank.tolist() == [o.index(int(y)) for o, y in zip(order, labels, strict=True)]


def test_groups_are_means_over_classes_by_training_counts() -> None:
    logits, labels = guesses()
    result = evaluate(logits, labels)
    metrics = result.metrics(COUNTS)
    accuracy = sk.recall_score(labels, logits.argmax(1), average=None)
    expected = {"many": accuracy[:2].mean(), "medium": accuracy[2:5].mean(), "few": accuracy[5:].mean()}
    assert metrics["groups"] == pytest.approx(expected)
    assert metrics["group_thresholds"] == result.metrics(COUNTS, groups=None)["group_thresholds"] == [20, 100]
    wider = result.metrics(COUNTS, groups=(2, 60))["groups"]
    assert wider["few"] == pytest.approx(accuracy[6]) and wider["many"] == pytest.approx(accuracy[:3].mean())
    assert shots(COUNTS, (0, 10_000)) == {"many": [], "medium": list(range(C)), "few": []}
    for bad in ((100, 20), (1,), (-1, 5)):
        with pytest.raises(InputError, match="groups: expected two ascending limits"):
            shots(COUNTS, bad)


def test_metrics_are_json_and_say_what_is_missing() -> None:
    logits, labels = guesses()
    logits, labels = logits[labels != 6], labels[labels != 6]
    metrics = evaluate(logits, labels).metrics(weights=torch.arange(C))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["groups"] == metrics["group_ece"] == {"many": None, "medium": None, "few": None}
    assert metrics["notices"] and metrics["skipped"] == ["c6"]
    assert metrics["per_class"][6]["accuracy"] is None and metrics["per_class"][6]["weight"] == 6.0
    assert ClassificationEvaluator.summary(metrics)["few"] is None
    assert evaluate(logits, labels).metrics(COUNTS)["per_class"][5]["train_images"] == 19
    empty = evaluate(logits[:0], labels[:0]).metrics(COUNTS)
    assert json.dumps(empty, allow_nan=False) and empty["top1"] is None and empty["images"] == 0


def test_counts_of_another_order_go_by_name() -> None:
    logits, labels = guesses()
    turned = ClassCounts(NAMES[::-1], COUNTS.images.flip(0), COUNTS.instances.flip(0), COUNTS.num_images)
    assert evaluate(logits, labels).metrics(turned) == evaluate(logits, labels).metrics(COUNTS)


def test_logits_that_are_no_numbers_are_wrong() -> None:
    logits = torch.full((4, C), float("nan"))
    logits[0] = torch.eye(C)[0]
    result = evaluate(logits, torch.zeros(4, dtype=torch.int64))
    assert result.top_k(1) == 0.25 and result.top_k(5) == 0.25
    metrics = result.metrics(COUNTS)
    assert json.dumps(metrics, allow_nan=False) and metrics["nll"] is None
    assert ClassificationEvaluator.fitness(result) == 0.25
    assert result.confusion_matrix().sum() == 1 and result.confusion_matrix()[0, 0] == 1
    assert metrics["per_class"][0]["predicted_images"] == 1 and "3 images with NaN" in metrics["notices"][0]


def test_a_row_with_a_nan_is_in_no_top_k_however_few_classes_there_are(tmp_path: Path) -> None:
    logits, labels = torch.tensor([[0.0, float("nan")], [1.0, 0.0]]), torch.tensor([0, 0])
    evaluator = ClassificationEvaluator(index_of(labels, ["a", "b"]))
    evaluator.update(logits, batch_of(labels))
    assert evaluator.compute().top_k(5) == 0.5
    (tmp_path / "predictions.json").write_text(json.dumps(evaluator.predictions(), allow_nan=False))
    found = read_classified(tmp_path, ["a", "b"])
    assert found.right.tolist() == [False, True] and found.result.confusion_matrix().tolist() == [[1, 0], [0, 0]]


def test_the_best_checkpoint_is_the_one_that_neglects_no_class() -> None:
    labels = torch.tensor([0] * 98 + [1, 2])
    head = torch.eye(C)[torch.zeros(100, dtype=torch.int64)]
    fair = torch.eye(C)[torch.tensor([0] * 60 + [1] * 39 + [2])]
    results = [evaluate(logits, labels) for logits in (head, fair)]
    assert results[0].top_k(1) > results[1].top_k(1)
    assert ClassificationEvaluator.fitness(results[0]) < ClassificationEvaluator.fitness(results[1])


def test_half_precision_and_any_device_s_logits_are_widened() -> None:
    logits, labels = guesses(50)
    result = evaluate(logits.bfloat16(), labels)
    np.testing.assert_allclose(result.nll, evaluate(logits.bfloat16().float(), labels).nll)


# -- collecting --------------------------------------------------------------------------------------------------------


def shards(logits: Tensor, labels: Tensor, ids: bool) -> list[ClassificationEvaluator]:
    """Two processes that see every second batch."""
    both = [ClassificationEvaluator(index_of(labels)) for _ in range(2)]
    for turn, i in enumerate(range(0, len(labels), 32)):
        rows = list(range(i, min(i + 32, len(labels))))
        both[turn % 2].update(logits[rows], batch_of(labels[rows], rows if ids else None))
    return both


@pytest.mark.parametrize("ids", [True, False])
def test_parts_of_several_processes_join_to_those_of_one(ids: bool) -> None:
    logits, labels = guesses()
    first, second = shards(logits, labels, ids)
    from itertools import zip_longest

    first.parts = [p for turn in zip_longest(first.parts, second.parts) for p in turn if p is not None]
    whole = ClassificationEvaluator(index_of(labels))
    whole.update(logits, batch_of(labels))
    assert first.compute().metrics(COUNTS) == whole.compute().metrics(COUNTS)
    assert first.predictions() == whole.predictions()


def test_predictions_name_images_by_their_row_in_the_whole_split() -> None:
    logits, labels = guesses(20)
    index = index_of(labels).select([7, 3, 11])
    evaluator = ClassificationEvaluator(index)
    evaluator.update(logits[[7, 3, 11]], batch_of(labels[[7, 3, 11]]))
    rows = evaluator.predictions()
    assert [row["image_id"] for row in rows] == [7, 3, 11]
    top = logits[7].softmax(0).topk(5)
    assert rows[0]["classes"] == top.indices.tolist() and rows[0]["label"] == int(labels[7])
    assert rows[0]["scores"] == pytest.approx(top.values.tolist(), abs=1e-6)
    assert json.dumps(rows)
    assert evaluator.confusion_matrix().sum() == 3


def test_images_that_come_twice_never_or_from_elsewhere_are_named() -> None:
    logits, labels = guesses(6)
    index = index_of(labels)

    def feed(*ids: int) -> ClassificationEvaluator:
        evaluator = ClassificationEvaluator(index)
        evaluator.update(logits[: len(ids)], batch_of(labels[: len(ids)], list(ids)))
        return evaluator

    with pytest.raises(ValueError, match="expected each of 6 images once, but 1 came more than once, first 2"):
        feed(0, 1, 2, 2, 3, 4).compute(partial=True)
    with pytest.raises(ValueError, match="but 1 are not of this split, first 9"):
        feed(0, 1, 2, 3, 4, 9).compute(partial=True)
    with pytest.raises(ValueError, match="but 4 are missing, first 2"):
        feed(0, 1).compute()
    part = feed(0, 1).compute(partial=True)
    assert part.data_digest is None and len(part.labels) == 2
    assert feed(*range(6)).compute().data_digest == index.digest()
    many = ClassificationEvaluator(index)
    for _ in range(2):
        many.update(logits, batch_of(labels))
    with pytest.raises(ValueError, match="but 6 are not of this split, first 6"):
        many.compute()


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(3, C), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, C + 1), torch.zeros(4, dtype=torch.int64)),
    ],
)
def test_logits_that_do_not_fit_are_refused(logits: Tensor, labels: Tensor) -> None:
    evaluator = ClassificationEvaluator(index_of(labels))
    with pytest.raises(ValueError, match=r"expected \(4, 7\) logits and as many labels"):
        evaluator.update(logits, batch_of(labels))
    with pytest.raises(ValueError, match="activation: expected"):
        ClassificationEvaluator(index_of(labels), "relu")


def test_the_task_has_this_evaluator() -> None:
    assert EVALUATORS["classify"] is ClassificationEvaluator
    methods: Any = ("reset", "update", "compute", "fitness", "summary", "predictions")
    assert all(callable(getattr(ClassificationEvaluator, name)) for name in methods)


def test_no_warning_escapes_an_evaluation_with_empty_classes() -> None:
    logits, labels = guesses(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(logits, labels).metrics(COUNTS)
