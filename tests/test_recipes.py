"""Every recipe that comes with the package trains: not only its keys are valid, its run runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import write_colours

import iifdet
from iifdet.config import TrainConfig, resolve
from iifdet.models import create_model
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


# -- classifiers -------------------------------------------------------------------------------------------------------

RECIPES = [name for name in resource_names("cfg") if name.startswith("classify/")]
#: One epoch of three steps.
TINY: dict[str, Any] = {"epochs": 1, "batch": 6, "val_batch": 4, "warmup_epochs": 0, "select_on": "test"}
TINY |= {"workers": 0, "device": "cpu", "plots": False, "verbose": False, "channels_last": False}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_colours(tmp_path_factory.mktemp("colours"), (12, 6, 3))


def trains_an_epoch(name: str, data: str, folder: Path, imgsz: int, **args: Any) -> None:
    """A recipe that begins with a finished classifier, or learns from one, gets one of the same network and head."""
    config = resolve(TrainConfig, {"model": name})
    small = {"data": data, "imgsz": imgsz, "project": folder, **TINY}
    own = {**config.model_args, **args}
    key = "teacher" if config.distill != "none" else "weights"
    later = config.strategy == "decoupled" or {"robust", "memory"} & set(own)
    first = {}
    if later or key == "teacher":
        plain = {k: v for k, v in own.items() if k in ("head", "scale", "width")}
        start = iifdet.train(model=config.model, model_args=plain, adjust="none", name="first", **small)
        first = {key: str(start.folder / "weights" / "last.pt")}
    over = {f"model_args.{k}": v for k, v in args.items()}
    run = iifdet.train(model=name, name="run", **small, **over, **first)
    assert 0 <= run.metrics["top1"] <= 1


@pytest.mark.parametrize("name", [name for name in RECIPES if "/cifar" in name])
def test_a_recipe_of_small_images_trains_an_epoch(name: str, colours: str, tmp_path: Path) -> None:
    trains_an_epoch(name, colours, tmp_path, 32, width=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet-lt-ride", "imagenet-lt-dro-lt", "imagenet-lt-x50-tde", "places-lt-bsce"])
def test_a_recipe_of_photographs_trains_an_epoch(name: str, colours: str, tmp_path: Path) -> None:
    trains_an_epoch(f"classify/{name}", colours, tmp_path, 96)


# -- LVIS --------------------------------------------------------------------------------------------------------------

LVIS = [name for name in resource_names("cfg") if name.startswith("lvis/")]


@pytest.mark.parametrize("name", LVIS)
def test_a_recipe_of_lvis_makes_its_model(name: str) -> None:
    config = resolve(TrainConfig, {"model": name, "weights": "x.pt"})
    assert (config.data, config.batch, config.conf, config.max_det) == ("lvis", 16, 0.0001, 300)
    with torch.device("meta"):
        model = create_model(config.model, 1203, **config.model_args)
    assert model.wants_masks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lvis/iif-enhanced", "lvis/disalign"])
def test_a_recipe_of_lvis_trains_an_epoch(name: str, tiny_copy: Path, tmp_path: Path) -> None:
    """The one with all that there is, and a second stage."""
    for split in ("train", "val"):
        add_masks(tiny_copy / f"{split}.json")
    common = {"data": str(tiny_copy / "data.yaml"), "project": tmp_path, **SMALL}
    args = {f"model_args.{key}": value for key, value in TWO_STAGES.items()}
    second = resolve(TrainConfig, {"model": name, "weights": "x.pt"}).strategy == "decoupled"
    start = {}
    if second:
        first = iifdet.train(
            model="maskrcnn", adjust="none", name="first", **common, **args, **{"model_args.head": "cosine"}
        )
        start = {"weights": str(first.folder / "weights" / "last.pt")}
    run = iifdet.train(model=name, name="run", **common, **args, **start)
    assert run.metrics["AP"] is not None and run.metrics["segm"]["AP"] is not None
