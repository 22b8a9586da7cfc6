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
from pycocotools import mask as coco_mask

import iifdet
from iifdet.build.model import settle_options
from iifdet.checkpoint import save_checkpoint
from iifdet.config.validation import ValConfig
from iifdet.errors import InputError
from iifdet.evaluation import fixed
from iifdet.evaluation.fixed import FIXED_FILE, BestOfClasses, Unlimited, read_fixed, save_fixed
from iifdet.evaluation.masks import encode_crop
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
            best.add(part, [{"row": tuple(row)} for row in part])
            assert best.held <= 2 * best.kept + slack, "memory is bounded"
    everything = [tuple(row) for part in parts for row in part]
    wanted = []
    for category in (1.0, 2.0, 3.0):
        wanted += sorted((r for r in everything if r[6] == category), key=lambda r: -r[5])[:limit]  # stable
    found = best.best()
    assert [tuple(row) for row in found.rows] == wanted
    assert [mask["row"] for mask in found.masks or []] == wanted, "masks stay beside their boxes"


def test_a_run_without_them_removes_those_of_an_earlier_one(tmp_path: Path) -> None:
    rows = np.arange(14.0).reshape(2, 7)
    save_fixed(tmp_path, Unlimited(rows))
    found = read_fixed(tmp_path)
    assert found is not None and found.masks is None
    np.testing.assert_array_equal(found.rows, rows)
    save_fixed(tmp_path, None)
    assert read_fixed(tmp_path) is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [0, 1, 3])
def test_masks_come_back_as_they_were(number: int, tmp_path: Path) -> None:
    inside = np.random.default_rng(0).random((number, 5, 7)) > 0.5
    inside[:1] = False  # a mask that is empty
    masks = [encode_crop(mask, 2, 3, 20, 30 + i) for i, mask in enumerate(inside)]
    save_fixed(tmp_path, Unlimited(np.zeros((number, 7)), masks))
    found = read_fixed(tmp_path)
    assert found is not None and found.masks == masks


@pytest.mark.parametrize("content", [b"", b"PK no zip", "shape", "masks"])
def test_a_broken_file_is_refused_in_one_line(content: Any, tmp_path: Path) -> None:
    if content == "shape":
        np.savez(tmp_path / FIXED_FILE, detections=np.zeros((2, 3)))
    elif content == "masks":
        save_fixed(tmp_path, Unlimited(np.zeros((2, 7)), [{"size": [4, 4], "counts": "`0"}]))
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
    assert kept is not None and np.unique(kept.rows[:, 0], return_counts=True)[1].min() > 300
    capped, unlimited = (iifdet.compare([run.folder], draws=0) for run in (plain, full))
    assert [n for n in capped.notices if "fixed_ap=true" in n] and not unlimited.notices
    assert capped.analysis is not None and unlimited.analysis is not None
    assert capped.analysis.runs[0].figures["AP50"].value == unlimited.analysis.runs[0].figures["AP50"].value
    assert unlimited.analysis.runs[0].fixed["AP"] >= capped.analysis.runs[0].fixed["AP"]


def test_masks_beyond_the_limit_are_kept_and_counted(data_with_masks: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}
    model = create_model("maskrcnn", 4, **backbone).eval()
    model.names = ["red", "green", "blue", "white"]
    with torch.no_grad():  # away from one half, where random masks lie
        model.net.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(1000)
    save_checkpoint(
        tmp_path / "last.pt", model, recipe={"imgsz": 64, "data": str(data_with_masks), "iou": 0.9, "max_det": 20}
    )
    keys: dict[str, Any] = {"weights": tmp_path / "last.pt", "project": tmp_path, "plots": False, "device": "cpu"}
    plain, full = (iifdet.val(**keys, name=name, fixed_ap=name == "full", workers=0) for name in ("plain", "full"))
    assert plain.metrics["AP"] == full.metrics["AP"]
    kept, usual = read_fixed(full.folder), json.loads((full.folder / "predictions.json").read_text())
    assert kept is not None and kept.masks is not None and len(kept.masks) == len(kept.rows) > len(usual) == 12 * 20
    # The mask branch rounds differently on another number of boxes: a pixel at the threshold may fall either way.
    beside = {tuple(r): m for r, m in zip(kept.rows.tolist(), kept.masks, strict=True)}
    keys_of = [(d["image_id"], *d["bbox"], d["score"], d["category_id"]) for d in usual]
    pairs = [(beside[key], d["segmentation"]) for key, d in zip(keys_of, usual, strict=True)]
    assert all(one == other or coco_mask.iou([one], [other], [0]).item() > 0.99 for one, other in pairs)
    one, other = (iifdet.compare([run.folder], draws=0).analysis for run in (plain, full))
    assert one is not None and other is not None
    assert other.kinds["masks"][0].fixed["AP"] >= one.kinds["masks"][0].fixed["AP"]
    assert other.kinds["masks"][0].figures["AP"].value == pytest.approx(
        one.kinds["masks"][0].figures["AP"].value, abs=1e-3
    )


def test_a_model_without_detections_is_refused(tiny_data: str) -> None:
    with pytest.raises(InputError, match="fixed_ap: expected a detector, got a Classifier"):
        settle_options(create_model("se_resnet20", 4), ValConfig(weights="a.pt", data=tiny_data, fixed_ap=True))
