"""Faster and Mask R-CNN and RetinaNet against bare torchvision: with the identity they are the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.models import detection as tv
from torchvision.models import mobilenet_v2

from iifdet.boxes import clip
from iifdet.detectors import DETECTORS, roi_heads
from iifdet.detectors.backbone_weights import load_backbone
from iifdet.detectors.backbones import BACKBONES, build_backbone, plan_of
from iifdet.detectors.rcnn import FasterRCNN
from iifdet.models import create_model

C = 6
SMALL = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 128, "max_size": 256}
#: The first is (86, 256) inside, and 256 times the factor back is less than 286: rounding shows at the border.
SIZES = [(97, 286), (150, 110)]
#: model -> torchvision's factory of the same network, with columns for C classes
SLOW = {
    "fasterrcnn": ("resnet50_fpn", tv.fasterrcnn_resnet50_fpn, C + 1),
    "maskrcnn": ("resnet50_fpn", tv.maskrcnn_resnet50_fpn, C + 1),
    "retinanet": ("resnet50_fpn", tv.retinanet_resnet50_fpn, C),
}
SECOND = {
    "fasterrcnn": ("resnet50_fpn_v2", tv.fasterrcnn_resnet50_fpn_v2, C + 1),
    "maskrcnn": ("resnet50_fpn_v2", tv.maskrcnn_resnet50_fpn_v2, C + 1),
    "retinanet": ("resnet50_fpn_v2", tv.retinanet_resnet50_fpn_v2, C),
}
#: Our names of torchvision's losses.
NAMES = {
    "loss_classifier": "cls",
    "loss_box_reg": "box",
    "loss_objectness": "rpn_cls",
    "loss_rpn_box_reg": "rpn_box",
    "loss_mask": "mask",
    "classification": "cls",
    "bbox_regression": "box",
}


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


def targets() -> list[Any]:
    boxes = [torch.tensor([[20.0, 30, 90, 95], [50, 60, 90, 90]]), torch.tensor([[10.0, 12, 100, 140]])]
    found = []
    for box, labels, size in zip(boxes, ([1, 5], [0]), SIZES, strict=True):
        masks = torch.zeros(len(box), *size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, box.int().tolist(), strict=True):
            mask[y1:y2, x1 : (x1 + x2) // 2] = 1
        found.append({"boxes": box, "labels": torch.tensor(labels), "masks": masks})
    return found


def bare(ours: Any, columns: int) -> Any:
    """torchvision's own model with the same weights, built by torchvision where it has that backbone."""
    kind = {"fasterrcnn": "fasterrcnn_mobilenet_v3_large_320_fpn"}.get(ours.spec_name)
    if kind:
        keys = {"min_size": 128, "max_size": 256}
        theirs = getattr(tv, kind)(weights=None, weights_backbone=None, num_classes=columns, **keys)
    else:
        backbone = build_backbone(SMALL["backbone"], trainable=6, frozen_bn=False, retina=ours.spec_name == "retinanet")
        if ours.spec_name == "retinanet":
            theirs = tv.RetinaNet(backbone, C, min_size=128, max_size=256)
        else:
            theirs = tv.MaskRCNN(
                backbone,
                columns,
                min_size=128,
                max_size=256,
                rpn_anchor_generator=copy.deepcopy(ours.net.rpn.anchor_generator),
                rpn_pre_nms_top_n_test=150,
                rpn_post_nms_top_n_test=150,
                rpn_score_thresh=0.05,
            )
    theirs.load_state_dict(ours.net.state_dict())
    return theirs


def spread(model: Any) -> Any:
    """Class scores that differ, and batch norm statistics that fit the images."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(images(), targets())
        for rows in model.classifier_rows():
            rows.weight.normal_(std=0.05)
            rows.bias.normal_(std=0.1)
    return model


@pytest.fixture(scope="module", params=["fasterrcnn", "maskrcnn", "retinanet"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    torch.manual_seed(0)
    ours = DETECTORS[request.param](C, **SMALL)
    ours.spec_name = request.param
    spread(ours)
    theirs = bare(ours, C if request.param == "retinanet" else C + 1)
    return theirs, ours


def assert_same_losses(theirs: Any, ours: Any) -> None:
    """Bit by bit, save RetinaNet's classification: our one-vs-rest losses are summed over classes and then over
    anchors, torchvision's over both at once, and our focal loss has p_t from the cross-entropy, torchvision's from a
    sigmoid. The order of 10^5 additions shows in the last digits.
    """
    first = 1 if ours.has_background else 0
    counted = [{**t, "labels": t["labels"] + first} for t in targets()]
    torch.manual_seed(3)
    expected = theirs.train()(images(), counted)
    torch.manual_seed(3)
    got = ours.train()(images(), targets())
    assert set(got) == {NAMES[name] for name in expected}
    for name, value in expected.items():
        if name == "classification":
            torch.testing.assert_close(got["cls"], value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(got[NAMES[name]], value), name


def assert_same_detections(theirs: Any, ours: Any) -> None:
    """Bit by bit. Two things are ours: a box at the border is clipped again after it was scaled to the image, and NMS
    compares overlaps in float64, so that a pair within rounding of the threshold (none here) may fare differently.
    """
    if not ours.has_background:  # RetinaNet's boxes without area, which ours leaves out, may use up its places
        theirs.detections_per_img = 10_000
    with torch.inference_mode():
        expected, got = theirs.eval()(images()), ours.eval()(images())
    for a, b, size in zip(expected, got, SIZES, strict=True):
        solid = (a["boxes"][:, 2:] > a["boxes"][:, :2]).all(dim=1)
        a = {name: value[solid][: len(b["labels"])] for name, value in a.items()}
        a["boxes"], a["labels"] = clip(a["boxes"], size), a["labels"] - int(ours.has_background)
        assert len(b["labels"]) == len(a["labels"]) > 20
        assert torch.equal(a["scores"], b["scores"])
        a, b = settled(a), settled(b)
        assert torch.equal(a["labels"], b["labels"]) and torch.equal(a["boxes"], b["boxes"])
        if "masks" in a:
            assert torch.equal(a["masks"][:, 0], b["masks"])


def settled(found: Any) -> Any:
    """Detections of one score, whose order topk leaves open, in the order of their labels and boxes."""
    keys = zip((-found["scores"]).tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True)
    order = [i for _, i in sorted((key, i) for i, key in enumerate(keys))]
    return {name: value[order] for name, value in found.items()}


def test_losses_are_torchvision_s(pair: tuple[Any, Any]) -> None:
    assert_same_losses(*pair)


def test_the_mean_loss_is_added_up_as_cross_entropy_adds_it_up() -> None:
    for seed in range(20):  # .mean() is the same in less than half of them
        generator = torch.Generator().manual_seed(seed)
        logits, labels = torch.randn(1024, C, generator=generator), torch.arange(1024) % C
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        assert torch.equal(roi_heads.mean_loss(each), torch.nn.functional.cross_entropy(logits, labels))


def test_detections_are_torchvision_s(pair: tuple[Any, Any]) -> None:
    assert_same_detections(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("table", [SLOW, SECOND], ids=["v1", "v2"])
@pytest.mark.parametrize("name", SLOW)
def test_resnet50_is_torchvision_s(name: str, table: Any) -> None:
    backbone, factory, columns = table[name]
    torch.manual_seed(0)
    few = {} if name == "retinanet" else {"rpn_post_nms_top_n_test": 60, "box_batch_size_per_image": 64}
    ours = DETECTORS[name](C, backbone=backbone, min_size=128, max_size=256, **few)
    spread(ours)
    theirs = factory(weights=None, weights_backbone=None, num_classes=columns, min_size=128, max_size=256, **few)
    theirs.load_state_dict(ours.net.state_dict())
    assert_same_losses(theirs, ours)
    assert_same_detections(theirs, ours)


def test_proposals_boxes_and_masks_do_not_know_the_adjustment(pair: tuple[Any, Any]) -> None:
    ours = copy.deepcopy(pair[1]).eval()
    with torch.inference_mode():
        plain = ours.adjusted(ours.raw(images()))
        ours.set_adjustment(torch.linspace(0.5, 3, C), torch.linspace(-1, 1, C))
        for one, other in zip(plain, ours.adjusted(ours.raw(images())), strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert not torch.equal(one.class_logits, other.class_logits)
            if one.background is not None and other.background is not None:
                assert torch.equal(one.background, other.background)


def test_raw_and_losses_follow_the_caller_and_not_the_mode(pair: tuple[Any, Any]) -> None:
    ours = copy.deepcopy(pair[1]).eval()
    torch.manual_seed(0)
    in_eval = ours.losses(images(), targets())
    assert not ours.net.training and all(v.isfinite() for v in in_eval.values())
    batch_norms = [m for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    seen = [m.num_batches_tracked.clone() for m in batch_norms]
    ours.train()
    for module in batch_norms:
        module.eval()
    with torch.inference_mode():
        raw = ours.raw(images())
        expected = ours.eval().raw(images())
    assert [int(m.num_batches_tracked) for m in batch_norms] == [int(n) for n in seen]
    assert all(torch.equal(a.class_logits, b.class_logits) for a, b in zip(raw, expected, strict=True))


@pytest.mark.parametrize("class_loss", ["bce", "focal"])
def test_sigmoid_losses_reach_the_second_stage(class_loss: str) -> None:
    torch.manual_seed(0)
    ours = DETECTORS["fasterrcnn"](C, **SMALL, box_batch_size_per_image=16, class_loss=class_loss)
    loss = ours.train()(images(), targets())["cls"]
    loss.backward()
    row = ours.net.roi_heads.box_predictor.cls_score.weight.grad
    assert row[0].abs().sum() == 0 < row[1:].abs().sum()  # the background column plays no part


def test_class_weights_leave_background_alone() -> None:
    torch.manual_seed(0)
    ours = DETECTORS["fasterrcnn"](C, **SMALL, box_batch_size_per_image=16).train()
    empty: list[Any] = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * 2

    def loss(batch: list[Any]) -> float:
        torch.manual_seed(1)
        return copy.deepcopy(ours)(images(), batch)["cls"].item()

    plain = loss(targets()), loss(empty)
    ours.set_class_weight(torch.full((C,), 3.0))
    weighed = loss(targets()), loss(empty)
    assert weighed[0] > plain[0] and weighed[1] == plain[1]


def test_retinanet_refuses_softmax() -> None:
    with pytest.raises(ValueError, match="no background"):
        DETECTORS["retinanet"](C, **SMALL, class_loss="ce")


def test_masks_that_do_not_fit_their_image_are_refused() -> None:
    model = DETECTORS["maskrcnn"](C, **SMALL)
    bad = targets()
    bad[1]["masks"] = bad[1]["masks"][:, :-1]
    with pytest.raises(ValueError, match=r"expected masks .* image 1"):
        model(images(), bad)
    del bad[1]["masks"]
    with pytest.raises(ValueError, match=r"expected masks .* image 1"):
        model(images(), bad)


def test_masks_follow_their_detections_and_lie_in_their_boxes() -> None:
    torch.manual_seed(0)
    ours = spread(DETECTORS["maskrcnn"](C, **SMALL)).eval()
    ours.options = replace(ours.options, conf=0.01, max_det=3)
    with torch.inference_mode():
        found = ours(images())
    for detection, size in zip(found, SIZES, strict=True):
        masks = detection["masks"]
        assert masks.shape == (len(detection["labels"]), *size) and len(masks)
        assert masks.min() >= 0 and 0 < masks.max() <= 1
        for mask, (x1, y1, x2, y2) in zip(masks, detection["boxes"].tolist(), strict=True):
            y, x = mask.nonzero().T
            assert x.min() >= x1 - 6 and x.max() <= x2 + 6 and y.min() >= y1 - 6 and y.max() <= y2 + 6


def test_an_image_without_detections_has_no_masks() -> None:
    ours = DETECTORS["maskrcnn"](C, **SMALL).eval()
    ours.options = replace(ours.options, conf=1.0)
    with torch.inference_mode():
        found = ours(images())
    assert [tuple(d["masks"].shape) for d in found] == [(0, *size) for size in SIZES]


OTHERS = ("resnet18_fpn", "convnext_tiny_fpn", "densenet121_fpn", "mobilenet_v2_fpn", "vgg11_bn_fpn")


@pytest.mark.parametrize("name", [*(name for name in BACKBONES if name != "resnext101_fpn"), *OTHERS])
def test_backbones_freeze_what_they_are_told(name: str) -> None:
    stages = plan_of(name).stages
    with torch.device("meta"):
        models = [
            DETECTORS["fasterrcnn"](C, backbone=name, trainable_backbone_layers=n).net.backbone.body
            for n in (0, 3, stages)
        ]
    learning = [sum(p.requires_grad for p in body.parameters()) for body in models]
    assert 0 == learning[0] < learning[1] < learning[2] == len(list(models[2].parameters()))


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet"])
def test_any_network_of_torchvision_with_features_serves_as_backbone(name: str) -> None:
    model = create_model(name, C, backbone="mobilenet_v2_fpn", min_size=64, max_size=128)
    published = mobilenet_v2(weights=None, num_classes=7)
    notes = load_backbone(model, published.state_dict())
    assert len(notes) == 2 and "left over in the file: classifier.1.weight" in notes[1]
    body = published.features.eval()(torch.rand(1, 3, 64, 64))
    assert all(v.isfinite() for v in model(images(), targets()).values())
    x = torch.rand(1, 3, 64, 64)
    features = model.eval().net.backbone.body(x)
    first = 8 if name == "retinanet" else 4
    assert [64 // f.shape[-1] for f in features.values()] == [s for s in (4, 8, 16, 32) if s >= first]
    deepest = list(features.values())[-1]
    assert deepest.shape == body.shape
    load_backbone(model, published.state_dict())  # the step above moved its running statistics
    assert torch.equal(list(model.net.backbone.body(x).values())[-1], published.features(x))


def test_frozen_batch_norm_is_torchvision_s() -> None:
    with torch.device("meta"):
        model = DETECTORS["fasterrcnn"](C, frozen_bn=True, trainable_backbone_layers=3)
    kinds = {type(m).__name__ for m in model.net.backbone.modules() if "BatchNorm" in type(m).__name__}
    assert kinds == {"FrozenBatchNorm2d"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet5"}, "backbone: expected one of"),
        ({"backbone": "resnet5_fpn"}, "backbone: expected one of"),
        ({"backbone": "squeezenet1_0_fpn"}, "expected maps of strides"),
        ({"backbone": "shufflenet_v2_x0_5_fpn"}, "expected a network with a 'features' part"),
        ({"backbone": 50}, "backbone: expected one of"),
        ({"trainable_backbone_layers": 6}, "trainable_backbone_layers: expected 0…5"),
        ({"trainable_backbone_layers": "two"}, "trainable_backbone_layers: expected 0…5 .*got 'two'"),
        ({"min_size": 0}, "min_size: expected a whole number of at least 1, got 0"),
        ({"min_size": [64, "x"]}, "min_size: expected a whole number of at least 1, got 'x'"),
        ({"min_size": []}, "min_size: expected a whole number of pixels or several, got none"),
        ({"max_size": -5}, "max_size: expected a whole number of at least 1, got -5"),
        ({"frozen_bn": "maybe"}, "frozen_bn: expected true or false, got 'maybe'"),
        ({"backbone": "vgg16_fpn", "frozen_bn": True}, "no batch norm"),
        ({"backbone": "resnet50_fpn_v2", "frozen_bn": True}, "trains its own"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    for name in ("fasterrcnn", "maskrcnn", "retinanet"):
        with pytest.raises(ValueError, match=message):
            DETECTORS[name](C, **options)


def test_any_network_of_torchvision_s_class_can_be_wrapped() -> None:
    features = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 8, 1), torch.nn.ReLU())
    features.out_channels = 16  # type: ignore[assignment]
    anchors = tv.anchor_utils.AnchorGenerator(((32, 64),), ((1.0,),))
    net = tv.FasterRCNN(features, C + 1, rpn_anchor_generator=anchors, min_size=64, max_size=128)
    net.roi_heads.box_roi_pool.featmap_names = ["0"]
    model = FasterRCNN(C, net)
    assert all(v.isfinite() for v in model(images(), targets()).values())
    with pytest.raises(ValueError, match="background among them"):
        FasterRCNN(C + 1, net)
