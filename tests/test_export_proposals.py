"""Faster and Mask R-CNN as ONNX: the model's detections and masks, one image at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.detectors import Detector, PostprocessOptions
from iifdet.detectors.postprocess import select
from iifdet.detectors.rcnn import resized
from iifdet.errors import InputError
from iifdet.exporting import Preprocessing, load_exported, read_card
from iifdet.exporting.reading import run_onnx
from iifdet.longtail import ClassCounts
from iifdet.models import create_model

onnx = pytest.importorskip("onnx", reason="pip install iifdet[export]")
pytest.importorskip("onnxscript", reason="pip install iifdet[export]")
pytest.importorskip("onnxruntime", reason="pip install iifdet[export]")

from iifdet.exporting import proposals  # noqa: E402 (after the packages it needs)

SIZE, NAMES = 96, ["red", "green", "blue", "white"]
COUNTS = ClassCounts(NAMES, torch.tensor([12, 7, 4, 1]), torch.tensor([15, 9, 5, 1]), num_images=24)
ARGS = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}  # resized inside
CONF = 0.26


def varied(name: str, **options: Any) -> Any:
    """A detector that proposes more for one image than for another."""
    torch.manual_seed(0)
    model: Any = create_model(name, 4, **ARGS, **options, rpn_post_nms_top_n_test=60).eval()
    model.names, model.counts = NAMES, COUNTS
    _settle_norms(model.net.backbone, image(7, 4))
    with torch.no_grad():
        model.net.rpn.head.bbox_pred.weight.mul_(30)
        model.net.rpn.head.cls_logits.weight.mul_(30)
    return model


@pytest.mark.parametrize(("name", "inside"), [("fasterrcnn", False), ("maskrcnn", True)])
def test_a_cascade_is_exported_for_any_number_of_proposals(name: str, inside: bool, tmp_path: Path) -> None:
    model = varied(name, cascade=True)
    model.set_adjustment(torch.tensor([1.0, 1.5, 2.0, 3.0]))
    keys: dict[str, Any] = {"nms_inside": True, "conf": CONF} if inside else {}
    graph = load_exported(iifdet.export(model=model, imgsz=SIZE, file=tmp_path / "x.onnx", **keys).file)
    graph.options = model.options = replace(model.options, conf=CONF)
    pictures = torch.cat([image(3), image(5), torch.zeros(1, 3, SIZE, SIZE), torch.rand(1, 3, SIZE, SIZE)])
    with torch.inference_mode():
        numbers = {len(p) for p in model._encode(pictures).proposals}
        assert len(numbers) > 1, "or the graph could have the number of one image in it"
        found, expected = graph(pictures), model(pictures)
    for one, other in zip(found, expected, strict=True):
        assert len(one["scores"]) == len(other["scores"])
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-3, rtol=0)


def make(name: str, adjusted: bool = True) -> Detector:
    """A detector whose proposals, logits and masks differ from one another, as after training."""
    torch.manual_seed(0)
    model: Any = create_model(name, 4, **ARGS).eval()
    model.names, model.counts = NAMES, COUNTS
    images = image()
    with torch.no_grad():
        _settle_norms(model.net.backbone, image(7, 4))
        heads = model.net.roi_heads
        heads.box_predictor.bbox_pred.weight.mul_(3)
        if name == "maskrcnn":
            heads.mask_predictor.mask_fcn_logits.weight.mul_(5)
        raw, layer = model.raw(images)[0], heads.box_predictor.cls_score
        logits = torch.cat([raw.background[:, None], raw.class_logits], dim=1)
        mean, spread = logits.mean(dim=0), logits.std(dim=0)
        layer.weight.div_(spread[:, None])
        layer.bias.sub_(mean).div_(spread)
    if adjusted:
        model.set_adjustment(torch.tensor([1.0, 1.5, 2.0, 3.0]))
    return model


def _settle_norms(backbone: nn.Module, images: Tensor) -> None:
    """Statistics of these images, without which features hardly vary and rounding is all that differs."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    backbone.train()(images)
    backbone.eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.clamp_(min=float(module.running_var.mean()))  # type: ignore[operator,union-attr]


def image(seed: int = 0, number: int = 1) -> Tensor:
    """(number, 3, SIZE, SIZE) with blots, since noise looks the same everywhere."""
    blots = torch.rand(number, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(blots, (SIZE, SIZE), mode="bilinear")


@pytest.fixture(scope="module", params=["fasterrcnn", "maskrcnn"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_data: str) -> Path:
    path = tmp_path_factory.mktemp("rcnn") / f"{request.param}.pt"
    recipe = {"imgsz": SIZE, "resize": "letterbox", "data": tiny_data, "conf": CONF, "iou": 0.5}
    save_checkpoint(path, make(request.param), recipe=recipe)
    return path


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> Path:
    """The checkpoint as a graph that chooses detections."""
    return iifdet.export(weights=checkpoint, nms_inside=True, conf=CONF).file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pictures of several shapes, one of them black."""
    folder, files = tmp_path_factory.mktemp("photos"), []
    for i, shape in enumerate([(90, 120), (96, 96), (140, 70), (64, 200), (50, 50)]):
        pixels = (255 * image(i)[0].permute(1, 2, 0).numpy()).astype(np.uint8) * (i < 4)
        files.append(str(folder / f"{i}.png"))
        cv2.imwrite(files[-1], cv2.resize(pixels, shape[::-1]))
    return files


def agree(mine: list[Any], theirs: list[Any]) -> None:
    """The same detections, up to rounding."""
    for one, other in zip(mine, theirs, strict=True):
        assert one.classes == other.classes
        torch.testing.assert_close(one.scores, other.scores, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.boxes, other.boxes, atol=0.1, rtol=1e-4)
        assert (one.masks is None) == (other.masks is None)
        if one.masks is not None:
            assert one.masks.shape == other.masks.shape
            assert (one.masks != other.masks).float().mean() < 1e-3, "pixels at the threshold"


def test_predict_finds_with_the_graph_what_it_finds_with_the_checkpoint(
    checkpoint: Path, whole: Path, photos: list[str]
) -> None:
    keys = {"conf": CONF, "device": "cpu", "batch": 3}
    mine = list(iifdet.predict(photos, weights=checkpoint, **keys))
    assert sum(len(result.boxes) for result in mine) > 8, "there is something to compare"
    agree(mine, list(iifdet.predict(photos, weights=whole, **keys)))
    if "faster" in checkpoint.name:
        outside = iifdet.export(weights=checkpoint, file=checkpoint.with_name("outside.onnx"), exist_ok=True)
        assert outside.difference < 1e-4
        agree(mine, list(iifdet.predict(photos, weights=outside.file, **keys)))


def test_val_scores_the_graph_as_it_scores_the_checkpoint(
    checkpoint: Path, whole: Path, data_with_masks: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"project": tmp_path, "plots": False, "workers": 0, "device": "cpu", "conf": CONF}
    one, other = (iifdet.val(weights=file, data=str(data_with_masks), **keys) for file in (checkpoint, whole))
    assert other.metrics["AP"] == pytest.approx(one.metrics["AP"], abs=1e-3)
    assert ("segm" in one.metrics) == ("segm" in other.metrics) == ("mask" in checkpoint.name)


def test_cosines_and_an_alignment_are_in_the_graph(tmp_path: Path) -> None:
    """An export that says something else than the model is refused by itself."""
    model = varied("fasterrcnn", head="cosine")
    model.set_adjustment(torch.tensor([1.0, 1.5, 2.0, 3.0]))
    plain = iifdet.export(model=model, imgsz=SIZE, file=tmp_path / "plain.onnx")
    model.learn_alignment()
    with torch.no_grad():
        model.align.gain.fill_(0.5)
        model.align.shift.copy_(torch.tensor([1.0, -1, 2, 0]))
    aligned = iifdet.export(model=model, imgsz=SIZE, file=tmp_path / "aligned.onnx")
    assert max(plain.difference, aligned.difference) < 1e-4
    scores = [run_onnx(str(file))(image())[1] for file in (plain.file, aligned.file)]
    assert (scores[0] - scores[1]).abs().max() > 0.05


def test_nothing_found_is_no_error(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    sure = iifdet.export(weights=checkpoint, nms_inside=True, conf=1.0, file=tmp_path / "sure.onnx").file
    for found in load_exported(sure)(torch.cat([image(3), torch.zeros(1, 3, SIZE, SIZE)])):
        assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) == 0
        if "masks" in found:
            assert found["masks"].shape == (0, SIZE, SIZE)
    assert load_exported(whole)(torch.zeros(0, 3, SIZE, SIZE)) == []


def test_the_card_says_that_the_graph_takes_one_image(whole: Path, checkpoint: Path) -> None:
    card = read_card(whole)
    assert (card.batch, card.nms, card.masks) == (1, True, "mask" in checkpoint.name)
    assert card.format == "iifdet-export-2", "earlier versions must not take it for a graph of many images"
    assert card.adjustment["scale"] == [1.0, 1.5, 2.0, 3.0]


class Seen(nn.Module):
    """What a network sees of an image."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        batch: Tensor = self.transform(list(images))[0].tensors
        return batch


@pytest.mark.parametrize("size", [352, 416])  # 479 px inside the network, where a trace of torchvision's has 480
def test_the_graph_sees_the_image_as_large_as_the_network_does(size: int) -> None:
    model: Any = create_model("fasterrcnn", 4, **{**ARGS, "min_size": 480, "max_size": 800}).eval()
    images = torch.rand(1, 3, size, size)
    wanted = Seen(model.net.transform)(images)
    assert resized(model.net.transform, (size, size), images)[1] == (479, 479)
    proposals._settle_size(model, Preprocessing((size, size)), images)
    proto = proposals.trace(Seen(model.net.transform), images, ["batch"], {})
    torch.testing.assert_close(run_onnx(proto.SerializeToString())(images)[0], wanted, atol=1e-3, rtol=0)


def test_the_graph_is_that_of_softmax_without_batch_norms(tmp_path: Path) -> None:
    found = [
        iifdet.export(model=make("fasterrcnn", adjusted), imgsz=SIZE, file=tmp_path / f"{adjusted}.onnx")
        for adjusted in (True, False)
    ]
    assert found[0].nodes == found[1].nodes and found[0].nodes["BatchNormalization"] == 0
    assert str(Path(iifdet.__file__).parent).encode() not in found[0].file.read_bytes()


@given(
    rows=st.integers(1, 30),
    classes=st.integers(1, 5),
    seed=st.integers(0, 999),
    most=st.integers(1, 12),
    conf=st.sampled_from([0.0, 0.3, 0.9]),
    multi_label=st.booleans(),
)
def test_the_choice_is_that_of_select(
    rows: int, classes: int, seed: int, most: int, conf: float, multi_label: bool
) -> None:
    options = PostprocessOptions(conf, 0.5, most, multi_label=multi_label, min_box=1e-2)
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(rows, classes, 2, generator=generator) - 10
    boxes = torch.cat([corner, corner + 30 * torch.rand(rows, classes, 2, generator=generator) - 2], dim=-1)
    scores = torch.rand(rows, classes, generator=generator)
    wanted, _ = select(boxes, scores, (48, 64), options)
    found = proposals.chosen(boxes, scores, (48, 64), options)
    for mine, name in zip(found, ("boxes", "scores", "labels"), strict=True):
        torch.testing.assert_close(mine, wanted[name], atol=0, rtol=0)  # type: ignore[literal-required]


def refusal(**keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        iifdet.export(**keys, imgsz=SIZE)
    return " ".join(str(caught.value).split())


def test_what_no_graph_of_an_r_cnn_can_do_is_refused(tmp_path: Path) -> None:
    assert refusal(model=make("fasterrcnn"), format="torch", file=tmp_path / "x.pt2").startswith(
        "format: expected onnx"
    )
    said = refusal(model=make("maskrcnn"), file=tmp_path / "x.onnx")
    assert said.startswith("nms_inside: expected true") and "masks" in said
    crowded: Any = create_model("fasterrcnn", 40, **{**ARGS, "rpn_post_nms_top_n_test": 1000})
    crowded.names = [str(i) for i in range(40)]
    said = refusal(model=crowded, nms_inside=True, conf=0.001, file=tmp_path / "x.onnx")
    assert said.startswith("conf: expected") and "40000 may" in said
    few = make("fasterrcnn")
    few.options = replace(few.options, class_candidates=5)
    assert "class_candidates" in refusal(model=few, nms_inside=True, file=tmp_path / "x.onnx")
    assert "agnostic" in refusal(model=make("fasterrcnn"), nms_inside=True, nms="agnostic", file=tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "said"), [(proposals.ProposalGraph, "from the model's"), (proposals.DetectionGraph, "detections")]
)
def test_a_graph_that_says_something_else_is_not_written(
    kind: type[Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = proposals.trace
    other: Any = make("fasterrcnn", adjusted=False)

    def of_another_model(graph: Any, *rest: Any) -> Any:
        if isinstance(graph, kind):
            graph.model = other
        return trace(graph, *rest)

    monkeypatch.setattr(proposals, "trace", of_another_model)
    with pytest.raises(RuntimeError, match=said):
        iifdet.export(model=make("fasterrcnn"), imgsz=SIZE, file=tmp_path / "x.onnx", nms_inside=True, conf=0.06)
    assert not list(tmp_path.iterdir())
