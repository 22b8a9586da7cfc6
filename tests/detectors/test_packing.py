"""Fused and packed detectors say what they said before, for images of any size and number."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from explaining_models import RCNN, SMALL
from torch import nn

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.detectors import fusing, packing
from iifdet.detectors.packing import PackedConv2d, pack_convolutions
from iifdet.models import create_model

works = pytest.mark.skipif(not packing._works(), reason="this PyTorch packs no convolutions")


@works
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), [(1, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 4), (5, 1, 1, 8)]
)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), None])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_convolution_is_the_convolution(
    kernel: int, stride: int, dilation: int, groups: int, activation: nn.Module | None, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, kernel, stride, kernel // 2, dilation, groups, bias)
    model = nn.Sequential(conv, nn.Identity(), activation or nn.Sigmoid())
    packed = pack_convolutions(copy.deepcopy(model))
    assert isinstance(packed[0], PackedConv2d)  # type: ignore[index]
    assert isinstance(packed[2], nn.Sigmoid if activation is None else nn.Identity)  # type: ignore[index]
    with torch.inference_mode():
        for size in ((1, 8, 20, 30), (3, 8, 20, 30), (1, 8, 9, 7), (1, 8, 20, 30)):  # the first is packed for
            images = torch.randn(size)
            torch.testing.assert_close(packed(images), model(images), atol=1e-5, rtol=1e-5)


def test_what_is_no_plain_convolution_stays() -> None:
    class Own(nn.Conv2d):
        pass

    model = nn.ModuleList([Own(3, 4, 1), nn.Conv2d(3, 4, 3, padding="same"), nn.ConvTranspose2d(3, 4, 2)])
    model.append(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    kinds = [type(module) for module in model]
    assert [type(module) for module in pack_convolutions(model).children()] == kinds


def test_activations_of_modules_with_a_forward_of_their_own_stay() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x + self.conv(x))

    model, images = Residual(), torch.randn(1, 3, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(pack_convolutions(copy.deepcopy(model))(images), model(images))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "maskrcnn"])
def test_a_fused_detector_says_what_it_said(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 4, **SMALL[name]).eval()
    model.set_adjustment(torch.tensor([1.0, 1.5, 2.0, 3.0]))
    quick = fusing.fuse(copy.deepcopy(model), (96, 96))
    assert not any(isinstance(m, fusing.NORMS) for m in quick.modules()) or name in ("fasterrcnn", "retinanet")
    with torch.inference_mode():
        for number, height, width in ((1, 96, 96), (2, 96, 96), (1, 64, 96)):
            images = torch.rand(number, 3, height, width)
            for one, other in zip(quick.raw(images), model.raw(images), strict=True):
                torch.testing.assert_close(one.class_logits, other.class_logits, atol=1e-3, rtol=1e-3)
                torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-3)


@works
def test_a_copy_of_what_is_packed_packs_anew() -> None:
    packed, images = pack_convolutions(nn.Sequential(nn.Conv2d(3, 4, 3))), torch.randn(1, 3, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(copy.deepcopy(packed)(images), packed(images))
        torch.testing.assert_close(copy.deepcopy(packed)(images), packed(images))  # now there is something packed


def test_asking_whether_it_works_draws_nothing_and_minds_no_autocast() -> None:
    before, works_here = torch.get_rng_state(), packing._works()
    with torch.autocast("cpu"):
        assert packing._works() == works_here
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fused_mask_r_cnn_finds_masks_as_before() -> None:
    torch.manual_seed(0)
    model = create_model("maskrcnn", 4, **RCNN).eval()
    quick = fusing.fuse(copy.deepcopy(model), (96, 96))
    with torch.inference_mode():
        for images in (torch.zeros(1, 3, 96, 96), torch.rand(2, 3, 96, 96)):
            for one, other in zip(quick(images), model(images), strict=True):
                assert one["masks"].shape[1:] == other["masks"].shape[1:] == (96, 96)
                assert abs(len(one["scores"]) - len(other["scores"])) <= 2
    fusing.fuse(quick, (96, 96))  # a second time nothing is left to do


def test_nothing_happens_where_the_operator_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedConv2d, "forward", lambda self, x: torch.zeros(1, 8, 6, 6))
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert isinstance(pack_convolutions(model)[0], nn.Conv2d)  # type: ignore[index]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert isinstance(pack_convolutions(model)[0], nn.Conv2d)  # type: ignore[index]


@works
def test_predict_packs_for_several_pictures_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = create_model("yolov3-nano", 4, width=0.0625, depth=0.1).eval()
    save_checkpoint(tmp_path / "last.pt", model, recipe={"imgsz": 64})
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, file in enumerate(files):
        cv2.imwrite(file, np.random.default_rng(i).integers(0, 255, (50, 60 + i, 3), np.uint8))
    calls: list[tuple[int, int]] = []
    fuse = fusing.fuse
    monkeypatch.setattr("iifdet.build.predictor.fuse", lambda m, size: (calls.append(size), fuse(m, size))[1])
    keys: dict[str, Any] = {"weights": tmp_path / "last.pt", "device": "cpu", "conf": 0.0, "max_det": 20}
    quick, plain = (list(iifdet.predict(files, **keys, fuse=fuse)) for fuse in (True, False))
    iifdet.predict(files[0], **keys)
    iifdet.predict(files, **{**keys, "weights": None}, model=iifdet.load(tmp_path / "last.pt"))
    assert calls == [(64, 64)], "for several pictures and a model of its own alone"
    for one, other in zip(quick, plain, strict=True):
        assert one.classes == other.classes
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-4)
