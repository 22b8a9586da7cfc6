"""Exported classifiers: the scores of the model, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from classification_data import small_classifier

import iifdet
from iifdet.checkpoint import save_checkpoint
from iifdet.cli import main
from iifdet.errors import InputError
from iifdet.exporting import load_exported, read_card
from iifdet.exporting.exported import ExportedClassifier
from iifdet.longtail import ClassCounts
from iifdet.models import create_model

onnx = pytest.importorskip("onnx", reason="pip install iifdet[export]")
pytest.importorskip("onnxscript", reason="pip install iifdet[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install iifdet[export]")

SIZE, NAMES = 32, ["red", "green", "blue", "white"]
COUNTS = ClassCounts(NAMES, *[torch.tensor([12, 7, 4, 1])] * 2, num_images=24)
WEIGHTS = torch.tensor([1.0, 1.5, 2.0, 3.0])
#: Options of a small se_resnet20: heads, and rivals whose inference is more than a network and a head.
KINDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {"head": "cosine"},
    "causal": {"head": "causal"},
    "experts": {"experts": 2, "head": "cosine"},
    "bilateral": {"bilateral": True},
    "memory": {"memory": True, "head": "cosine"},
}


def make(kind: str = "linear", adjusted: bool = True, name: str = "se_resnet20") -> Any:
    """A classifier with statistics of batch norm as after training, and a direction where a head follows one."""
    torch.manual_seed(0)
    model: Any = create_model(name, 4, width=0.25, **KINDS[kind])
    model.names, model.counts, model.recipe = NAMES, COUNTS, {"imgsz": SIZE}
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        for name, buffer in model.named_buffers():
            if name.endswith("direction"):
                buffer.normal_()
    if adjusted:
        model.set_adjustment(WEIGHTS, torch.tensor([0.1, 0, -0.1, 0.2]))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_file_says_what_the_model_says_of_any_number_of_images(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    found = iifdet.export(model=model, file=tmp_path / "x.onnx")
    assert found.difference < 1e-5 and found.nodes["BatchNormalization"] == 0
    session = onnxruntime.InferenceSession(str(found.file))
    for number in (1, 5):
        images = torch.rand(number, 3, SIZE, SIZE)
        scores, logits = session.run(["scores", "logits"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = model(images)
            np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=1e-4)
            np.testing.assert_allclose(scores, model.scores(expected).numpy(), atol=1e-5)
    assert not model.adjust.folded and torch.equal(model.adjust.scale, WEIGHTS)  # it stays as it was


@pytest.mark.parametrize("kind", ["linear", "experts"])
def test_a_torch_program_says_what_the_model_says(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    file = iifdet.export(model=model, format="torch", file=tmp_path / "x.pt2").file
    with pytest.raises(InputError, match="trusted: expected true"):
        load_exported(file)
    images = torch.rand(5, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(load_exported(file, trusted=True)(images), model(images), atol=1e-4, rtol=1e-4)


def test_iif_costs_nothing_the_graph_is_that_of_softmax(tmp_path: Path) -> None:
    nodes = [iifdet.export(model=make(adjusted=a), file=tmp_path / f"{a}.onnx").nodes for a in (True, False)]
    assert nodes[0] == nodes[1]


def test_photographs_have_a_network_of_their_own_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = create_model("resnet50", 4)
    model.names = NAMES
    found = iifdet.export(model=model.eval(), file=tmp_path / "x.onnx", imgsz=96)
    card = read_card(found.file)
    assert card.preprocessing.size == (96, 96) and card.preprocessing.resize == "middle" and card.task == "classify"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    keys = small_classifier(tmp_path_factory.mktemp("classes"), device="cpu", adjust="iif", epochs=1)
    return iifdet.train(**keys).folder / "weights" / "last.pt", keys


@pytest.fixture(scope="module")
def exported(trained: tuple[Path, dict[str, Any]]) -> Path:
    return iifdet.export(weights=trained[0]).file


def test_val_gives_the_figures_of_the_checkpoint(
    trained: tuple[Path, dict[str, Any]], exported: Path, tmp_path: Path
) -> None:
    of_both = [
        iifdet.val(weights=weights, project=tmp_path, name=name, device="cpu").metrics
        for weights, name in ((trained[0], "checkpoint"), (exported, "exported"))
    ]
    for name in ("top1", "top5", "mean_class", "nll", "ece"):
        assert of_both[1][name] == pytest.approx(of_both[0][name], abs=1e-5), name
    assert of_both[1]["groups"] == of_both[0]["groups"]
    loaded = iifdet.val(model=iifdet.load(exported), project=tmp_path, name="loaded", device="cpu").metrics
    assert loaded["top1"] == of_both[1]["top1"]
    weights = [(tmp_path / name / "per_class.csv").read_text().splitlines() for name in ("checkpoint", "exported")]
    assert weights[0] == weights[1], "weights of classes among it"


def test_predict_gives_the_classes_of_the_checkpoint(
    trained: tuple[Path, dict[str, Any]], exported: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "x.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    one, other = (iifdet.predict(picture, weights=weights)[0] for weights in (trained[0], exported))
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    loaded = iifdet.load(exported)
    assert isinstance(loaded, ExportedClassifier) and loaded.names == one.names
    assert torch.equal(iifdet.predict(picture, model=loaded)[0].labels, other.labels)
    for wrong in ([torch.rand(3, SIZE, SIZE)], torch.rand(3, SIZE, SIZE)):
        with pytest.raises(InputError, match=r"expected \(B, 3, H, W\) of the size of the export"):
            loaded(wrong)


def test_the_command_says_what_it_wrote(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "y.onnx"
    assert main(["export", f"weights={trained[0]}", f"file={file}", "adjust=la"]) == 0
    assert file.is_file() and "scores within" in capsys.readouterr().out
    card = read_card(file)
    assert card.adjustment["when"] == "infer" and any(card.adjustment["shift"])
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"nms_inside": True}, "nms_inside: belongs to detectors"),
        ({"conf": 0.5}, "conf: belongs to detectors"),
        ({"file": "x.txt"}, r"file: expected a name that ends with \.onnx"),
    ],
)
def test_keys_about_boxes_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.export(**{"model": make(), "file": tmp_path / "x.onnx", **keys})
    assert not list(tmp_path.iterdir())


def test_what_a_file_cannot_do_is_refused(exported: Path, tmp_path: Path) -> None:
    model = iifdet.load(exported)
    with pytest.raises(RuntimeError, match="folded"):
        model.set_adjustment(torch.ones(model.num_classes))
    with pytest.raises(InputError, match="imgsz: expected 32, the size of the export, got 64"):
        iifdet.val(weights=exported, imgsz=64, project=tmp_path, device="cpu")
    with pytest.raises(InputError, match="imgsz: expected 32"):
        iifdet.predict(np.zeros((40, 40, 3), np.uint8), weights=exported, imgsz=48)
    with pytest.raises(InputError, match="exported already"):
        iifdet.export(weights=exported, file=tmp_path / "again.onnx")
    keys: dict[str, Any] = {"project": tmp_path, "device": "cpu"}
    with pytest.raises(InputError, match="expected a checkpoint to train from, got the exported file"):
        iifdet.train(model="se_resnet20", data=str(model.recipe["data"]), weights=exported, **keys)
    with pytest.raises(InputError, match=r"expected a checkpoint, got .*, whose rows carry an adjustment"):
        iifdet.tune(post_process=True, weights=str(exported), project=tmp_path)
    with pytest.raises(InputError, match="no layers to look at"):
        iifdet.cam(weights=[str(exported)], source="x.png", project=tmp_path)
    with pytest.raises(InputError):
        iifdet.val(weights=exported, adjust="la", project=tmp_path, device="cpu")


def test_an_alignment_goes_along_with_the_adjustment_behind_it(tmp_path: Path) -> None:
    model = make()
    model.learn_alignment()
    with torch.no_grad():
        model.align.gain.normal_()
        model.align.shift.normal_()
    save_checkpoint(tmp_path / "x.pt", model, recipe={"imgsz": SIZE})
    images = torch.rand(5, 3, SIZE, SIZE)
    with torch.inference_mode():
        found, expected = load_exported(iifdet.export(weights=tmp_path / "x.pt").file)(images), model(images)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        model.align = None
        assert not torch.allclose(model(images), expected, atol=0.1)
