"""SSD against torchvision's ssd300_vgg16: losses, detections, weights both ways; matching and mining by hand."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.ops import box_iou

from iifdet.datasets import load_index
from iifdet.datasets.images import read_image
from iifdet.detectors import DETECTORS
from iifdet.detectors.default_boxes import PLANS, decode, encode
from iifdet.detectors.multibox_loss import hardest, match
from iifdet.detectors.ssd import from_torchvision, to_torchvision

C = 8


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """torchvision's model, its class scores spread out, and ours with the same weights."""
    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=C + 1)
    with torch.no_grad():  # random weights on values up to 150 saturate the scores and throw boxes anywhere
        for head, factor in ((theirs.head.classification_head, 0.15), (theirs.head.regression_head, 0.05)):
            for layer in head.module_list:
                layer.weight *= factor
    ours = DETECTORS["ssd300"](C)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    return theirs, ours


def images(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(200, 260), (333, 300), (300, 300), (120, 500)]
    return [torch.rand(3, *size, generator=generator) for size in sizes[:count]]


def targets() -> list[Any]:
    return [
        {"boxes": torch.tensor([[20.0, 30, 120, 150], [50, 60, 90, 90]]), "labels": torch.tensor([1, 5])},
        {
            "boxes": torch.tensor([[30.0, 30, 220, 250], [1, 1, 299, 330], [5, 5, 12, 13]]),
            "labels": torch.tensor([7, 0, 3]),
        },
    ]


def shifted(targets: list[Any]) -> list[Any]:
    """torchvision counts background as class 0."""
    return [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]


def photos() -> tuple[list[torch.Tensor], list[Any]]:
    """Two real images, and their boxes with labels below C."""
    if not os.environ.get("IIFDET_DATA_DIR"):
        pytest.skip("IIFDET_DATA_DIR is not set: no real images to compare on")
    index = load_index("coco128", "train").select(range(2))
    pixels = [torch.from_numpy(read_image(file).copy()).permute(2, 0, 1) / 255 for file in index.files]
    rows = [index.boxes_of(i) for i in range(2)]
    return pixels, [
        {"boxes": torch.tensor(index.boxes[r]), "labels": torch.tensor(index.labels[r] % C, dtype=torch.int64)}
        for r in rows
    ]


@pytest.mark.parametrize("batch", [lambda: (images(), targets()), photos], ids=["random", "photos"])
def test_losses_are_torchvision_s(pair: tuple[Any, Any], batch: Any) -> None:
    theirs, ours = pair
    pixels, wanted = batch()
    expected = theirs.train()(pixels, shifted(wanted))
    got = ours.train()(pixels, wanted)
    torch.testing.assert_close(got["box"], expected["bbox_regression"], rtol=1e-5, atol=0)
    torch.testing.assert_close(got["cls"], expected["classification"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("pixels", [lambda: images(4), lambda: photos()[0]], ids=["random", "photos"])
def test_detections_are_torchvision_s(pair: tuple[Any, Any], pixels: Any) -> None:
    theirs, ours = pair
    with torch.inference_mode():
        expected, got = theirs.eval()(pixels()), ours.eval()(pixels())
    for a, b in zip(expected, got, strict=True):
        assert len(b["labels"]) == 200 and b["scores"][0] - b["scores"][-1] > 0.1
        torch.testing.assert_close(b["scores"], a["scores"], rtol=0, atol=1e-4)
        # Equal scores may stand in either order.
        apart = torch.cat((a["scores"].diff().abs() > 1e-6, torch.tensor([True])))
        apart &= torch.cat((torch.tensor([True]), a["scores"].diff().abs() > 1e-6))
        assert apart.float().mean() > 0.9
        assert torch.equal(b["labels"][apart], a["labels"][apart] - 1)
        torch.testing.assert_close(b["boxes"][apart], a["boxes"][apart], rtol=1e-4, atol=1e-3)


def test_weights_go_back_to_torchvision_bit_equal(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    again = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=C + 1)
    again.load_state_dict(to_torchvision(ours.state_dict()))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_state_dict_of_something_else_is_refused(pair: tuple[Any, Any]) -> None:
    state = pair[0].state_dict()
    with pytest.raises(ValueError, match="expected torchvision's ssd300_vgg16"):
        from_torchvision({})
    with pytest.raises(ValueError, match=r"missing \['backbone.scale_weight'\]"):
        from_torchvision({k: v for k, v in state.items() if k != "backbone.scale_weight"})
    with pytest.raises(ValueError, match=r"left over \['extra'\]"):
        from_torchvision({**state, "extra": torch.ones(1)})


def test_default_boxes_are_torchvision_s_and_counts_are_the_papers(pair: tuple[Any, Any]) -> None:
    from torchvision.models.detection.image_list import ImageList

    theirs, ours = pair
    square = torch.zeros(1, 3, 300, 300)
    maps = list(theirs.backbone(square).values())
    (expected,) = theirs.anchor_generator(ImageList(square, [(300, 300)]), maps)
    torch.testing.assert_close(ours.defaults, expected, rtol=1e-5, atol=1e-3)
    assert (len(PLANS[300].boxes()), len(PLANS[512].boxes())) == (8732, 24564)


@pytest.mark.parametrize("size", [300, 512])
def test_feature_maps_have_the_sizes_of_the_plan(size: int) -> None:
    model = DETECTORS[f"ssd{size}"](2, width=0.0625)
    features = model.backbone(torch.zeros(1, 3, size, size))
    assert [f.shape[-1] for f in features] == list(PLANS[size].grids)
    assert [f.shape[1] for f in features] == model.backbone.channels


def test_parameter_count_is_torchvision_s() -> None:
    with torch.device("meta"):
        model = DETECTORS["ssd300"](90)
    assert sum(p.numel() for p in model.parameters()) == 35_641_826


corners = st.tuples(st.floats(0, 250), st.floats(0, 250), st.floats(2, 200), st.floats(2, 200))
some_boxes = st.lists(corners, max_size=6).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows]).reshape(-1, 4)
)


@given(st.lists(some_boxes, min_size=1, max_size=4))
@settings(max_examples=40)
def test_matching_is_torchvision_s_image_by_image(per_image: list[torch.Tensor]) -> None:
    defaults = PLANS[300].boxes()[5000:]
    image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(per_image)]).long()
    found = match(torch.cat(per_image), image, defaults, len(per_image))
    first = 0
    for row, boxes in zip(found, per_image, strict=True):
        expected = SSDMatcher(0.5)(box_iou(boxes, defaults)) if len(boxes) else torch.full((len(defaults),), -1)
        assert torch.equal(torch.where(row >= 0, row - first, -1), expected)
        first += len(boxes)


@given(some_boxes.filter(len))
def test_coding_is_torchvision_s_and_its_own_inverse(boxes: torch.Tensor) -> None:
    defaults = PLANS[300].boxes()[:: 8732 // len(boxes)][: len(boxes)]
    offsets = encode(boxes, defaults)
    torch.testing.assert_close(offsets, BoxCoder((10, 10, 5, 5)).encode_single(boxes, defaults), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decode(offsets, defaults), boxes, rtol=1e-3, atol=1e-2)


def test_mining_takes_three_of_the_hardest_for_each_positive_of_the_same_image() -> None:
    loss = torch.tensor([[9.0, 1, 5, 3, 4, 2], [9, 8, 7, 6, 5, 4]])
    positive = torch.tensor([[True, False, False, False, False, False], [False] * 6])
    assert hardest(loss, positive).int().tolist() == [[0, 0, 1, 1, 1, 0], [0] * 6]


def test_an_image_of_positives_alone_counts_none_twice() -> None:
    assert not hardest(torch.rand(1, 4), torch.ones(1, 4, dtype=torch.bool)).any()


def test_the_adjustment_decides_which_negatives_are_mined(pair: tuple[Any, Any]) -> None:
    """Against torchvision's loss of logits that were adjusted before it saw them."""
    theirs, ours = pair
    scale = torch.linspace(1, 6, C)
    ours.set_adjustment(scale)
    got = ours.train()(images(), targets())
    columns = torch.cat((torch.ones(1), scale))
    hook = theirs.head.register_forward_hook(lambda _, __, out: {**out, "cls_logits": out["cls_logits"] * columns})
    try:
        expected = theirs.train()(images(), shifted(targets()))
    finally:
        hook.remove()
        ours.set_adjustment()
    torch.testing.assert_close(got["cls"], expected["classification"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_sigmoid_losses_take_background_as_no_class(loss: str) -> None:
    model = DETECTORS["ssd300"](C, width=0.0625, class_loss=loss).train()
    model.set_class_weight(torch.full((C,), 2.0))
    logits, background = torch.randn(2, 3, C), torch.randn(2, 3)
    labels = torch.tensor([[-1, 0, 7], [-1, -1, 3]])
    got = model.class_losses(logits, labels, background)
    assert got.shape == (2, 3)
    assert torch.equal(got, model.class_losses(logits, labels, background + 5)), "background plays no part"
    nothing = model.class_losses(torch.full((1, 1, C), -30.0), torch.tensor([[-1]]), torch.zeros(1, 1))
    assert float(nothing) < 1e-6


@pytest.mark.parametrize("options", [{"match_threshold": 7}, {"match_threshold": "x"}, {"negatives": -1}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))}: expected a number"):
        DETECTORS["ssd300"](C, width=0.0625, **options)
