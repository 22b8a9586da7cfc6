"""Does a map say something about what the model learnt? On a small model that has learnt the tiny data set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explaining_models import spearman

import iifdet
from iifdet.build.explainer import prepare_image
from iifdet.datasets import EvalTransform, load_index, read_image
from iifdet.explaining import Choice, deletion_and_insertion, explain
from iifdet.explaining.curves import detection_score

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tiny_keys: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A yolov3-nano that finds the painted boxes of the tiny data set."""
    keys = tiny_keys(tmp_path_factory.mktemp("runs"), epochs=25, val_every=25, lr=0.004, clip=10.0, adjust="none")
    keys["model_args"] = {"width": 0.125, "depth": 0.1}
    run = iifdet.train(**keys)
    assert run.metrics["AP50"] > 0.4, "the model has not learnt enough to be explained"
    return iifdet.load(Path(run.folder) / "weights" / "last.pt")


@pytest.fixture(scope="module")
def scenes(tiny_data: str, trained: Any) -> list[Any]:
    """(tensor, view, ground truth, label) of each validation image."""
    index, transform = load_index(tiny_data, "val"), EvalTransform(64)
    found = []
    for row, file in enumerate(index.files):
        tensor, view = prepare_image(
            file, read_image(file), model=trained, transform=transform, device=torch.device("cpu")
        )
        box = index.boxes_of(row).start
        found.append((tensor, view, torch.from_numpy(index.boxes[box]), int(index.labels[box])))
    return found


def share_inside(cam: np.ndarray, box: torch.Tensor) -> tuple[float, float]:
    """Of the map's sum inside a box, and of the pixels."""
    x1, y1, x2, y2 = box.round().int().tolist()
    return float(cam[y1:y2, x1:x2].sum() / cam.sum()), (x2 - x1) * (y2 - y1) / cam.size


@pytest.mark.parametrize(("method", "factor"), [("gradcam", 1.5), ("layercam", 2.5)])
def test_the_map_lies_inside_the_object_far_more_than_chance(
    trained: Any, scenes: list[Any], method: str, factor: float
) -> None:
    ratios = []
    for tensor, view, box, label in scenes:
        seen = explain(trained, tensor, view, Choice(box=box, label=label), method=method)
        assert seen.cam is not None
        if seen.cam.max() > 0:
            inside, area = share_inside(seen.cam, box)
            ratios.append(inside / area)
    assert len(ratios) >= len(scenes) - 2
    assert np.median(ratios) > factor


def test_deleting_what_the_map_shows_costs_more_than_deleting_at_random(trained: Any, scenes: list[Any]) -> None:
    ours, chance = [], []
    for tensor, view, box, label in scenes[:6]:
        seen = explain(trained, tensor, view, Choice(box=box, label=label))
        score = detection_score(trained, box, label)
        noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
        grey = torch.full_like(tensor, 90 / 255)  # the ground of the tiny data set
        ours.append(deletion_and_insertion(score, tensor, torch.from_numpy(seen.cam), 10, grey).deletion_area)
        chance.append(deletion_and_insertion(score, tensor, noise, 10, grey).deletion_area)
    assert np.mean(ours) < 0.8 * np.mean(chance)


def test_maps_change_as_weights_are_made_random_from_the_top_down(trained: Any, scenes: list[Any]) -> None:
    """Adebayo et al., NeurIPS 2018: a map that survives this shows the image, not the model."""
    alike: dict[str, list[float]] = {}
    for tensor, view, box, label in scenes[:6]:
        seen = explain(trained, tensor, view, Choice(box=box, label=label))
        for depth, model in cascade(trained):
            raw_row = Rows(seen.chosen.row, seen.chosen.label)
            alike.setdefault(depth, []).append(spearman(seen.cam, raw_row.map(model, tensor, view)))
    assert np.mean(alike["nothing"]) == pytest.approx(1)
    for depth in ("predictions", "necks", "everything"):
        assert np.mean(alike[depth]) < 0.5, depth


class Rows:
    """The map of a fixed row, whatever the model says of it."""

    def __init__(self, row: int, label: int) -> None:
        self.row, self.label = row, label

    def map(self, model: Any, tensor: torch.Tensor, view: Any) -> np.ndarray:
        from iifdet.explaining import attribute, find_layers, look

        raw, seen = look(model, tensor, find_layers(model))
        return view.upsample(attribute(raw.class_logits[self.row, self.label], seen)[0].values)


def cascade(model: Any) -> Any:
    """(what is random, a copy with random weights there): prediction layers, then necks, then everything."""
    yield "nothing", model
    for depth, parts in (
        ("predictions", ("predict",)),
        ("necks", ("predict", "scales")),
        ("everything", ("",)),
    ):
        other = copy.deepcopy(model)
        torch.manual_seed(1)
        for name, module in other.named_modules():
            if any(part in name for part in parts) and isinstance(module, torch.nn.Conv2d):
                with torch.no_grad():
                    values = module.weight.flatten()
                    module.weight.copy_(values[torch.randperm(len(values))].view_as(module.weight))
        yield depth, other


def test_on_demo_data_the_map_of_an_object_lies_in_its_box_half_as_much_again_as_chance(tmp_path: Path) -> None:
    """The four commonest outlines as one class, learnt for eight epochs: 2.1 of chance in the median when written."""
    counts = load_index("demo", "train").counts()
    commonest = counts.images.argsort(descending=True)[:4].tolist()
    run = iifdet.train(
        **{"model": "yolov3-nano", "model_args": {"width": 0.125, "depth": 0.1}, "data": "demo", "classes": commonest},
        **{"single_cls": True, "adjust": "none", "epochs": 8, "val_every": 8, "imgsz": 96, "lr": 0.004, "ema": 0.0},
        **{"workers": 0, "cache": "ram", "plots": False, "device": "cpu", "project": tmp_path},
    )
    index = load_index("demo", "val", classes=commonest, single_cls=True)
    files = [file for row, file in enumerate(index.files) if index.boxes_of(row).stop > index.boxes_of(row).start]
    last = run.folder / "weights" / "last.pt"
    # With one class its logit says nothing; the score is objectness.
    found = iifdet.cam(weights=last, data="demo", source=files[:16], gt=1, scalar="score", limit=16, project=tmp_path)
    ratios = []
    for sheet in found.sheets:
        maps = sheet.load()
        inside, area = share_inside(maps["cam"][0], torch.from_numpy(maps["box"][0]))
        ratios.append(inside / area if maps["cam"][0].any() else 0.0)  # of an empty map nothing lies in the box
    assert len(ratios) == 16 and np.median(ratios) > 1.5
