"""What every detector promises, checked on each of them. A new detector adds one line to SMALL."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from iifdet import build
from iifdet.build.freezing import freeze_all_but_class_rows
from iifdet.build.model import check_multi_scale
from iifdet.checkpoint import save_checkpoint
from iifdet.config import TrainConfig, WeightKeys
from iifdet.detectors import DETECTORS, Detector, PostprocessOptions
from iifdet.detectors.cascade import CascadeRCNN
from iifdet.detectors.cosine import CosineLinear
from iifdet.detectors.fusing import NORMS, fuse_batch_norms
from iifdet.detectors.rcnn import FasterRCNN
from iifdet.detectors.yolov3 import YOLOv3
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts, iif_weights
from iifdet.models import create_model

C, SIZE = 8, 96
RCNN: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": SIZE, "max_size": 2 * SIZE}
#: Keywords that make each detector small enough for a test; everything else is the real thing.
SMALL: dict[str, dict[str, Any]] = {
    "yolov3": {"width": 0.125, "depth": 0.25},
    "yolov3-tiny": {"width": 0.25},
    "yolov3-nano": {},
    "ssd300": {"width": 0.0625},
    "ssd512": {"width": 0.0625},
    "fasterrcnn": {**RCNN, "box_batch_size_per_image": 32},
    "maskrcnn": {**RCNN, "box_batch_size_per_image": 32},
    "retinanet": RCNN,
}
#: And those that options make another network of.
KINDS: dict[str, dict[str, Any]] = {
    **SMALL,
    "fasterrcnn, cosines": {**SMALL["fasterrcnn"], "head": "cosine"},
    "fasterrcnn, cascade": {**SMALL["fasterrcnn"], "cascade": True},
}
COUNTS = ClassCounts(
    [f"class{c}" for c in range(C)],
    torch.tensor([300, 150, 80, 40, 20, 10, 5, 2]),
    torch.tensor([900, 200, 90, 50, 20, 10, 5, 2]),
    num_images=500,
)
WEIGHTS = iif_weights(COUNTS, "smooth")
SHIFT = torch.linspace(-1, 1, C)
ADJUSTMENTS: dict[str, dict[str, Any]] = {
    "identity": {"scale": torch.ones(C), "shift": torch.zeros(C)},
    "iif": {"scale": WEIGHTS},
    "additive": {"shift": SHIFT},
    "train-only": {"scale": WEIGHTS, "when": "train"},
    "infer-only": {"scale": WEIGHTS, "when": "infer"},
    "mean-centred": {"scale": WEIGHTS, "shift": SHIFT, "center": "mean"},
    "bg-centred": {"scale": WEIGHTS, "shift": SHIFT, "center": "bg"},
}


def test_every_detector_is_under_this_contract() -> None:
    assert set(SMALL) == set(DETECTORS)


def called(case: str) -> str:
    """The detector of a case of KINDS."""
    return case.partition(",")[0]


@pytest.fixture(params=KINDS, scope="module")
def base(request: pytest.FixtureRequest) -> Detector:
    """A detector with spread-out class logits: some batch norm statistics, and class rows that are not tiny."""
    torch.manual_seed(0)
    model: Detector = create_model(called(request.param), C, **KINDS[request.param])
    model.names, model.counts = COUNTS.names, COUNTS
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 3, SIZE, SIZE), [empty_target()] * 4)
        for rows in model.classifier_rows():
            rows.weight.normal_(std=0.5)
            rows.bias.normal_(std=0.5)
    model.options = PostprocessOptions(conf=0.0005, max_det=12 if "rcnn" in request.param else 300)
    return settle(model.eval()) if model.has_background else model.eval()


def settle(model: Detector) -> Detector:
    """Give each class logits of mean 0 and deviation 1 or so: an untrained R-CNN's proposals look alike, an untrained
    SSD's scores are all 1.
    """
    with torch.no_grad():
        for _ in range(2):
            logits = torch.cat([r.class_logits for r in model.raw(torch.rand(2, 3, SIZE, SIZE))])
            mean, factor = logits.mean(dim=0), 1 / logits.std(dim=0).mean()
            for rows in model.classifier_rows():
                rows.bias.sub_(mean).mul_(factor)
                rows.weight.mul_(factor)
            for layer in model.classifier_layers():
                if isinstance(layer, CosineLinear):  # whose rows' lengths are without effect
                    layer.class_scale[1:].mul_(factor)
                    layer.class_scale[0] = 0.1
    return model


@pytest.fixture
def model(base: Detector) -> Detector:
    return copy.deepcopy(base)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def plain(base: Detector, images: torch.Tensor) -> tuple[Any, Any]:
    """Detections and losses without an adjustment."""
    return detect(base, images), losses(base, images)


def empty_target() -> Any:
    return with_masks({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)})


def targets() -> list[Any]:
    return [
        with_masks({"boxes": torch.tensor([[8.0, 10, 40, 50], [50, 52, 90, 92]]), "labels": torch.tensor([0, 6])}),
        with_masks({"boxes": torch.tensor([[20.0, 20, 70, 60]]), "labels": torch.tensor([3])}),
    ]


def with_masks(target: Any, size: tuple[int, int] = (SIZE, SIZE)) -> Any:
    """Masks that fill their boxes; a detector that wants none must not mind them."""
    masks = torch.zeros(len(target["boxes"]), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, target["boxes"].int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return {**target, "masks": masks}


def detect(model: Detector, images: Any) -> Any:
    with torch.inference_mode():
        return model(images)


def losses(model: Detector, images: Any) -> Any:
    """Of a fresh copy, since train mode moves batch norm statistics; R-CNNs draw which proposals count."""
    torch.manual_seed(0)
    with torch.no_grad():
        return copy.deepcopy(model).train()(images, targets())


def identical(a: Any, b: Any) -> bool:
    return all(torch.equal(one[k], other[k]) for one, other in zip(a, b, strict=True) for k in one)


def assert_same(a: Any, b: Any, atol: float = 1e-5, pixels: float = 1e-3) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], atol=atol, rtol=1e-4)
        other = other if atol == 0 else in_the_order_of(one, other, atol)
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=pixels, rtol=1e-4)
        if "masks" in one and "masks" in other:
            torch.testing.assert_close(one["masks"], other["masks"], atol=1e-3, rtol=1e-3)


def in_the_order_of(one: Any, other: Any, atol: float) -> Any:
    """Rounding may swap detections whose scores are all but equal: the same ones, each beside its twin in ``one``."""
    apart = (one["boxes"][:, None] - other["boxes"][None]).abs().amax(dim=-1)
    apart[one["labels"][:, None] != other["labels"][None]] = torch.inf
    apart[(one["scores"][:, None] - other["scores"][None]).abs() > atol + 1e-4 * one["scores"][:, None]] = torch.inf
    twin = apart.argmin(dim=1)
    assert len(twin.unique()) == len(twin), "each detection has a twin of its own"
    return {name: value[twin] for name, value in other.items()}


def test_iif_changes_labels_of_a_detector_with_spread_scores(model: Detector, images: torch.Tensor) -> None:
    model.options = replace(model.options, multi_label=False)
    with torch.inference_mode():
        raw = model.raw(images)[0]
    plain = detect(model, images)
    model.set_adjustment(WEIGHTS)
    adjusted = detect(model, images)
    assert raw.class_logits.std() > 0.1 and plain[0]["scores"].std() > 0
    assert all(len(d["labels"]) >= 10 for d in (*plain, *adjusted))
    best = raw.class_logits.argmax(1), (raw.class_logits * WEIGHTS.float()).argmax(1)
    assert (best[0] != best[1]).any()
    assert not torch.equal(plain[0]["labels"], adjusted[0]["labels"])


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_an_adjustment_acts_in_its_phases_alone_and_folds_into_the_class_rows(
    model: Detector, images: torch.Tensor, plain: tuple[Any, Any], name: str
) -> None:
    keys = ADJUSTMENTS[name]
    if keys.get("center") == "bg" and not model.has_background:
        with pytest.raises(ValueError, match="no background"):
            model.set_adjustment(**keys)
        return
    model.set_adjustment(**keys)
    found, trained = detect(model, images), losses(model, images)
    assert identical(found, plain[0]) == (name in ("identity", "train-only"))
    assert {k for k in trained if trained[k] != plain[1][k]} == set() if name in ("identity", "infer-only") else {"cls"}
    model.fold()
    # a cascade's boxes of several proposals hardly differ here, and rounding of scores chooses among them
    assert_same(detect(model, images), found, pixels=0.5 if isinstance(model, CascadeRCNN) else 1e-3)


def test_a_folded_model_refuses_to_train_and_to_be_adjusted(model: Detector, images: torch.Tensor) -> None:
    model.fold()
    with pytest.raises(RuntimeError, match="folded"):
        losses(model, images)
    with pytest.raises(RuntimeError, match="folded"):
        model.set_adjustment()


def test_a_softmax_checkpoint_adjusted_in_val_equals_a_model_that_had_iif_from_the_start(
    model: Detector, images: torch.Tensor, plain: tuple[Any, Any], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "softmax.pt", model)
    after = build.load_model(tmp_path / "softmax.pt")
    after.options = model.options
    build.set_adjustment(after, WeightKeys(variant="smooth"), "iif", strategy="post_process")
    model.set_adjustment(WEIGHTS)
    found = detect(after, images)
    assert identical(found, detect(model, images)) and not identical(found, plain[0])


def test_iif_around_the_background_flips_no_class_over_it_and_an_additive_shift_does(
    model: Detector, images: torch.Tensor
) -> None:
    """The paper's claim: multiplied, a class that loses against background still loses, if zero lies there."""
    with torch.inference_mode():
        raw = model.raw(images)
    if not model.has_background:
        assert all(r.background is None for r in raw)
        return

    def sides() -> torch.Tensor:
        """(rows, C): does the class beat background?"""
        return torch.cat([r.class_logits > r.background[:, None] for r in model.adjusted(raw)])  # type: ignore[index]

    before = sides()
    assert before.any() and not before.all()
    model.set_adjustment(WEIGHTS, center="bg")
    assert torch.equal(sides(), before)
    model.set_adjustment(shift=3 * SHIFT)
    lost, won = before & ~sides(), ~before & sides()
    assert lost.any() and won.any()
    assert not lost[:, SHIFT > 0].any() and not won[:, SHIFT < 0].any(), "a class moves the way it is shifted"


def test_boxes_and_objectness_are_bit_identical_under_any_adjustment(model: Detector, images: torch.Tensor) -> None:
    with torch.inference_mode():
        raw = model.raw(images)
    for name, keys in ADJUSTMENTS.items():
        if keys.get("center") == "bg" and not model.has_background:
            continue
        model.set_adjustment(**keys)
        for one, other in zip(raw, model.adjusted(raw), strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert torch.equal(one.class_logits, other.class_logits) == (name in ("identity", "train-only"))
            assert (one.objectness is None) == (other.objectness is None) == (not isinstance(model, YOLOv3))
            if one.objectness is not None and other.objectness is not None:
                assert torch.equal(one.objectness, other.objectness)


def test_forward_is_postprocess_of_adjusted_raw_and_rows_name_their_source(
    model: Detector, images: torch.Tensor
) -> None:
    model.set_adjustment(WEIGHTS)
    with torch.inference_mode():
        raw = model.adjusted(model.raw(images))
        found, rows = model.postprocess(raw)
    assert_same(detect(model, images), found, atol=0)
    for r, detection, row in zip(raw, found, rows, strict=True):
        assert len(row) == len(detection["labels"]) > 0
        scores = model.scores(r)[row, detection["labels"]]
        torch.testing.assert_close(scores, detection["scores"])
        boxes = r.boxes[row] if r.boxes.ndim == 2 else r.boxes[row, detection["labels"]]
        torch.testing.assert_close(boxes.clamp(0, SIZE), detection["boxes"])
        assert (detection["scores"].diff() <= 0).all()


def test_detections_have_masks_exactly_where_the_detector_wants_them(model: Detector, images: torch.Tensor) -> None:
    model.options = replace(model.options, max_det=5)
    for found in detect(model, images):
        assert ("masks" in found) == model.wants_masks
        if model.wants_masks:
            assert found["masks"].shape == (len(found["labels"]), SIZE, SIZE)
            assert found["masks"].min() >= 0 and 0 < found["masks"].max() <= 1


def test_empty_targets_give_a_finite_loss_with_gradients(model: Detector, images: torch.Tensor) -> None:
    model.set_adjustment(WEIGHTS)
    total = sum(model.train()(images, [empty_target(), empty_target()]).values())
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_images_of_any_size_give_boxes_in_their_own_pixels(model: Detector) -> None:
    """The last one is smaller than any default box."""
    sizes = [(50, 70), (96, 33), (4, 3)]
    images = [torch.rand(3, h, w) for h, w in sizes]
    with torch.inference_mode():
        assert [r.size for r in model.raw(images)] == sizes
    for found, (height, width) in zip(detect(model, images), sizes, strict=True):
        boxes = found["boxes"]
        assert len(boxes) and (boxes >= 0).all()
        assert boxes[:, [0, 2]].max() <= width and boxes[:, [1, 3]].max() <= height


def test_boxes_keep_their_precision_under_bfloat16(model: Detector, images: torch.Tensor) -> None:
    """Which has 8 bits: rounded to it, coordinates of a large image are off by pixels."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        boxes = torch.cat([r.boxes.reshape(-1, 4) for r in model.raw(images)])
        proposals = model._encode(images).proposals if isinstance(model, FasterRCNN) else [boxes]
    for found in (boxes, *proposals):
        rounded = (found == found.bfloat16().float()) & (found > 0) & (found < SIZE)
        assert found.dtype == torch.float32 and len(found) and rounded.float().mean() < 0.2


def test_anchors_are_the_same_under_bfloat16(model: Detector) -> None:
    """torchvision makes them in the type of the maps, so that training and inference would have others."""
    found: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, AnchorGenerator):
            module.register_forward_hook(lambda _, inputs, anchors: found.extend(anchors))
    if not any(isinstance(module, AnchorGenerator) for module in model.modules()):
        pytest.skip("has none of torchvision's")
    image = torch.rand(1, 3, SIZE, 2 * SIZE)
    with torch.inference_mode():
        model.raw(image)
        with torch.autocast("cpu", torch.bfloat16):
            model.raw(image)
    plain, half = found
    assert half.dtype == torch.float32 and torch.equal(plain, half) and plain.max() > 256


def test_a_list_of_images_is_the_same_as_a_tensor_of_them(
    model: Detector, images: torch.Tensor, plain: tuple[Any, Any]
) -> None:
    assert identical(detect(model, list(images)), plain[0])
    assert losses(model, list(images)) == plain[1]


def test_dense_predictions_are_those_of_raw_in_one_piece(model: Detector, images: torch.Tensor) -> None:
    if isinstance(model, FasterRCNN):
        with pytest.raises(NotImplementedError):
            model.dense(images)
        return
    dense = model.dense(images)
    for i, raw in enumerate(model.raw(images)):
        for name in ("boxes", "class_logits", "objectness", "background"):
            one, other = getattr(raw, name), getattr(dense, name)
            assert (one is None and other is None) or torch.equal(one, other[i])
        assert (dense.size, dense.levels) == (raw.size, raw.levels)
        assert torch.equal(model.scores(dense)[i], model.scores(raw))


def test_batch_norms_go_into_the_convolutions_before_them(model: Detector, images: torch.Tensor) -> None:
    with torch.no_grad():
        before, fused = model.raw(images), fuse_batch_norms(copy.deepcopy(model), images)
        assert not [m for m in fused.modules() if isinstance(m, NORMS)]
        for one, other in zip(before, fused.raw(images), strict=True):
            torch.testing.assert_close(one.class_logits, other.class_logits, atol=1e-3, rtol=1e-3)


def test_a_list_of_images_of_different_sizes_trains(model: Detector) -> None:
    sizes = [(50, 70), (4, 3)]
    wanted = [with_masks({"boxes": torch.tensor([[1.0, 1, 3, 4]]), "labels": torch.tensor([2])}, s) for s in sizes]
    named = model.train()([torch.rand(3, h, w) for h, w in sizes], wanted)
    sum(named.values()).backward()
    assert all(value.isfinite() for value in named.values()) and named["cls"] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("box", "label"), [([5.0, 5, 50, 5], 0), ([5.0, 5, 50, 50], C)])
def test_boxes_without_height_and_unknown_labels_are_refused_by_name(
    model: Detector, images: torch.Tensor, box: list[float], label: int
) -> None:
    bad = with_masks({"boxes": torch.tensor([box]), "labels": torch.tensor([label])})
    with pytest.raises(InputError, match=rf"targets: expected .*labels 0…{C - 1}, got .*label {label} in image 1"):
        model.train()(images, [empty_target(), bad])


def test_raw_is_differentiable_down_to_the_cam_layers(model: Detector, images: torch.Tensor) -> None:
    kept: dict[str, torch.Tensor] = {}
    for name, layer in model.cam_layers().items():
        layer.register_forward_hook(lambda _, __, out, name=name: kept.__setitem__(name, out))
    model.raw(images)[0].class_logits.sum().backward(inputs=list(kept.values()))
    assert kept and all(t.grad is not None and t.grad.abs().sum() > 0 for t in kept.values())


@pytest.mark.parametrize("name", KINDS)
def test_sigmoid_rows_that_see_background_begin_unsure_of_every_class_also_anew(name: str) -> None:
    model: Detector = create_model(called(name), C, **KINDS[name], class_loss="bce")
    for _ in range(2):
        start = 0.01 if model.sees_background else 0.5
        for rows in model.classifier_rows():
            assert rows.bias.detach().sigmoid() == pytest.approx(torch.full((C,), start), abs=0.01)
            with torch.no_grad():
                rows.bias.fill_(3.0)
        freeze_all_but_class_rows(model, reinit=True)


def test_sigmoid_losses_give_sigmoid_scores(model: Detector, images: torch.Tensor) -> None:
    model.set_class_loss("bce")
    assert model.class_activation == "sigmoid"
    with torch.inference_mode():
        raw = model.raw(images)[0]
        scores = model.scores(raw)
    expected = raw.class_logits.sigmoid()
    if raw.objectness is not None:
        expected = expected * raw.objectness.sigmoid()[:, None]
    torch.testing.assert_close(scores, expected)
    why = "trains no background logit" if model.has_background else "has no background logit"
    for keys in ({"center": "bg"}, {"bg_shift": 1.0}):
        with pytest.raises(ValueError, match=why):
            model.set_adjustment(WEIGHTS, **keys)


def test_a_model_with_sizes_of_its_own_refuses_multi_scale(model: Detector) -> None:
    config = TrainConfig(model=model.spec.get("name", "x"), multi_scale=[0.5, 1.5])
    if isinstance(model, YOLOv3):
        check_multi_scale(config, model)
        return
    with pytest.raises(InputError, match="multi_scale: expected a model that takes images as they come"):
        check_multi_scale(config, model)


#: So small they are not that 80 steps take seconds.
SLOW_TO_TRAIN = {"ssd512", "fasterrcnn", "maskrcnn", "retinanet"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_TO_TRAIN else n for n in SMALL])
def test_one_batch_can_be_overfitted(name: str) -> None:
    torch.manual_seed(0)
    model = DETECTORS[name](C, **SMALL[name])
    model.set_adjustment(WEIGHTS)
    images = torch.full((2, 3, SIZE, SIZE), 0.4)
    for image, target in zip(images, targets(), strict=True):
        for (x1, y1, x2, y2), label in zip(target["boxes"].int().tolist(), target["labels"].tolist(), strict=True):
            image[:, y1:y2, x1:x2] = torch.tensor([label / C, 1 - label / C, 0.9])[:, None, None]
    optimizer = torch.optim.Adam(model.parameters(), 5e-4 if hasattr(model, "net") else 2e-3)
    first, done = None, False
    for step in range(1, 121):
        optimizer.zero_grad()
        total = sum(model.train()(images, targets()).values())
        total.backward()
        optimizer.step()
        first = first or total.item()
        if step % 10 == 0 and total.item() < first / 5 and finds_everything(model, images):
            done = True
            break
    assert done


def finds_everything(model: Any, images: torch.Tensor) -> bool:
    """Whether every object has a detection of its class near it. Batch norms take the statistics of this very batch, as
    in training: so few steps are too few for the running ones."""
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    for found, target in zip(detect(model, images), targets(), strict=True):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            same = found["labels"] == label
            near = (found["boxes"][same] - box).abs().amax(dim=1) < 8
            if not near.any() or found["scores"][same][near].max() <= 0.2:
                return False
    return True


@pytest.mark.parametrize(("name", "parameters"), [("yolov3", 61_949_149), ("yolov3-tiny", 8_852_366)])
def test_parameter_counts_at_80_classes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = DETECTORS[name](80)
    assert sum(p.numel() for p in model.parameters()) == parameters
