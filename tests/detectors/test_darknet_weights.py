"""Darknet files: whole, truncated, of other classes, and wrong ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iifdet
from iifdet.detectors.darknet_weights import _block_size, _blocks, load_darknet, read_darknet, save_darknet
from iifdet.detectors.yolov3 import YOLOv3, yolov3_nano, yolov3_tiny
from iifdet.errors import InputError

FACTORIES: list[Any] = [lambda classes: yolov3_tiny(classes, width=0.125), lambda classes: yolov3_nano(classes)]


def scrambled(factory: Any, classes: int, seed: int) -> YOLOv3:
    torch.manual_seed(seed)
    model: YOLOv3 = factory(classes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model.eval()


def state(model: YOLOv3) -> dict[str, torch.Tensor]:
    skip = ("adjust.", "num_batches_tracked")
    return {k: v for k, v in model.state_dict().items() if not k.startswith(skip[0]) and not k.endswith(skip[1])}


@pytest.mark.parametrize("factory", FACTORIES)
def test_what_is_saved_loads_bit_equal_and_means_sigmoid_scores(factory: Any, tmp_path: Path) -> None:
    source, model = scrambled(factory, 5, 0), scrambled(factory, 5, 1)
    save_darknet(source, tmp_path / "x.weights")
    report = load_darknet(model, tmp_path / "x.weights")
    assert report.full and report.loaded == report.total and report.file_classes == 5
    assert all(torch.equal(a, b) for a, b in zip(state(source).values(), state(model).values(), strict=True))
    assert model.class_activation == "sigmoid"


def test_output_rows_lie_interleaved_as_darknet_has_them(tmp_path: Path) -> None:
    model = scrambled(FACTORIES[0], 5, 0)
    save_darknet(model, tmp_path / "x.weights")
    last = model.scales[-1].predict
    rows = read_darknet(tmp_path / "x.weights")[-3 * 10 * last.box.in_channels :].reshape(3, 10, -1)
    for a in range(3):
        assert np.array_equal(rows[a, :5], last.box.weight.detach().numpy().reshape(3, 5, -1)[a])
        assert np.array_equal(rows[a, 5:], last.cls.weight.detach().numpy().reshape(3, 5, -1)[a])


def test_old_headers_have_a_shorter_counter(tmp_path: Path) -> None:
    source = scrambled(FACTORIES[0], 5, 0)
    save_darknet(source, tmp_path / "new.weights")
    values = read_darknet(tmp_path / "new.weights")
    old = np.array([0, 1, 0], np.int32).tobytes() + np.array([7], np.int32).tobytes() + values.tobytes()
    (tmp_path / "old.weights").write_bytes(old)
    assert np.array_equal(read_darknet(tmp_path / "old.weights"), values)


def test_a_file_may_end_after_any_layer(tmp_path: Path) -> None:
    source = scrambled(FACTORIES[0], 5, 0)
    save_darknet(source, tmp_path / "x.weights")
    data = (tmp_path / "x.weights").read_bytes()
    ends = np.cumsum([_block_size(block, 5) for block in _blocks(source)])[:-1]
    for layers, end in enumerate(ends.tolist(), start=1):
        (tmp_path / "x.conv.9").write_bytes(data[: 20 + 4 * end])
        model = scrambled(FACTORIES[0], 5, 1)
        report = load_darknet(model, tmp_path / "x.conv.9")
        assert report.loaded == layers and not report.full
        assert torch.equal(_blocks(model)[0].conv.weight, _blocks(source)[0].conv.weight)  # type: ignore[union-attr]
        assert model.class_activation == "softmax"


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_float_too_many_or_too_few_is_refused_with_both_numbers(tmp_path: Path, extra: int) -> None:
    model = scrambled(FACTORIES[0], 5, 0)
    save_darknet(model, tmp_path / "x.weights")
    data = (tmp_path / "x.weights").read_bytes()
    floats = (len(data) - 20) // 4
    (tmp_path / "x.weights").write_bytes(data[:-4] if extra < 0 else data + b"\0\0\0\0")
    before = {k: v.clone() for k, v in state(model).items()}
    with pytest.raises(InputError, match=rf"expected {floats} floats .* got {floats + extra} "):
        load_darknet(model, tmp_path / "x.weights")
    assert all(torch.equal(v, before[k]) for k, v in state(model).items())


def test_a_file_of_other_classes_gives_everything_but_the_class_rows(tmp_path: Path) -> None:
    source, model = scrambled(FACTORIES[0], 7, 0), scrambled(FACTORIES[0], 5, 1)
    save_darknet(source, tmp_path / "x.weights")
    before = model.scales[0].predict.cls.weight.clone()
    report = load_darknet(model, tmp_path / "x.weights")
    assert report.file_classes == 7 and not report.full and "7 classes" in report.notes[0]
    assert torch.equal(model.scales[1].predict.box.weight, source.scales[1].predict.box.weight)
    assert torch.equal(model.scales[0].predict.cls.weight, before)
    assert model.class_activation == "softmax"


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"PK\x03\x04" + bytes(60)])
def test_what_is_no_darknet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.weights").write_bytes(content)
    with pytest.raises(InputError, match="weights: expected"):
        load_darknet(scrambled(FACTORIES[0], 5, 0), tmp_path / "x.weights")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.weights"):
        read_darknet(tmp_path / "none.weights")


def test_the_published_tiny_weights_reach_their_figures_on_coco128(tmp_path: Path) -> None:
    default = "~/.cache/iifdet/weights/yolov3-tiny.weights"
    weights = Path(os.environ.get("IIFDET_TINY_WEIGHTS", default)).expanduser()
    if not weights.is_file() or "IIFDET_DATA_DIR" not in os.environ:
        pytest.skip("needs IIFDET_DATA_DIR and the weights: python tools/fetch_tiny_weights.py")
    assert hashlib.sha256(weights.read_bytes()).hexdigest().startswith("dccea06f59b7")
    keys = {"imgsz": 416, "conf": 0.005, "iou": 0.45, "workers": 0, "plots": False, "project": tmp_path}
    result = iifdet.val(model="yolov3-tiny", weights=weights, data="coco128", split="train", **keys)
    assert result.metrics["AP"] == pytest.approx(0.144, abs=0.004)
    assert result.metrics["AP50"] == pytest.approx(0.279, abs=0.004)
