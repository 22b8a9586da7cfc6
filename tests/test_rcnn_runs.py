"""Two-stage detectors through the program: the decoupled strategy, and checkpoints adjusted after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import iifdet
from iifdet import build
from iifdet.checkpoint import read_checkpoint

ARGS = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128, "box_batch_size_per_image": 32}


@pytest.fixture(scope="module")
def softmax_run(
    tiny_keys: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """Keys of a Faster R-CNN run without adjustment, and its checkpoint."""
    keys = tiny_keys(tmp_path_factory.mktemp("runs"), model="fasterrcnn", model_args=ARGS, epochs=1, lr=0.0005)
    keys |= {"rect": False, "imgsz": 64}
    run = iifdet.train(**keys, adjust="none")
    return keys, run.folder / "weights" / "last.pt"


def test_the_decoupled_stage_moves_class_rows_alone(softmax_run: tuple[dict[str, Any], Path]) -> None:
    keys, first = softmax_run
    second = iifdet.train(**{**keys, "name": "second"}, adjust="iif", strategy="decoupled", weights=str(first))
    before = read_checkpoint(first)["weights"]
    after = read_checkpoint(second.folder / "weights" / "last.pt")["weights"]
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    rows = "net.roi_heads.box_predictor.cls_score"
    assert moved == {f"{rows}.weight", f"{rows}.bias", "adjust.scale"}


def test_a_softmax_checkpoint_with_iif_equals_a_model_that_had_it(softmax_run: tuple[dict[str, Any], Path]) -> None:
    keys, first = softmax_run
    after = iifdet.val(
        weights=str(first), data=keys["data"], project=keys["project"], name="after", adjust="iif", device="cpu"
    )
    from_start = iifdet.train(**{**keys, "name": "start"}, adjust="iif", strategy="post_process")
    ours = build.load_model(from_start.folder / "weights" / "last.pt")
    assert ours.adjust.when == "infer" and not ours.adjust.is_identity
    assert after.metrics["AP"] == from_start.metrics["AP"]
    assert after.metrics["per_class"] == from_start.metrics["per_class"]
