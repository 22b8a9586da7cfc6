"""predict sees what val sees, and brings it back to the picture it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.datasets import described_names
from iifdet.errors import InputError
from iifdet.longtail import iif_weights
from iifdet.models import create_model
from iifdet.prediction import Result

pytest_plugins = ["prediction_fixtures"]

Look = Callable[..., list[Result]]
Spot = Callable[..., np.ndarray]
RETINA: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}
MOBILE = {**RETINA, "rpn_post_nms_top_n_test": 20}


# -- the same as val ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"adjust": "iif", "variant": "base2", "by": "instance"}])
def test_predict_on_the_val_images_gives_exactly_val_s_detections_unless_it_fuses(
    tiny_checkpoint: str, tiny_root: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    common = {"weights": tiny_checkpoint, "conf": 0.002, "batch": 5, "device": "cpu", "project": str(tmp_path), **keys}
    val = iifdet.val(**common, workers=0, plots=False)
    expected = json.loads((val.folder / "predictions.json").read_text())
    assert len(expected) > 100
    iifdet.predict(tiny_root / "val", **common, save_json=True, fuse=False)
    found = json.loads((tmp_path / "predict" / "predictions.json").read_text())
    ids = {c["name"]: c["id"] for c in json.loads((tiny_root / "val.json").read_text())["categories"]}
    category = {c["id"]: ids[c["name"]] for c in found["categories"]}
    assert [Path(i["file_name"]).name for i in found["images"]] == [f"{i:03}.png" for i in range(12)]
    got = [
        {"image_id": a["image_id"], "category_id": category[a["category_id"]], "bbox": a["bbox"], "score": a["score"]}
        for a in found["annotations"]
    ]
    assert got == expected


def test_masks_are_exactly_val_s_too(tiny_copy: Path, tmp_path: Path) -> None:
    truth = json.loads((tiny_copy / "val.json").read_text())
    truth["images"] = truth["images"][:3]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] <= 3]
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tiny_copy / "val.json").write_text(json.dumps(truth))
    torch.manual_seed(0)
    model = create_model("maskrcnn", 4, **MOBILE)
    model.names = [category["name"] for category in truth["categories"]]
    recipe = {"data": str(tiny_copy / "data.yaml"), "imgsz": 96, "max_det": 1, "iou": 0.5}
    save_checkpoint(tmp_path / "m.pt", model, recipe=recipe)
    keys = {"weights": tmp_path / "m.pt", "conf": 0.0, "batch": 3, "mask_threshold": 0.45, "project": str(tmp_path)}
    val = iifdet.val(**keys, workers=0, plots=False, device="cpu")
    expected = json.loads((val.folder / "predictions.json").read_text())
    found = [
        row
        for r in iifdet.predict(tiny_copy / "val" / "00[012].png", **keys, device="cpu", fuse=False)
        for row in r.to_coco()
    ]
    assert len(found) == 3 and [f["segmentation"] for f in found] == [e["segmentation"] for e in expected]
    assert [(f["bbox"], f["score"]) for f in found] == [(e["bbox"], e["score"]) for e in expected]


def test_conf_is_0_25_whatever_the_checkpoint_says_and_the_resize_is_its_own(tiny_checkpoint: str, spot: Spot) -> None:
    low = iifdet.predict(spot(), weights=tiny_checkpoint, conf=0.0)[0]
    assert len(low) and float(low.scores.max()) < 0.25
    assert not len(iifdet.predict(spot(), weights=tiny_checkpoint)[0])
    again = iifdet.predict(spot(), weights=tiny_checkpoint, conf=0.0, imgsz=64, resize="square", iou=0.5)[0]
    other = iifdet.predict(spot(), weights=tiny_checkpoint, conf=0.0, resize="letterbox")[0]
    assert torch.equal(low.boxes, again.boxes) and not torch.equal(low.boxes[:9], other.boxes[:9])


def test_nothing_of_the_padding_is_found(tiny_checkpoint: str) -> None:
    """A strip in the middle of a square: much of what an untrained model finds lies above and below it."""
    keys: dict[str, Any] = {"weights": tiny_checkpoint, "conf": 0.0, "resize": "letterbox", "max_det": 3000}
    strip = iifdet.predict(np.zeros((8, 64, 3), np.uint8), iou=1.0, **keys)[0]
    square = iifdet.predict(np.zeros((64, 64, 3), np.uint8), iou=1.0, **keys)[0]
    assert 0 < len(strip) < 0.9 * len(square)
    assert (strip.boxes[:, 2:] > strip.boxes[:, :2]).all() and len(strip.labels) == len(strip.scores) == len(strip)


def test_a_model_and_weights_at_once_are_refused(tiny_checkpoint: str, spot: Spot) -> None:
    model = iifdet.load(tiny_checkpoint)
    with pytest.raises(InputError, match=r"^weights: expected model or weights, got both"):
        iifdet.predict(spot(), model=model, weights=tiny_checkpoint)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("yolov3-tiny", {"width": 0.0625}),
        ("ssd300", {"width": 0.0625}),
        ("maskrcnn", MOBILE),
        ("retinanet", RETINA),
    ],
)
def test_every_family_of_detectors_predicts(name: str, args: dict[str, Any], spot: Spot) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3, **args).eval()
    (result,) = iifdet.predict(spot(), model=model, imgsz=64, conf=0.0, max_det=3)
    assert len(result) == 3 and result.names == ["0", "1", "2"]
    assert (result.boxes >= 0).all() and (result.boxes[:, 2] <= 120).all() and (result.boxes[:, 3] <= 80).all()
    assert (result.masks is not None) == (name == "maskrcnn")
    assert result.masks is None or result.masks.shape == (3, 80, 120)


# -- back to the picture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"resize": "square"}, {"rect": True}])
@pytest.mark.parametrize("shape", [(80, 120), (300, 90), (33, 47)])
def test_boxes_and_masks_are_in_pixels_of_the_original(
    look: Look, bright: Any, spot: Spot, keys: dict[str, Any], shape: tuple[int, int]
) -> None:
    height, width = shape
    box = (width // 5, height // 4, width // 5 + width // 3, height // 4 + height // 2)
    bright.has_masks = True
    (result,) = look(spot(box, height, width), **keys)
    tolerance = 1.5 * max(height, width) / 64  # of one pixel in the tensor
    assert (result.boxes[0] - torch.tensor(box)).abs().max() <= tolerance
    truth = torch.zeros(height, width, dtype=torch.bool)
    truth[box[1] : box[3], box[0] : box[2]] = True
    assert result.masks is not None and result.masks.shape == (2, height, width)
    mask = result.masks[0]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_images_of_one_tensor_size_share_a_batch_and_results_keep_their_order(
    look: Look, bright: Any, spot: Spot
) -> None:
    pictures = [spot((i, 5, i + 20, 25), *shape) for i, shape in enumerate([(40, 80), (80, 40), (40, 80), (80, 80)])]
    for keys, shapes in [
        ({}, [(3, 3, 64, 64), (1, 3, 64, 64)]),
        ({"rect": True}, [(2, 3, 32, 64), (1, 3, 64, 32), (1, 3, 64, 64)]),
    ]:
        bright.batches.clear()
        results = look(pictures, batch=3, **keys)
        assert bright.batches == shapes
        assert [r.size for r in results] == [(40, 80), (80, 40), (40, 80), (80, 80)]
        assert [r.path for r in results] == ["image0", "image1", "image2", "image3"]


# -- keys --------------------------------------------------------------------------------------------------------------


def test_classes_are_chosen_by_name_or_number_before_max_det_counts(look: Look, spot: Spot) -> None:
    assert look(spot(), max_det=1)[0].classes == ["spot", "thing"]  # this detector has no options of its own
    for classes in ("thing", 1, ["thing"]):
        (result,) = look(spot(), classes=classes, max_det=1)
        assert result.classes == ["thing"] and result.labels.tolist() == [1]


def test_classes_take_no_places_from_one_another(tiny_checkpoint: str, spot: Spot) -> None:
    keys = {"weights": tiny_checkpoint, "conf": 0.0}
    everything = iifdet.predict(spot(), **keys, max_det=4096)[0]
    rows = everything.labels == 3
    few = iifdet.predict(spot(), **keys, max_det=5, classes=["white"])[0]
    assert torch.equal(few.scores, everything.scores[rows][:5]) and torch.equal(few.boxes, everything.boxes[rows][:5])


def test_a_loaded_model_is_used_and_not_changed(tiny_checkpoint: str, spot: Spot) -> None:
    model = iifdet.load(tiny_checkpoint)
    options, adjust, names = model.options, model.adjust, list(model.names)
    changed = iifdet.predict(spot(), model=model, adjust="iif", conf=0.0, nms="agnostic")[0]
    plain = iifdet.predict(spot(), model=model, conf=0.0)[0]
    assert model.options is options and model.adjust is adjust and adjust.is_identity and model.names == names
    assert torch.equal(plain.scores, iifdet.predict(spot(), weights=tiny_checkpoint, conf=0.0)[0].scores)
    model.set_adjustment(iif_weights(model.counts, "smooth"), when="infer")
    by_hand = iifdet.predict(spot(), model=model, conf=0.0, nms="agnostic")[0]
    assert torch.equal(changed.scores, by_hand.scores) and not torch.equal(changed.scores[:9], plain.scores[:9])
    model.train()
    iifdet.predict(spot(), model=model)
    assert model.training


def test_a_description_names_classes_without_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IIFDET_DATA_DIR", raising=False)
    names = described_names("coco")
    assert names == described_names("coco128") and names is not None and len(names) == 80
    assert described_names("lvis") is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"source": None}, "source: expected images to look at, got none"),
        ({"classes": "thng"}, "classes: .*did you mean 'thing'"),
        ({"classes": [2]}, "classes: expected numbers from 0 to 1"),
        ({"confi": 1}, "confi: unknown key; did you mean 'conf'"),
        ({"rect": True, "resize": "square"}, "rect: expected resize=letterbox"),
        ({"adjust": "iif"}, "adjust: expected training counts"),
        ({"model": 3}, "model: expected a detector"),
        ({"model": None}, "weights: expected a checkpoint, got none"),
        ({"model": None, "weights": "x.weights"}, "give model=<yolov3"),
        ({"model": "yolov3-tiny", "weights": "x.weights"}, "data: expected a description that names the classes"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_read(bright: Any, spot: Spot, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        iifdet.predict(**{"source": spot(), "model": bright, **keys})
