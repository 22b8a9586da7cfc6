"""``iifdet compare`` of classifiers whose predictions are known by heart."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import iifdet
from iifdet.evaluation import ClassResult
from iifdet.longtail import ClassCounts

NAMES = ["head", "middle", "tail"]
LABELS = np.repeat([0, 1, 2], [50, 30, 20])
Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(name, wrong): a folder as ``val`` leaves it, the first ``wrong[c]`` images of class c taken for another."""

    def make(name: str, wrong: Sequence[int], labels: np.ndarray = LABELS, score: float = 0.8) -> Path:
        predicted = labels.copy()
        for c, number in enumerate(wrong):
            predicted[np.flatnonzero(labels == c)[:number]] = (c + 1) % 3
        rank, images = (predicted != labels).astype(int), torch.tensor([500, 50, 5])
        none, scores = np.zeros(len(labels)), np.full(len(labels), score)
        result = ClassResult(NAMES, labels, predicted, rank, scores, none, none, f"{len(labels)} images")
        folder = tmp_path / name
        folder.mkdir()
        counts = ClassCounts(NAMES, images, images, 555)
        (folder / "metrics.json").write_text(json.dumps(result.metrics(counts)))
        rows = [
            {"image_id": i, "label": int(a), "classes": [int(b)], "scores": [score]}
            for i, (a, b) in enumerate(zip(labels, predicted, strict=True))
        ]
        (folder / "predictions.json").write_text(json.dumps(rows[::-1]))  # in any order
        return folder

    return make


def test_figures_differences_and_tests_are_those_of_the_images(run: Run) -> None:
    found = iifdet.compare([run("first", (0, 6, 16)), run("second", (5, 6, 6))], draws=2000)
    assert found.analysis is not None and not found.notices
    first, second = found.analysis.runs
    assert first.per_class.tolist() == [1.0, 0.8, 0.2] and second.per_class.tolist() == [0.9, 0.8, 0.7]
    assert {f: round(s.value, 6) for f, s in second.differences.items()} == {
        **{"top1": 0.05, "mean_class": round(0.4 / 3, 6)},
        **{"many": -0.1, "medium": 0.0, "few": 0.5},
    }
    test = second.mcnemar["few"]
    assert (test.both, test.first, test.second, test.neither) == (4, 0, 10, 6)
    assert test.exact and test.p == pytest.approx(2 * 0.5**10)
    assert second.calibration["few"].ece == pytest.approx(0.1) and first.calibration["few"].ece == pytest.approx(0.6)


def test_intervals_have_the_width_of_the_binomial(run: Run) -> None:
    found = iifdet.compare([run("a", (10, 6, 4))], draws=4000)
    assert found.analysis is not None
    span = found.analysis.runs[0].figures["top1"]
    assert span.value == 0.8
    assert (span.high - span.low) / 2 == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 100), rel=0.06)


def test_a_run_does_not_differ_from_itself(run: Run) -> None:
    folder = run("a", (3, 2, 1))
    found = iifdet.compare([folder, folder], draws=100)
    assert found.analysis is not None
    again = found.analysis.runs[1]
    assert all((s.value, s.low, s.high) == (0, 0, 0) for s in again.differences.values())
    assert again.mcnemar["all"].p == 1 and again.class_differences is not None and not again.class_differences.any()


def test_the_report_has_a_row_a_class_and_pictures(run: Run, tmp_path: Path) -> None:
    found = iifdet.compare([run("a", (0, 6, 16)), run("b", (5, 6, 6))], draws=100, project=tmp_path / "out")
    assert found.folder is not None
    with (found.folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["name"], r["train_images"], float(r["b difference"])) for r in rows] == [
        *(("head", "500", -10.0), ("middle", "50", 0.0), ("tail", "5", 50.0))
    ]
    page = (found.folder / "report.html").read_text()
    assert page.count("<img") == 3 and "on images classified right" in page and "IoU 0.5 (" not in page


def test_what_cannot_be_compared_is_said_and_the_table_stands(run: Run, tmp_path: Path) -> None:
    one, other = run("a", (0, 6, 16)), run("b", (5, 6, 6))
    rows = json.loads((other / "predictions.json").read_text())
    (other / "predictions.json").write_text(json.dumps(rows[1:]))
    assert "same images" in iifdet.compare([one, other]).notices[-1]
    (one / "predictions.json").write_text('[{"image_id": 0, "label": 7, "classes": [0], "scores": [1]}]')
    assert "expected classes below 3" in iifdet.compare([one]).notices[-1]
    (one / "predictions.json").write_text("[]")
    assert "expected images" in iifdet.compare([one]).notices[-1]
    for broken in ("{", '[{"image_id": 0}]', '[{"image_id": 0, "label": 0, "classes": 1, "scores": []}]'):
        (one / "predictions.json").write_text(broken)
        found = iifdet.compare([one])
        assert "a classifier's predictions" in found.notices[-1] and found.analysis is None and found.rows
    (one / "metrics.json").write_text('{"top1": 0.5}')
    assert "expected per_class in" in iifdet.compare([one]).notices[-1]
