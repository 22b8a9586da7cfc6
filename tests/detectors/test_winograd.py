"""3x3 convolutions by Winograd's filtering are the convolutions, of any size, number and activation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iifdet.detectors import packing, winograd
from iifdet.detectors.packing import pack_convolutions
from iifdet.detectors.winograd import WinogradConv2d
from iifdet.models import create_model

works = pytest.mark.skipif(not packing._works(), reason="this PyTorch packs no convolutions")
SIZES = [(1, 128, 26, 26), (2, 128, 13, 17), (1, 128, 1, 1), (3, 128, 2, 5), (0, 128, 14, 14), (40, 128, 14, 14)]


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Of all boxes and classes, before any activation."""
    return torch.cat([each.class_logits.flatten() for each in model.raw(images)])  # type: ignore[operator]


def convolution(bias: bool = True, channels: int = 128) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, 144, 3, padding=1, bias=bias)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution_in_double_precision_up_to_rounding(size: tuple[int, ...], bias: bool) -> None:
    conv, images = convolution(bias), torch.randn(size)
    exact = copy.deepcopy(conv).double()(images.double()).float()
    torch.testing.assert_close(WinogradConv2d(conv)(images), exact, atol=3e-6, rtol=1e-5)


@torch.inference_mode()
def test_its_rounding_is_at_most_three_times_that_of_a_direct_convolution() -> None:
    conv, images = convolution(channels=512), torch.randn(1, 512, 26, 26)
    exact = copy.deepcopy(conv).double()(images.double())
    ours, direct = (((f(images) - exact).square().mean().sqrt()) for f in (WinogradConv2d(conv), conv))
    assert ours < 3 * direct


@works
@torch.inference_mode()
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), None, nn.Sigmoid()])
def test_packing_takes_it_for_many_channels_and_keeps_the_activation(activation: nn.Module | None) -> None:
    model = nn.Sequential(convolution(), *([] if activation is None else [activation]))
    packed, images = pack_convolutions(copy.deepcopy(model)), torch.randn(2, 128, 9, 8)
    assert isinstance(packed[0], WinogradConv2d)  # type: ignore[index]
    kept = images.clone()
    torch.testing.assert_close(packed(images), model(images), atol=1e-5, rtol=1e-5)
    assert torch.equal(images, kept)
    torch.testing.assert_close(copy.deepcopy(packed)(images), packed(images))


@pytest.mark.parametrize(
    "changed",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}, {"kernel_size": 5}, {"in_channels": 64}],
    ids=str,
)
def test_other_convolutions_do_not_suit(changed: dict[str, int]) -> None:
    form = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    assert winograd.suits(nn.Conv2d(**form))  # type: ignore[arg-type]
    assert not winograd.suits(nn.Conv2d(**{**form, **changed}))  # type: ignore[arg-type]


@torch.inference_mode()
def test_it_reads_any_order_in_memory_and_gives_float32_under_autocast() -> None:
    conv, images = convolution(), torch.randn(2, 128, 10, 12)
    quick, expected = WinogradConv2d(conv), conv(images)
    for same in (images.contiguous(memory_format=torch.channels_last), F.pad(images, (1, 1))[..., 1:-1]):
        torch.testing.assert_close(quick(same), expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(quick(images), expected, atol=1e-5, rtol=1e-5)


@works
@torch.inference_mode()
def test_the_whole_yolov3_rounds_hardly_more_than_before() -> None:
    torch.manual_seed(0)
    model = create_model("yolov3", 80).eval()
    images = torch.rand(1, 3, 96, 96)
    exact = logits(copy.deepcopy(model).double(), images.double())
    direct = logits(model, images)
    packed = logits(pack_convolutions(model), images)
    assert sum(isinstance(module, WinogradConv2d) for module in model.modules()) > 25
    assert (packed - exact).norm() < 2 * (direct - exact).norm() < 1e-4 * exact.norm()
