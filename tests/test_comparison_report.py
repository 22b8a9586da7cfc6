"""``iifdet compare`` with predictions at hand: intervals and tests on known runs, and what is written."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import iifdet
from iifdet.cli import main
from iifdet.datasets import load_index
from iifdet.evaluation import DetectionEvaluator
from iifdet.types import Batch, Detection, ImageInfo

Run = Callable[..., Path]


def detections(index: Any, row: int, found: float, rng: np.random.Generator, masks: bool) -> Detection:
    """Each box with probability ``found``, moved a little, and one false alarm."""
    mine = index.boxes_of(row)
    keep = rng.random(mine.stop - mine.start) < found
    boxes = np.concatenate([index.boxes[mine][keep] + rng.normal(0, 1, (int(keep.sum()), 4)), [[2, 2, 20, 20]]])
    labels = np.append(index.labels[mine][keep], rng.integers(len(index.names)))
    scores = np.append(rng.uniform(0.4, 0.9, int(keep.sum())), rng.uniform(0.1, 0.5))
    said = Detection(
        boxes=torch.tensor(boxes).float(), labels=torch.tensor(labels), scores=torch.tensor(scores).float()
    )
    if masks:
        said["masks"] = torch.zeros(len(boxes), 64, 64)
        for mask, (x0, y0, x1, y1) in zip(said["masks"], boxes.clip(0, 64).round().astype(int), strict=True):
            mask[y0:y1, x0:x1] = 1
    return said


@pytest.fixture
def run(tiny_data: str, tmp_path: Path) -> Run:
    """run(name, found): a folder as ``val`` leaves it, of a run that finds this share of the boxes."""

    def make(name: str, found: float, data: str = tiny_data, masks: bool = False) -> Path:
        index, counts = load_index(data, "val"), load_index(data, "train").counts()
        evaluator = DetectionEvaluator(index, masks=masks)
        rng = np.random.default_rng(len(name))
        for row in range(len(index)):
            info = ImageInfo(int(index.image_ids[row]), row, index.files[row], (64, 64))
            evaluator.update([detections(index, row, found, rng, masks)], Batch(torch.zeros(1, 3, 1, 1), [], [info]))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(evaluator.compute().metrics(counts, groups=(3, 8))))
        (folder / "predictions.json").write_text(json.dumps(evaluator.predictions()))
        (folder / "args.yaml").write_text(yaml.safe_dump({"data": data, "split": "val"}))
        return folder

    return make


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny split has an image or two of a class, on which no interval would be given."""
    for limit in ("CLASS_IMAGES", "MEAN_IMAGES"):
        monkeypatch.setattr(f"iifdet.evaluation.resampling.{limit}", 1)


@pytest.mark.usefixtures("any_size")
def test_a_better_run_is_better_beyond_chance_and_equal_runs_are_not(run: Run) -> None:
    worse, better = run("worse", 0.3), run("better", 1.0)
    found = iifdet.compare([worse, better, worse], draws=200)
    assert found.analysis is not None and not found.notices and found.folder is None
    _, second, again = found.analysis.runs
    for figure, row in (("AP", found.rows[1]), ("tail5", found.rows[1]), ("rare", found.rows[1])):
        change = second.differences[figure]
        assert 100 * second.figures[figure].value == pytest.approx(row.values[figure])
        assert 100 * change.value == pytest.approx(row.differences[figure])
        assert 0 < change.low < change.value < change.high
    assert second.mcnemar["all"].p < 0.05 and second.mcnemar["all"].first == 0
    tests, points = second.mcnemar, second.points
    for group in set(tests) - {"all"}:  # each at as many false alarms of its own as the first run has
        assert points[group].alarms <= found.analysis.runs[0].points[group].alarms
    boxes = {group: t.both + t.first + t.second + t.neither for group, t in tests.items()}
    assert sum(boxes.values()) == 2 * boxes["all"]  # the groups' boxes are all boxes
    # The same run again: every draw is paired, so no figure ever differs.
    assert {(d.value, d.low, d.high) for d in again.differences.values()} == {(0.0, 0.0, 0.0)}
    assert all((test.first, test.second) == (0, 0) for test in again.mcnemar.values())
    assert again.points == found.analysis.runs[0].points and [r.name for r in found.analysis.runs] == [
        "worse (1)",
        "better",
        "worse (3)",
    ]


def test_too_few_images_of_a_class_give_figures_and_no_intervals(run: Run, tmp_path: Path) -> None:
    found = iifdet.compare([run("worse", 0.3), run("better", 1.0)], draws=50, project=tmp_path / "out")
    assert found.analysis is not None and found.folder is not None
    assert "no interval where classes have fewer than 5 images" in (found.folder / "compare.md").read_text()
    change = found.analysis.runs[1].differences["AP"]
    assert change.value > 0 and np.isnan(change.low) and np.isnan(change.high)
    assert np.isnan(found.analysis.runs[1].class_differences[:, 1:]).all()


@pytest.mark.usefixtures("any_size")
def test_a_report_holds_every_table_and_picture(
    run: Run, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((tiny_copy / "val.json").read_text())
    for box in document["annotations"]:
        x, y, w, h = box["bbox"]
        box["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tiny_copy / "val.json").write_text(json.dumps(document))
    data = str(tiny_copy / "data.yaml")
    folders = [str(run(name, share, data, masks=True)) for name, share in (("a<b", 0.5), ("iif", 0.9))]
    assert main(["compare", *folders, "draws=50", f"project={tmp_path / 'out'}", "name=c"]) == 0
    out, said = tmp_path / "out" / "c", capsys.readouterr().out
    assert f"report and tables: {out}" in said and "\nmasks: McNemar" in said and "\nboxes: Fixed AP" in said
    values = json.loads((out / "compare.json").read_text())
    with (out / "compare.csv").open() as file:
        rows = {(r["run"], r["kind"], r["figure"]): r for r in csv.DictReader(file)}
    ap = values["masks"][1]["figures"]["AP"]
    assert float(rows["iif", "masks", "AP"]["low"]) == pytest.approx(100 * ap["low"], abs=1e-3)
    assert float(rows["iif", "boxes", "AP50"]["difference"]) > 0 and rows["a<b", "boxes", "AP"]["difference"] == ""
    with (out / "classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert [(r["name"], r["train_images"]) for r in classes][:2] == [("red", "12"), ("green", "7")]
    assert float(classes[0]["iif AP"]) - float(classes[0]["a<b AP"]) == pytest.approx(
        float(classes[0]["iif difference"]), abs=1e-3
    )
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(out.glob("*.png"))) == 8
    assert page.count("<table") == 11 and "a&lt;b" in page and "a<b" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page), "the page stands alone"
    written, notices = (out / "compare.md").read_text(), re.findall(r"^note: (.*)$", said, re.MULTILINE)
    assert written.count("| --- |") == 11 and [f"Note: {n}" for n in notices] == re.findall("^Note: .*$", written, re.M)


@pytest.mark.slow
def test_the_report_shows_in_a_browser(run: Run, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium or chrome on this machine")
    out = iifdet.compare([run("a", 0.5), run("b", 0.9)], draws=20, project=tmp_path / "out").folder
    assert out is not None
    # A script that no report has, to let the browser itself say what it made of the page.
    script = (
        "<script>onload=()=>{document.title=[...document.images].map(i=>i.naturalWidth>500&&i.offsetWidth>300).join()"
        "+'|'+document.querySelectorAll('tbody tr').length+'|'+(document.body.scrollWidth<=innerWidth)}</script>"
    )
    page = tmp_path / "page.html"
    page.write_text((out / "report.html").read_text().replace("</body>", script + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1000,800", "--virtual-time-budget=4000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    pictures, rows, fits = re.search(r"<title>(.*?)</title>", done.stdout).group(1).split("|")  # type: ignore[union-attr]
    assert pictures == "true,true,true,true" and int(rows) > 15 and fits == "true"


def test_without_predictions_or_the_data_there_is_a_table_and_the_reason(
    run: Run, tiny_copy: Path, tmp_path: Path
) -> None:
    data = str(tiny_copy / "data.yaml")
    folders = [run("a", 0.5, data), run("b", 0.9, data)]
    (folders[1] / "predictions.json").rename(tmp_path / "kept.json")
    found = iifdet.compare(folders, project=tmp_path / "out")
    assert found.analysis is None and len(found.rows) == 2 and found.folder is not None
    assert re.search(r"no intervals.*b: expected predictions.json, got none", found.notices[0])
    assert "no intervals" in (found.folder / "report.html").read_text()
    (folders[1] / "predictions.json").write_text('{"a": 1}')
    assert "expected detections" in iifdet.compare(folders).notices[0]
    (tmp_path / "kept.json").replace(folders[1] / "predictions.json")
    document = json.loads((tiny_copy / "val.json").read_text())
    (tiny_copy / "val.json").write_text(json.dumps({**document, "annotations": document["annotations"][1:]}))
    assert "expected the data that the runs were evaluated on" in iifdet.compare(folders).notices[0]
    (tiny_copy / "data.yaml").unlink()
    assert "no intervals" in iifdet.compare(folders).notices[0]


def test_what_does_not_fit_together_is_said(run: Run) -> None:
    folder = run("a", 0.7)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "AP": 0.123}))
    rows = json.loads((folder / "predictions.json").read_text())
    (folder / "predictions.json").write_text(json.dumps(rows + rows[:1] * 300))
    notices = iifdet.compare([folder], draws=0).notices
    assert re.search(r"gives AP .*, metrics.json says 12.30", notices[0])
    said = "a: Fixed AP sees only the 300 detections of an image that the run kept"
    assert notices[1] == f"{said}; iifdet val fixed_ap=true keeps what it needs"


def test_bad_keys_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for word, message in (("iou=0.53", "one of 0.5, 0.55"), ("level=1", "level"), ("drows=3", "did you mean 'draws'")):
        assert main(["compare", "nowhere", word]) == 2
        assert message in capsys.readouterr().err


def test_pictures_are_drawn_by_name_and_hold_what_they_should(run: Run, tmp_path: Path) -> None:
    runs = [run("a", 0.5), run("b", 0.9), run("c", 0.9)]
    out = iifdet.compare(runs, draws=20, project=tmp_path / "out").folder
    assert out is not None
    names = {"difference_2", "difference_3", "intervals", "errors", "reliability"}
    assert {path.stem for path in out.glob("*.png")} == names
    assert all(cv2.imread(str(path)).std() > 5 for path in out.glob("*.png"))
    again = iifdet.compare(runs, draws=20, project=tmp_path / "out", plots=False).folder
    assert again is not None and again.name == "compare-2" and not list(again.glob("*.png"))
