"""Cascades of second stages: what each sees of the one before, and what they say together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from iifdet.build.freezing import freeze_all_but_class_rows
from iifdet.detectors import DETECTORS, cascade
from iifdet.detectors.cascade import CODES, OVERLAPS, CascadeMaskRCNN, CascadeRCNN
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts
from iifdet.models import create_model
from iifdet.transfer import transfer_weights

C, SIZE = 4, 96
SMALL: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": SIZE, "max_size": SIZE, "cascade": True}
SMALL |= {"box_batch_size_per_image": 32, "rpn_post_nms_top_n_test": 40}
COUNTS = ClassCounts(list("abcd"), *[torch.tensor([50, 20, 10, 1])] * 2, num_images=60)


def make(name: str = "fasterrcnn", **options: Any) -> Any:
    """A cascade whose stages move boxes by some pixels, and whose features differ from place to place."""
    torch.manual_seed(0)
    model: Any = create_model(name, C, **SMALL, **options)
    model.names, model.counts = COUNTS.names, COUNTS
    with torch.no_grad():
        for _ in range(3):
            model.train()(images(), targets())
        for stage in model.stages:
            stage.box_predictor.bbox_pred.weight.mul_(20)
    return model.eval()


def images() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def targets() -> list[Any]:
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[:, 10:70, 10:60] = 1
    return [
        {"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([c]), "masks": mask.clone()}
        for c in (0, 3)
    ]


def moved(boxes: torch.Tensor, offsets: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """The formula of R-CNN, by hand."""
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + wide / 2, boxes[:, 1] + high / 2
    dx, dy, dw, dh = (offsets / torch.tensor(weights)).unbind(1)
    x, y, wide, high = x + dx * wide, y + dy * high, wide * dw.exp(), high * dh.exp()
    return torch.stack((x - wide / 2, y - high / 2, x + wide / 2, y + high / 2), dim=1)


def test_each_stage_sees_the_boxes_of_the_one_before_and_logits_are_their_mean() -> None:
    model = make()
    with torch.inference_mode():
        scene = model._encode(images())
        boxes, logits, starts = torch.cat(scene.proposals), [], [len(p) for p in scene.proposals]
        for stage, weights in zip(model.stages, CODES, strict=True):
            seen = stage.box_head(stage.box_roi_pool(scene.features, list(boxes.split(starts)), scene.sizes))
            said, offsets = stage.box_predictor(seen)
            logits.append(said)
            boxes = moved(boxes, offsets, weights)
            inside = boxes.clamp(0, SIZE)  # all images are of this size inside
            boxes = boxes if len(logits) == len(CODES) else inside
        raw = model.raw(images())
    mean = sum(logits) / 3
    torch.testing.assert_close(torch.cat([r.class_logits for r in raw]), mean[:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([r.background for r in raw]), mean[:, 0], atol=1e-4, rtol=1e-4)
    for c in range(C):
        torch.testing.assert_close(torch.cat([r.boxes[:, c] for r in raw]), boxes, atol=1e-2, rtol=1e-3)
    assert (boxes - torch.cat(scene.proposals)).abs().mean() > 0.5


def test_later_stages_ask_for_more_overlap_and_get_the_ground_truth_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given, samples = make(), [], []
    for stage in model.stages:
        plain = stage.sample

        def sample(proposals: Any, wanted: Any, plain: Any = plain) -> Any:
            given.append(proposals)
            samples.append(plain(proposals, wanted))
            return samples[-1]

        monkeypatch.setattr(stage, "sample", sample)
    model.train()(images(), targets())
    truth = [t["boxes"] for t in targets()]
    for number, (overlap, found) in enumerate(zip(OVERLAPS, samples, strict=True)):
        positive = (found.labels >= 0).split([len(p) for p in found.proposals])
        for keep, proposals, boxes in zip(positive, found.proposals, truth, strict=True):
            overlaps = box_iou(proposals, boxes)[:, 0]
            assert (overlaps[keep] >= overlap).all() and (overlaps[~keep] < overlap).all() and keep.any()
        if number:
            assert all(len(g) < len(p) for g, p in zip(given[number], samples[number - 1].proposals, strict=True))
            assert not any((g == box).all(dim=1).any() for g, box in zip(given[number], truth, strict=True))


def test_losses_of_later_stages_count_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("maskrcnn")
    found = []
    for shares in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), cascade.SHARES):
        monkeypatch.setattr(cascade, "SHARES", shares)
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model.losses(images(), targets()))
    for name in ("cls", "box", "mask"):
        whole = found[0][name] + 0.5 * found[1][name] + 0.25 * found[2][name]
        torch.testing.assert_close(found[3][name], whole)
    assert len({f["cls"].item() for f in found}) == 4 and found[0]["rpn_cls"] == found[3]["rpn_cls"]


def test_stages_have_weights_of_their_own_and_masks_are_their_mean() -> None:
    model = make("maskrcnn", head="cosine", normalized_mask=True)
    for layer in ("box_head.fc6", "box_predictor.cls_score", "mask_head.0.0", "mask_predictor.mask_fcn_logits"):
        weights = [stage.get_submodule(layer).weight for stage in model.stages]
        assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
        deviations = torch.stack([w.std() for w in weights])
        assert (deviations / deviations[0] - 1).abs().max() < 0.1, layer
    with torch.inference_mode():
        scene = model._encode(images())
        boxes, labels = [b[:3] for b in scene.proposals], [torch.tensor([1, 2, 4])] * 2
        each = [stage.masks(scene.features, boxes, labels, scene.sizes) for stage in model.stages]
        found = model.net.roi_heads.masks(scene.features, boxes, labels, scene.sizes)
    for number, mask in enumerate(found):
        torch.testing.assert_close(mask, sum(e[number] for e in each) / 3)


def test_a_second_stage_of_training_trains_the_class_rows_of_every_stage() -> None:
    model = make()
    freeze_all_but_class_rows(model)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    stages = [f"net.roi_heads.stages.{n}.box_predictor.cls_score" for n in range(3)]
    assert learning == {f"{stage}.{part}" for stage in stages for part in ("weight", "bias")}


def test_a_stage_of_training_that_leaves_box_heads_as_they_are_wants_all_of_them() -> None:
    """Rows of one network on the random features of another would be all that it trains."""
    plain: Any = create_model("fasterrcnn", C, **{**SMALL, "cascade": False})
    plain.names, plain.counts = COUNTS.names, COUNTS
    whole = make()
    for source, options in ((whole, {"cascade": False}), (plain, {"cascade": True})):
        model: Any = create_model("fasterrcnn", C, **{**SMALL, **options})
        model.names = COUNTS.names
        with pytest.raises(InputError, match=r"expected all layers below .* got none for net\.roi_heads"):
            transfer_weights(model, source, whole=True)
        notes = " ".join(transfer_weights(model, source))
        assert "class rows keep random weights: the checkpoint has others there, or none" in notes
        assert torch.equal(model.net.backbone.body["0"][0].weight, source.net.backbone.body["0"][0].weight)
    twin: Any = create_model("fasterrcnn", C, **SMALL)
    twin.names = COUNTS.names
    transfer_weights(twin, whole, whole=True)
    for mine, other in zip(twin.classifier_rows(), whole.classifier_rows(), strict=True):
        assert torch.equal(mine.weight, other.weight)


def test_options_make_cascades_and_what_has_no_place_is_refused() -> None:
    kinds = {name: create_model(name, C, **SMALL) for name in ("fasterrcnn", "maskrcnn")}
    assert type(kinds["fasterrcnn"]) is CascadeRCNN and type(kinds["maskrcnn"]) is CascadeMaskRCNN
    with pytest.raises(ValueError, match="adjust: disalign aligns one classifier"):
        kinds["fasterrcnn"].learn_alignment()
    with pytest.raises(ValueError, match="augment_features: expected false beside cascade=true"):
        DETECTORS["maskrcnn"](C, **SMALL, augment_features=True)
    with pytest.raises(ValueError, match="cascade: expected true or false, got 3"):
        DETECTORS["fasterrcnn"](C, **{**SMALL, "cascade": 3})
