"""Exported files: the model's detections without the model, and nothing in the graph that could be folded away."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.cli import main
from iifdet.detectors import Detector
from iifdet.detectors.darknet_weights import save_darknet
from iifdet.errors import InputError
from iifdet.exporting import load_exported, prepare, read_card
from iifdet.exporting.graph import capture
from iifdet.longtail import ClassCounts
from iifdet.models import create_model

onnx = pytest.importorskip("onnx", reason="pip install iifdet[export]")
pytest.importorskip("onnxscript", reason="pip install iifdet[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install iifdet[export]")

SIZE, NAMES = 64, ["red", "green", "blue", "white"]
COUNTS = ClassCounts(NAMES, torch.tensor([12, 7, 4, 1]), torch.tensor([15, 9, 5, 1]), num_images=24)
WEIGHTS = torch.tensor([1.0, 1.5, 2.0, 3.0])
RCNN: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": SIZE, "max_size": 2 * SIZE}
#: Every detector that can be exported, small, and the size of its images here.
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "yolov3-tiny": ({"width": 0.0625}, SIZE),
    "yolov3-nano": ({"width": 0.125, "depth": 0.1}, SIZE),
    "yolov3": ({"width": 0.0625, "depth": 0.1}, SIZE),
    "ssd300": ({"width": 0.0625}, 300),
    "ssd512": ({"width": 0.0625}, 96),  # stretched inside
    "retinanet": (RCNN, SIZE),
}


def make(name: str, adjusted: bool = True) -> Detector:
    """A detector with batch norm statistics and logits of some spread, as after training."""
    torch.manual_seed(0)
    model: Detector = create_model(name, 4, **SMALL.get(name, (RCNN, 0))[0])
    model.names, model.counts = NAMES, COUNTS
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        model.eval()
        raw = model.raw(torch.rand(2, 3, SIZE, SIZE))
        spread = torch.cat([r.class_logits for r in raw]).std()
        for rows in model.classifier_rows():
            rows.weight.mul_(1 / spread)
    if adjusted:
        model.set_adjustment(WEIGHTS)
    return model


def operators(program: ExportedProgram) -> Counter[str]:
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


def captured(name: str, adjusted: bool) -> ExportedProgram:
    images = torch.rand(2, 3, SMALL[name][1], SMALL[name][1])
    return capture(prepare(make(name, adjusted), images), images)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_data: str) -> Path:
    path = tmp_path_factory.mktemp("export") / "last.pt"
    recipe = {"imgsz": SIZE, "resize": "square", "data": tiny_data, "conf": 0.001, "iou": 0.5}
    save_checkpoint(path, make("yolov3-tiny"), recipe=recipe)
    return path


@pytest.fixture(scope="module")
def as_onnx(checkpoint: Path) -> Path:
    return iifdet.export(weights=checkpoint).file


@pytest.fixture(scope="module")
def as_torch(checkpoint: Path) -> Path:
    return iifdet.export(weights=checkpoint, format="torch").file


@pytest.fixture(scope="module")
def photos(tiny_root: Path) -> list[str]:
    """Real photos where there are some, of several shapes; painted images otherwise."""
    real = sorted(Path(os.environ.get("IIFDET_DATA_DIR", "unset")).glob("coco128/images/**/*.jpg"))[:5]
    return [str(file) for file in real or sorted((tiny_root / "val").glob("*.png"))[:5]]


# -- the graph ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov3-tiny", "ssd300"])
def test_iif_costs_nothing_the_graph_is_that_of_softmax_node_by_node(name: str) -> None:
    with_iif, without = captured(name, True), captured(name, False)
    assert operators(with_iif) == operators(without)
    assert not [target for target in operators(with_iif) if "batch_norm" in target], (
        "batch norms are in the convolutions"
    )
    assert sum(count for target, count in operators(with_iif).items() if "conv" in target) == len(
        [module for module in make(name).modules() if isinstance(module, torch.nn.Conv2d)]
    )


def test_the_onnx_graph_holds_no_batch_norm_and_no_weights_beside_those_of_convolutions(as_onnx: Path) -> None:
    graph = onnx.load(as_onnx).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert "BatchNormalization" not in kinds and kinds["Conv"] == 15
    assert kinds["Mul"] == 3, "centre times stride, size times anchor, class times objectness"
    beside = [array for array in graph.initializer if list(array.dims) in ([4], [1, 4], [1, 1, 4])]
    assert not [a for a in beside if np.allclose(np.sort(onnx.numpy_helper.to_array(a).ravel()), WEIGHTS.numpy())]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_detector_s_onnx_graph_is_that_of_softmax_and_says_what_the_model_says(name: str, tmp_path: Path) -> None:
    size = SMALL[name][1]
    found = [
        iifdet.export(model=make(name, adjusted), imgsz=size, file=tmp_path / f"{adjusted}.onnx")
        for adjusted in (True, False)
    ]
    assert found[0].nodes == found[1].nodes and found[0].nodes["BatchNormalization"] == 0
    assert found[0].difference < 1e-4
    images = torch.rand(3, 3, size, size)
    model, run = make(name), load_exported(found[0].file)
    run.options = model.options
    for one, other in zip(run(images), model(images), strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-4, rtol=0)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_onnx_takes_any_number_of_images_and_says_the_scores_of_pytorch(as_onnx: Path, photos: list[str]) -> None:
    session = onnxruntime.InferenceSession(as_onnx, providers=["CPUExecutionProvider"])
    model = make("yolov3-tiny")
    loaded = [cv2.resize(cv2.imread(file), (SIZE, SIZE))[..., ::-1].transpose(2, 0, 1) / 255 for file in photos]
    images = np.stack(loaded).astype(np.float32)
    for number in (1, 2, len(images)):
        boxes, scores = session.run(["boxes", "scores"], {"images": images[:number]})
        raw = model.adjusted(model.raw(torch.from_numpy(images[:number])))
        np.testing.assert_allclose(scores, torch.stack([model.scores(r) for r in raw]).detach(), atol=1e-4)
        np.testing.assert_allclose(boxes, torch.stack([r.boxes for r in raw]).detach(), atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("kind", ["as_onnx", "as_torch"])
def test_predict_finds_with_the_file_what_it_finds_with_the_checkpoint(
    kind: str, request: pytest.FixtureRequest, checkpoint: Path, photos: list[str]
) -> None:
    file = request.getfixturevalue(kind)
    keys = {"conf": 0.003, "device": "cpu", "batch": 2}
    mine = list(iifdet.predict(photos, weights=checkpoint, **keys))
    theirs = list(iifdet.predict(photos, weights=file, trusted=kind == "as_torch", **keys))
    assert sum(len(result.boxes) for result in mine) > 20, "there is something to compare"
    for one, other in zip(mine, theirs, strict=True):
        assert one.classes == other.classes
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-4)


def test_the_file_says_all_that_is_needed_to_use_it(as_onnx: Path, as_torch: Path) -> None:
    metadata = {p.key: json.loads(p.value) for p in onnx.load(as_onnx).metadata_props}
    assert metadata["names"] == NAMES
    assert metadata["training_counts"] == {"images": [12, 7, 4, 1], "instances": [15, 9, 5, 1], "num_images": 24}
    assert metadata["adjustment"]["scale"] == WEIGHTS.tolist() and metadata["adjustment"]["when"] == "both"
    look = metadata["preprocessing"]
    assert (look["size"], look["resize"], look["colour"], look["range"]) == ([SIZE, SIZE], "square", "RGB", [0, 1])
    assert read_card(as_torch) == read_card(as_onnx)
    model = iifdet.load(as_onnx)
    assert model.names == NAMES and model.counts is not None and model.counts.images.tolist() == [12, 7, 4, 1]


@pytest.mark.parametrize("kind", ["as_onnx", "as_torch"])
def test_the_file_names_no_place_on_this_machine(kind: str, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(kind)
    assert str(Path(iifdet.__file__).parent).encode() not in file.read_bytes()


def test_val_scores_the_file_as_it_scores_the_checkpoint(as_onnx: Path, checkpoint: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"project": tmp_path, "plots": False, "workers": 0, "device": "cpu", "conf": 0.003}
    runs = [iifdet.val(weights=file, **keys) for file in (checkpoint, as_onnx)]
    mine, theirs = (json.loads((run.folder / "predictions.json").read_text()) for run in runs)
    assert len(mine) == len(theirs) > 20
    for one, other in zip(mine, theirs, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)
    assert runs[1].metrics["tail5"] == pytest.approx(runs[0].metrics["tail5"], abs=1e-3), "counts travel with the file"


def test_a_half_written_file_is_never_there(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        iifdet.export(weights=checkpoint, format="torch", file=tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_the_model_that_is_exported_stays_as_it_was(tmp_path: Path) -> None:
    model = make("yolov3-tiny")
    before = copy.deepcopy(model.state_dict())
    iifdet.export(model=model, imgsz=SIZE, format="torch", file=tmp_path / "x.pt2")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.state_dict().keys() == before.keys() and not model.adjust.folded


def test_a_graph_that_says_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "scores", lambda self, raw: raw.class_logits.sigmoid() * (1 + len(raw.boxes.shape)))
    with pytest.raises(RuntimeError, match="from the model's"):
        iifdet.export(model=make("yolov3-tiny"), imgsz=SIZE, format="torch", file=tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


# -- refusals ----------------------------------------------------------------------------------------------------------


def refusal(**keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        iifdet.export(**keys)
    return " ".join(str(caught.value).split())


def test_a_model_without_dense_predictions_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = make("yolov3-tiny")
    monkeypatch.setattr(type(model), "dense", Detector.dense)
    assert "dense predictions" in refusal(model=model, imgsz=SIZE, format="torch", file=tmp_path / "x.pt2")


def test_keys_that_do_not_fit_are_refused(checkpoint: Path, as_onnx: Path, tmp_path: Path) -> None:
    assert "exist_ok" in refusal(weights=checkpoint), "the file is there already"
    assert "exported already" in refusal(weights=as_onnx, file=tmp_path / "x.onnx")
    assert ".onnx" in refusal(weights=checkpoint, file=tmp_path / "x.pt2")
    assert "nms_inside" in refusal(weights=checkpoint, format="torch", nms_inside=True, file=tmp_path / "x.pt2")
    assert "agnostic" in refusal(weights=checkpoint, nms_inside=True, nms="agnostic", file=tmp_path / "x.onnx")
    assert "file: expected where" in refusal(model=make("yolov3-tiny"))
    (tmp_path / "a-file").touch()
    assert "written to" in refusal(weights=checkpoint, file=tmp_path / "a-file" / "x.onnx"), "before the work"
    assert "nms_inside" in refusal(weights=checkpoint, format="torch", nms_inside=True, file=tmp_path / "new" / "x.pt2")
    assert not (tmp_path / "new").exists(), "what is refused makes no folder"
    assert "which" in refusal(weights=checkpoint, model="ssd300", file=tmp_path / "x.onnx")


def test_without_the_packages_one_line_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "onnxscript" else find(name, *rest)
    )
    assert "pip install 'iifdet[export]'" in refusal(weights=checkpoint, file=tmp_path / "x.onnx")


def test_a_pt2_is_read_only_where_somebody_trusts_it(as_torch: Path, photos: list[str]) -> None:
    with pytest.raises(InputError, match="trusted"):
        iifdet.predict(photos, weights=as_torch)


def test_what_the_file_has_settled_is_refused(
    as_onnx: Path, photos: list[str], tiny_data: str, capsys: pytest.CaptureFixture
) -> None:
    for keys in ({"imgsz": 96}, {"rect": True, "resize": "letterbox"}, {"adjust": "none"}):
        with pytest.raises(InputError):
            iifdet.predict(photos, weights=as_onnx, **keys)
    assert main(["cam", f"weights={as_onnx}", f"source={photos[0]}"]) == 2
    assert "no layers to look at" in capsys.readouterr().err
    with pytest.raises(InputError, match="exported"):
        iifdet.train(weights=str(as_onnx), model="yolov3-tiny", data=tiny_data)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_file_that_is_no_export_is_refused_in_one_line(suffix: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="weights: expected") as caught:
        iifdet.load(path, trusted=True)
    assert len(str(caught.value)) < 400


def test_weights_of_another_program_are_exported_by_the_name_of_their_architecture(
    tmp_path: Path, tiny_data: str
) -> None:
    save_darknet(make("yolov3-tiny", adjusted=False), tmp_path / "x.weights")
    words = ["model=yolov3-tiny", "model_args.width=0.0625", f"weights={tmp_path / 'x.weights'}", f"data={tiny_data}"]
    assert main(["export", *words, f"imgsz={SIZE}", "format=torch"]) == 0
    assert iifdet.load(tmp_path / "x.pt2", trusted=True).names == NAMES


def test_the_command_line_exports_and_says_what_came_of_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", f"weights={checkpoint}", "format=torch", f"file={tmp_path / 'x.pt2'}"]) == 0
    assert "nodes" in capsys.readouterr().out and (tmp_path / "x.pt2").is_file()
