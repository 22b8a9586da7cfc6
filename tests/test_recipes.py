"""Every recipe that comes with the package trains: not only its keys are valid, its run runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import iifdet
from iifdet.resources import resource_names

#: Three steps and a validation; half of the images.
SMALL: dict[str, Any] = {"imgsz": 64, "batch": 4, "fraction": 0.5, "epochs": 1, "workers": 0, "device": "cpu"}
SMALL |= {"plots": False}
ONE_STAGE = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}
TWO_STAGES = {**ONE_STAGE, "box_batch_size_per_image": 32, "rpn_post_nms_top_n_test": 30}
#: What makes each model small; the others take a width.
ARGS: dict[str, Any] = {"fasterrcnn": TWO_STAGES, "maskrcnn": TWO_STAGES, "retinanet": ONE_STAGE}


@pytest.mark.parametrize("name", [name for name in resource_names("cfg") if "/" not in name])
def test_a_recipe_trains_an_epoch(name: str, tiny_copy: Path, tmp_path: Path) -> None:
    if name == "maskrcnn":
        add_masks(tiny_copy / "train.json")
    args = {f"model_args.{key}": value for key, value in ARGS.get(name, {"width": 0.0625}).items()}
    run = iifdet.train(model=name, data=str(tiny_copy / "data.yaml"), project=tmp_path, **SMALL, **args)
    assert run.metrics["AP"] is not None


def add_masks(file: Path) -> None:
    """A triangle in each box."""
    document = json.loads(file.read_text(encoding="utf-8"))
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x, y + h]]
    file.write_text(json.dumps(document), encoding="utf-8")
