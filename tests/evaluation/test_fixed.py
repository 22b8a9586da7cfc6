"""What Fixed AP looks at is the best of each class, however many lie in an image, and figures do not change for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.errors import InputError
from iifdet.evaluation import fixed
from iifdet.evaluation.fixed import FIXED_FILE, BestOfClasses, read_fixed, save_fixed
from iifdet.longtail import ClassCounts
from iifdet.models import create_model


@given(
    sizes=st.lists(st.integers(0, 30), max_size=6),
    limit=st.integers(1, 8),
    seed=st.integers(0, 99),
    slack=st.integers(0, 40),
)
def test_the_best_of_each_class_stay_in_order_however_they_come(
    sizes: list[int], limit: int, seed: int, slack: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        np.column_stack([rng.integers(0, 9, (n, 5)), rng.integers(0, 5, n) / 4, rng.integers(1, 4, n)]) for n in sizes
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed, "SLACK", slack)
        best = BestOfClasses(limit)
        for part in parts:
            best.add(part)
            assert best.held <= 2 * best.kept + slack, "memory is bounded"
    everything = [tuple(row) for part in parts for row in part]
    wanted = []
    for category in (1.0, 2.0, 3.0):
        wanted += sorted((r for r in everything if r[6] == category), key=lambda r: -r[5])[:limit]  # stable
    assert [tuple(row) for row in best.rows()] == wanted


def test_a_run_without_them_removes_those_of_an_earlier_one(tmp_path: Path) -> None:
    rows = np.arange(14.0).reshape(2, 7)
    save_fixed(tmp_path, rows)
    np.testing.assert_array_equal(read_fixed(tmp_path), rows)
    save_fixed(tmp_path, None)
    assert read_fixed(tmp_path) is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK no zip", "shape"])
def test_a_broken_file_is_refused_in_one_line(content: Any, tmp_path: Path) -> None:
    if content == "shape":
        np.savez(tmp_path / FIXED_FILE, detections=np.zeros((2, 3)))
    else:
        (tmp_path / FIXED_FILE).write_bytes(content)
    with pytest.raises(InputError, match="fixed_ap=true again"):
        read_fixed(tmp_path)


@pytest.fixture
def busy(tmp_path: Path, tiny_data: str) -> str:
    """A checkpoint of random weights that finds more than 300 boxes in an image."""
    torch.manual_seed(0)
    model = create_model("yolov3-nano", 4, width=0.0625, depth=0.1).eval()
    model.names, images = ["red", "green", "blue", "white"], torch.tensor([12, 7, 4, 1])
    model.counts = ClassCounts(model.names, images, images, num_images=24)
    save_checkpoint(tmp_path / "last.pt", model, recipe={"imgsz": 64, "data": tiny_data, "iou": 0.95})
    return str(tmp_path / "last.pt")


def test_val_keeps_them_and_its_figures_as_they_were(busy: str, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"weights": busy, "project": tmp_path, "plots": False, "workers": 0, "device": "cpu"}
    plain, full = iifdet.val(**keys, name="plain"), iifdet.val(**keys, name="full", fixed_ap=True)
    assert plain.metrics == full.metrics
    one, other = ((run.folder / "predictions.json").read_text() for run in (plain, full))
    assert one == other and len(json.loads(one)) == 12 * 300
    kept = read_fixed(full.folder)
    assert kept is not None and np.unique(kept[:, 0], return_counts=True)[1].min() > 300
    capped, unlimited = (iifdet.compare([run.folder], draws=0) for run in (plain, full))
    assert [n for n in capped.notices if "fixed_ap=true" in n] and not unlimited.notices
    assert capped.analysis is not None and unlimited.analysis is not None
    assert capped.analysis.boxes[0].figures["AP50"].value == unlimited.analysis.boxes[0].figures["AP50"].value
    assert unlimited.analysis.boxes[0].fixed["AP"] >= capped.analysis.boxes[0].fixed["AP"]


def test_masks_are_refused(tiny_data: str, tmp_path: Path) -> None:
    backbone = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}
    model = create_model("maskrcnn", 4, **backbone).eval()
    model.names = ["red", "green", "blue", "white"]
    save_checkpoint(tmp_path / "last.pt", model, recipe={"imgsz": 64, "data": tiny_data})
    with pytest.raises(InputError, match="fixed_ap: expected a detector without masks"):
        iifdet.val(weights=tmp_path / "last.pt", fixed_ap=True, project=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
