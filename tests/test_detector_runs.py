"""Every detector through the program: the decoupled strategy, and whole files of torchvision's in ``val``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import iifdet
from iifdet.checkpoint import read_checkpoint, save_checkpoint
from iifdet.detectors import DETECTORS
from iifdet.detectors.ssd import to_torchvision
from iifdet.models import create_model

Keys = Callable[..., dict[str, Any]]
RCNN = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}
ARGS: dict[str, dict[str, Any]] = {
    "yolov3": {"width": 0.0625, "depth": 0.1},
    "yolov3-tiny": {"width": 0.125},
    "yolov3-nano": {"width": 0.0625, "depth": 0.1},
    "ssd300": {"width": 0.0625},
    "ssd512": {"width": 0.0625},
    "fasterrcnn": {**RCNN, "box_batch_size_per_image": 32},
    "maskrcnn": {**RCNN, "box_batch_size_per_image": 32},
    "retinanet": RCNN,
}
#: Many seconds on a slow core; the others are of the same kinds.
SLOW = {"ssd512", "maskrcnn", "retinanet"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in DETECTORS])
def test_the_decoupled_stage_moves_class_rows_alone(
    tiny_keys: Keys, data_with_masks: Path, tmp_path: Path, name: str
) -> None:
    """Table XI: parameters outside the class rows and all statistics of batch norm stay bit-identical."""
    keys = tiny_keys(tmp_path, model=name, model_args=ARGS[name], data=data_with_masks, epochs=1, lr=0.0005)
    keys |= {"rect": False, "imgsz": 64, "resize": "letterbox", "augment": "default", "val_every": 10, "conf": 0.9}
    first = iifdet.train(**keys, adjust="none").folder / "weights" / "last.pt"
    second = iifdet.train(**{**keys, "name": "second"}, adjust="iif", strategy="decoupled", weights=str(first))
    before = read_checkpoint(first)["weights"]
    after = read_checkpoint(second.folder / "weights" / "last.pt")["weights"]
    model: Any = iifdet.load(first)
    own = {id(p) for layer in model.classifier_layers() for p in layer.parameters()}
    rows = {key for key, parameter in model.named_parameters() if id(parameter) in own}
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved <= rows | {"adjust.scale"}
    assert {key for key in rows if key.endswith("weight")} | {"adjust.scale"} <= moved


@pytest.mark.parametrize("name", ["ssd300", "fasterrcnn"])
def test_val_and_predict_take_a_whole_file_of_torchvision_s_as_it_is(
    tiny_root: Path, tiny_data: str, tmp_path: Path, name: str
) -> None:
    """Against the same weights in one of our checkpoints; a column for each class, in the order of the data."""
    torch.manual_seed(0)
    model = create_model(name, 4, **ARGS[name])
    model.names = ["red", "green", "blue", "white"]
    save_checkpoint(tmp_path / "ours.pt", model)
    if name == "ssd300":
        save_file(
            {k: v.contiguous() for k, v in to_torchvision(model.state_dict()).items()}, tmp_path / "x.safetensors"
        )
    else:
        torch.save(model.net.state_dict(), tmp_path / "x.pth")
    common = {"data": tiny_data, "project": tmp_path, "plots": False, "workers": 0, "device": "cpu", "imgsz": 64}
    common |= {"resize": "letterbox", "rect": False, "conf": 0.01, "iou": 0.5, "max_det": 20}  # keys that recipes set
    ours = iifdet.val(weights=tmp_path / "ours.pt", name="ours", **common)
    file = next(tmp_path.glob("x.*"))
    theirs = iifdet.val(model=name, model_args=ARGS[name], weights=file, name="theirs", **common)
    found = [json.loads((run.folder / "predictions.json").read_text()) for run in (ours, theirs)]
    assert len(found[0]) > 100 and found[0] == found[1]
    source = [str(tiny_root / "val" / "000.png")]
    keys = {"device": "cpu", "imgsz": 64, "conf": 0.01, "iou": 0.5, "max_det": 20, "rect": False, "resize": "letterbox"}
    one = iifdet.predict(source, weights=tmp_path / "ours.pt", **keys)[0]
    other = iifdet.predict(source, model=name, model_args=ARGS[name], weights=file, data=tiny_data, **keys)[0]
    assert len(one.labels) and torch.equal(one.boxes, other.boxes) and torch.equal(one.labels, other.labels)
    assert theirs.metrics["tail5"] is not None, "counts come from the data's training split"
