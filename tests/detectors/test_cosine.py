"""Cosine classifiers and normalised masks of R-CNNs, and an alignment on top of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from iifdet import build
from iifdet.build.freezing import freeze_all_but_alignment
from iifdet.checkpoint import save_checkpoint
from iifdet.detectors import DETECTORS
from iifdet.detectors.cosine import CosineConv, CosineLinear
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts, LogitAdjustment
from iifdet.models import create_model
from iifdet.transfer import transfer_weights

C, SIZE = 5, 96
SMALL: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": SIZE, "max_size": SIZE}
COUNTS = ClassCounts(list("abcde"), *[torch.tensor([50, 20, 10, 5, 1])] * 2, num_images=60)


def images(number: int = 2) -> torch.Tensor:
    return torch.rand(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def targets() -> list[Any]:
    box, mask = torch.tensor([[10.0, 10, 60, 70]]), torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[:, 10:70, 10:60] = 1
    return [{"boxes": box, "labels": torch.tensor([c]), "masks": mask} for c in (0, 3)]


def cosine(name: str = "fasterrcnn", **options: Any) -> Any:
    torch.manual_seed(0)
    model: Any = create_model(name, C, **SMALL, head="cosine", **options)
    model.names, model.counts = COUNTS.names, COUNTS
    return model


def test_logits_are_cosines_times_the_scale() -> None:
    torch.manual_seed(0)
    layer, x = CosineLinear(7, C, scale=8), torch.randn(4, 7)
    nn.init.normal_(layer.bias)
    expected = 8 * F.cosine_similarity(x[:, None], layer.weight[None], dim=-1) + layer.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x * 1000), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.clone())) and layer(x).dtype == torch.float32
        torch.testing.assert_close(layer(x), expected)


def test_mask_logits_are_cosines_at_each_place() -> None:
    torch.manual_seed(0)
    layer, maps = CosineConv(7, C), torch.randn(2, 7, 3, 4)
    expected = 20 * F.cosine_similarity(maps[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(layer(maps), expected)


def test_features_and_rows_of_zeros_leave_gradients_finite() -> None:
    layer, x = CosineLinear(7, C), torch.zeros(2, 7, requires_grad=True)
    nn.init.zeros_(layer.weight)
    F.cross_entropy(layer(x), torch.tensor([0, 1])).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("center", ["none", "mean", "bg"])
def test_a_fold_gives_the_logits_of_the_adjustment(center: str) -> None:
    """Multiplying rows before they get a length of 1 would be without effect: the original's cosine IIF was."""
    torch.manual_seed(0)
    layer, adjust, x = CosineLinear(7, C + 1), LogitAdjustment(C), torch.randn(4, 7)
    nn.init.normal_(layer.bias)
    adjust.set(torch.linspace(1, 5, C), torch.linspace(-1, 1, C), center=center, bg_scale=0.7, bg_shift=0.2)
    plain = layer(x)
    classes = adjust(plain[:, 1:], phase="infer", background=plain[:, 0])
    background = adjust.adjust_background(plain[:, 0], plain[:, 1:], phase="infer")
    layer.fold(adjust)
    torch.testing.assert_close(layer(x), torch.cat((background[:, None], classes), dim=1))
    assert not torch.allclose(layer(x), plain)


def test_masks_alone_or_classes_alone_can_be_cosines() -> None:
    heads = [
        create_model("maskrcnn", C, **SMALL, **options).net.roi_heads
        for options in ({}, {"head": "cosine"}, {"normalized_mask": True})
    ]
    kinds = [(type(h.box_predictor.cls_score), type(h.mask_predictor.mask_fcn_logits)) for h in heads]
    assert kinds == [(nn.Linear, nn.Conv2d), (CosineLinear, nn.Conv2d), (nn.Linear, CosineConv)]
    assert cosine(scale=8).net.roi_heads.box_predictor.cls_score.scale == 8


def test_rows_go_by_name_into_a_model_of_other_classes_and_masks_with_them() -> None:
    source = cosine("maskrcnn", normalized_mask=True)
    target: Any = create_model("maskrcnn", 2, **SMALL, head="cosine", normalized_mask=True)
    target.names = ["e", "new"]
    notes = transfer_weights(target, source)
    assert any("new" in note for note in notes) and not any("layers keep random" in note for note in notes)
    (theirs,), (ours,) = source.classifier_rows(), target.classifier_rows()
    assert torch.equal(ours.weight[0], theirs.weight[4]) and torch.equal(ours.background[0], theirs.background[0])
    masks = [m.net.roi_heads.mask_predictor.mask_fcn_logits.weight for m in (target, source)]
    assert torch.equal(masks[0][1], masks[1][5])


def test_rows_of_another_kind_of_head_are_not_taken() -> None:
    source: Any = create_model("fasterrcnn", C, **SMALL)
    source.names = COUNTS.names
    for names in (COUNTS.names, ["b", "e", "new"]):
        model: Any = create_model("fasterrcnn", len(names), **SMALL, head="cosine")
        model.names = names
        notes = transfer_weights(model, source)
        assert any("CosineLinear here, Linear in the checkpoint; set model_args.head" in note for note in notes)
        boxes = [m.net.roi_heads.box_predictor.bbox_pred.weight.view(-1, 4, 1024) for m in (model, source)]
        assert torch.equal(boxes[0][1 + names.index("e")], boxes[1][1 + COUNTS.names.index("e")])


def test_masks_of_another_kind_are_not_taken_and_another_scale_is_said() -> None:
    source: Any = create_model("maskrcnn", C, **SMALL, head="cosine", scale=8)
    model: Any = create_model("maskrcnn", C, **SMALL, head="cosine", normalized_mask=True)
    source.names = model.names = COUNTS.names
    before = model.net.roi_heads.mask_predictor.mask_fcn_logits.weight.clone()
    notes = transfer_weights(model, source)
    assert torch.equal(model.net.roi_heads.mask_predictor.mask_fcn_logits.weight, before)
    assert any("random, since the checkpoint has other ones or none: net.roi_heads.mask" in note for note in notes)
    assert any("a cosine of 1 comes to 20.0, and came to 8.0 in the checkpoint" in note for note in notes)
    source = create_model("maskrcnn", C, **SMALL)  # head and masks of other kinds: both are said
    source.names = COUNTS.names
    both = " ".join(transfer_weights(model, source))
    assert "net.roi_heads.mask_predictor" in both and "CosineLinear here" in both


def test_torchvision_s_files_start_it_with_rows_of_its_own(tmp_path: Path) -> None:
    theirs: Any = create_model("fasterrcnn", C, **SMALL)
    torch.save(theirs.net.state_dict(), tmp_path / "theirs.pth")
    model = cosine()
    notes = build.load_weights(model, str(tmp_path / "theirs.pth"))
    assert any("class rows keep random weights" in note for note in notes)
    assert torch.equal(model.net.backbone.body["0"][0].weight, theirs.net.backbone.body["0"][0].weight)
    with pytest.raises(InputError, match=r"model_args\.head: expected linear, as .*, got cosine"):
        build.load_foreign_model("fasterrcnn", str(tmp_path / "theirs.pth"), COUNTS.names, {**SMALL, "head": "cosine"})


def test_a_checkpoint_brings_the_head_along(tmp_path: Path) -> None:
    model = cosine("maskrcnn", scale=8, normalized_mask=True).eval()
    save_checkpoint(tmp_path / "x.pt", model)
    again = build.load_model(tmp_path / "x.pt")
    with torch.inference_mode():
        for one, other in zip(model(images()), again(images()), strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_lengths_of_rows_say_nothing() -> None:
    assert cosine().row_norms() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "round"}, "head: expected one of linear, cosine, got 'round'"),
        ({"scale": 8}, "scale: expected none with head=linear, got 8; use head=cosine"),
        ({"head": "cosine", "scale": 0}, "scale: expected a number above 0, got 0"),
        ({"head": "cosine", "scale": True}, "scale: expected a number above 0, got True"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    for name in ("fasterrcnn", "maskrcnn"):
        with pytest.raises(ValueError, match=message):
            DETECTORS[name](C, **SMALL, **options)
    with pytest.raises(ValueError, match="normalized_mask: expected true or false, got 1"):
        DETECTORS["maskrcnn"](C, **SMALL, normalized_mask=1)


# -- distribution alignment --------------------------------------------------------------------------------------------


def test_the_gate_of_an_alignment_begins_half_open_on_features_of_boxes() -> None:
    """At 0.1 for each of a thousand features it would be open for all boxes, and its gradient gone."""
    model = cosine().eval()
    model.learn_alignment()
    with torch.inference_mode():
        scene = model._encode(images())
        seen = model.net.roi_heads.predict(scene.features, scene.proposals, scene.sizes).seen
        gate = model.align.gate(seen * 100 / seen.sum(dim=1).mean()).sigmoid()  # as large as in training
    assert gate.min() > 0.2 and gate.max() < 0.8


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_an_alignment_moves_class_logits_and_neither_background_nor_boxes(head: str) -> None:
    torch.manual_seed(0)
    model: Any = create_model("fasterrcnn", C, **SMALL, head=head).eval()
    with torch.inference_mode():
        plain = model.raw(images())
        model.learn_alignment()
        begun = model.raw(images())
        assert all(torch.equal(a.class_logits, b.class_logits) for a, b in zip(plain, begun, strict=True))
        model.align.gain.fill_(0.5)
        model.align.shift.fill_(0.3)
        model.align.gate.bias.fill_(100.0)  # wholly on
        for one, other in zip(plain, model.raw(images()), strict=True):
            assert torch.equal(one.boxes, other.boxes) and torch.equal(one.background, other.background)
            torch.testing.assert_close(other.class_logits, 1.5 * one.class_logits + 0.3)
    with pytest.raises(ValueError, match="depends on the image and cannot be folded"):
        model.fold()


def test_a_second_stage_learns_the_alignment_and_nothing_else(tmp_path: Path) -> None:
    model = cosine("maskrcnn")
    freeze_all_but_alignment(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for _ in range(2):  # as long as gain and shift are 0, nothing asks for the gate
        optimizer.zero_grad()
        sum(model(images(), targets()).values()).backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"align.gain", "align.shift", "align.gate.weight", "align.gate.bias"}
    save_checkpoint(tmp_path / "x.pt", model)
    again = build.load_model(tmp_path / "x.pt")
    assert torch.equal(again.align.gain, model.align.gain)
