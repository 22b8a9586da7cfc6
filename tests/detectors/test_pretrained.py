"""Starting from torchvision's files: published detectors by class name, backbones strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models as tv

from iifdet import build
from iifdet.detectors.ssd import MEAN, SSD, STD, to_torchvision
from iifdet.detectors.torchvision_weights import coco_categories
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.weight_files import IMAGENET

NAMES = ["zebra", "unicorn", "person"]
SMALL: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 128}


def ours(name: str, **options: Any) -> Any:
    torch.manual_seed(1)
    model = create_model(name, len(NAMES), **options)
    model.names = list(NAMES)
    return model


OPTIONS: dict[str, dict[str, Any]] = {
    "fasterrcnn": SMALL,
    "maskrcnn": SMALL,
    "retinanet": SMALL,
    "ssd300": {"width": 0.0625},
}


def torchvision_file(model: Any, path: Path) -> str:
    """A model's weights under torchvision's names."""
    torch.save(to_torchvision(model.state_dict()) if isinstance(model, SSD) else model.net.state_dict(), path)
    return str(path)


def published_coco(name: str) -> Any:
    torch.manual_seed(0)
    return create_model(name, 91 if name == "retinanet" else 90, **OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_coco_s_columns_become_classes_by_name(name: str, tmp_path: Path) -> None:
    published = published_coco(name)
    torchvision_file(published, tmp_path / "coco.pth")
    model = ours(name, **OPTIONS[name])
    random = [rows.weight[1].clone() for rows in model.classifier_rows()]
    notes = build.load_weights(model, str(tmp_path / "coco.pth"))
    assert any("1 class starts from random rows: unicorn" in note for note in notes)
    assert not any("keep random weights" in note for note in notes)
    first = 0 if name == "retinanet" else 1
    zebra, person = (coco_categories().index(n) - first for n in ("zebra", "person"))
    for mine, theirs, kept in zip(model.classifier_rows(), published.classifier_rows(), random, strict=True):
        assert torch.equal(mine.weight[0], theirs.weight[zebra]) and torch.equal(mine.bias[2], theirs.bias[person])
        assert torch.equal(mine.weight[1], kept)
    for key, value in model.class_tensors().items():
        assert torch.equal(value[0], published.class_tensors()[key][zebra])
    shared = {
        key: value for key, value in published.named_parameters() if value.shape == model.get_parameter(key).shape
    }
    assert len(shared) > 40 and all(torch.equal(model.get_parameter(key), value) for key, value in shared.items())


@pytest.mark.parametrize("name", OPTIONS)
def test_val_reads_coco_s_columns_by_name_and_refuses_classes_that_have_none(name: str, tmp_path: Path) -> None:
    published = published_coco(name)
    file = torchvision_file(published, tmp_path / "coco.pth")
    model = build.load_foreign_model(name, file, ["zebra", "person"], OPTIONS[name])
    columns = [coco_categories().index(n) - (name != "retinanet") for n in ("zebra", "person")]
    image = [torch.rand(3, 64, 64)]
    with torch.inference_mode():
        got, expected = model.raw(image)[0], published.eval().raw(image)[0]
    torch.testing.assert_close(got.class_logits, expected.class_logits[:, columns], rtol=1e-4, atol=1e-4)
    if got.background is not None and expected.background is not None:
        torch.testing.assert_close(got.background, expected.background, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        InputError, match=r"expected a column for each class of the data, got none for unicorn; .*classes="
    ):
        build.load_foreign_model(name, file, NAMES, OPTIONS[name])
    with pytest.raises(InputError, match="expected a column for each class of the data, got none for unicorn"):
        build.load_foreign_model(name, file, ["unicorn"], OPTIONS[name])


def test_a_file_of_torchvision_s_says_nothing_of_losses_so_no_other_one_is_noted(tmp_path: Path) -> None:
    model = ours("retinanet", **OPTIONS["retinanet"], class_loss={"focal": {"gamma": 1.5}})
    notes = build.load_weights(model, torchvision_file(published_coco("retinanet"), tmp_path / "coco.pth"))
    assert not any("were trained with" in note for note in notes)
    assert model.class_loss_choice == {"focal": {"gamma": 1.5}}


def test_data_without_any_of_coco_s_classes_start_from_coco_s_detector_all_the_same(tmp_path: Path) -> None:
    published = published_coco("fasterrcnn")
    model = create_model("fasterrcnn", 2, **OPTIONS["fasterrcnn"])
    model.names = ["crack", "patch"]
    notes = build.load_weights(model, torchvision_file(published, tmp_path / "coco.pth"))
    assert any("2 classes start from random rows: crack, patch" in note for note in notes)
    for part in ("backbone.fpn.layer_blocks.0.0.weight", "rpn.head.cls_logits.weight", "roi_heads.box_head.fc7.weight"):
        assert torch.equal(model.net.get_parameter(part), published.net.get_parameter(part))


def test_val_refuses_a_backbone_and_a_detector_of_another_kind(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.ones(1)}, tmp_path / "backbone.pth")
    with pytest.raises(InputError, match="expected one of torchvision's detectors, got something else"):
        build.load_foreign_model("ssd300", str(tmp_path / "backbone.pth"), NAMES, OPTIONS["ssd300"])
    file = torchvision_file(create_model("ssd300", 3, width=0.0625), tmp_path / "ssd.pth")
    with pytest.raises(InputError, match="torchvision's SSD does not fit FasterRCNN"):
        build.load_foreign_model("fasterrcnn", file, NAMES, SMALL)
    with pytest.raises(InputError, match="torchvision's SSD does not fit YOLOv3"):
        build.load_foreign_model("yolov3-nano", file, NAMES, {})
    with pytest.raises(InputError, match=r"expected torchvision's model of this backbone; .*size mismatch"):
        build.load_foreign_model("ssd300", file, NAMES, {"width": 0.125})
    with pytest.raises(InputError, match=r"expected torchvision's model of this backbone; .*Missing key"):
        build.load_foreign_model("ssd512", file, NAMES, {"width": 0.0625})


def test_a_detector_of_another_backbone_or_other_columns_is_refused(tmp_path: Path) -> None:
    torch.save(create_model("fasterrcnn", 7, **SMALL).net.state_dict(), tmp_path / "seven.pth")
    with pytest.raises(InputError, match=r"expected 91 columns \(COCO\) or 4, got 8"):
        build.load_weights(ours("fasterrcnn", **SMALL), str(tmp_path / "seven.pth"))
    torch.save(create_model("fasterrcnn", 3, **SMALL).net.state_dict(), tmp_path / "three.pth")
    with pytest.raises(InputError, match="expected torchvision's model of this backbone"):
        build.load_weights(ours("fasterrcnn", backbone="vgg16_fpn"), str(tmp_path / "three.pth"))
    with pytest.raises(InputError, match="does not fit SSD"):
        build.load_weights(ours("ssd300", width=0.0625), str(tmp_path / "three.pth"))


def test_published_resnets_count_without_eps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = create_model("fasterrcnn", 90, frozen_bn=True, min_size=64, max_size=128)
    body = published.net.backbone.body
    for module in body.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.0005, 0.002)
    torch.save(published.net.state_dict(), tmp_path / "coco.pth")
    model = ours("fasterrcnn", frozen_bn=True, min_size=64, max_size=128)
    build.load_weights(model, str(tmp_path / "coco.pth"))
    tv.detection._utils.overwrite_eps(published.net, 0.0)
    x = torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(model.net.backbone.body["bn1"](x), body["bn1"](x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet"])
def test_a_backbone_loads_strictly_and_says_what_was_left_over(name: str, tmp_path: Path) -> None:
    network = tv.mobilenet_v3_large(weights=None)
    torch.save(network.state_dict(), tmp_path / "mobilenet.pth")
    model = ours(name, **SMALL)
    notes = build.load_weights(model, str(tmp_path / "mobilenet.pth"))
    assert "left over in the file: classifier.0.weight" in notes[1]
    for key, value in network.features.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(model.net.backbone.body.state_dict()[key], value)
    state = network.state_dict()
    del state["features.3.block.0.0.weight"]
    state["features.0.0.weight"] = state["features.0.0.weight"][:4]
    torch.save(state, tmp_path / "cut.pth")
    before = model.net.backbone.body["0"][0].weight.clone()
    with pytest.raises(InputError, match=r"missing features\.3\.block.*other shapes features\.0\.0\.weight"):
        build.load_weights(model, str(tmp_path / "cut.pth"))
    assert torch.equal(model.net.backbone.body["0"][0].weight, before)


@pytest.fixture(scope="module")
def vgg() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(tv.vgg16(weights=None).features.state_dict(prefix="features."))


@pytest.mark.parametrize(("name", "options"), [("ssd300", {}), ("fasterrcnn", {"backbone": "vgg16_fpn"})])
def test_vgg16_in_half_precision_fills_ssd_and_pyramids(
    name: str, options: Any, vgg: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file({k: v.half() for k, v in vgg.items()}, tmp_path / "vgg.safetensors")
    model = ours(name, **options)
    assert "26 tensors of the backbone loaded" in build.load_weights(model, str(tmp_path / "vgg.safetensors"))[0]
    last = model.backbone.conv5[5] if name == "ssd300" else model.net.backbone.body["28"]
    assert torch.equal(last.weight, vgg["features.28.weight"].half().float())


def test_a_vgg16_for_unit_variance_is_rescaled_to_see_the_same(vgg: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({**vgg, "classifier.0.weight": torch.ones(2, 2)}, tmp_path / "vgg.pth")
    model = ours("ssd300")
    notes = build.load_weights(model, str(tmp_path / "vgg.pth"))
    assert any("rescaled" in note for note in notes)
    x = torch.rand(1, 3, 12, 12)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    expected = torch.nn.functional.conv2d((x - mean) / std, vgg["features.0.weight"], vgg["features.0.bias"])
    layer = model.backbone.conv4[0]
    got = torch.nn.functional.conv2d((x - torch.tensor(MEAN).view(3, 1, 1)) / STD, layer.weight, layer.bias)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_default_without_a_network_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=r"mobilenet_v3_large-.*\.pth .*checkpoints, or pass weights=") as error:
        build.load_weights(ours("fasterrcnn", **SMALL), "default")
    assert str(tmp_path) in str(error.value)
    with pytest.raises(InputError, match="Darknet"):
        build.load_weights(ours("yolov3-nano"), "default")


def test_files_that_are_no_named_tensors_are_refused(tmp_path: Path) -> None:
    model = ours("fasterrcnn", **SMALL)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"x": torch.ones(1)}, "epoch": 3}, tmp_path / "training.pth")
    (tmp_path / "text.safetensors").write_text("not tensors")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "folder.pth").mkdir()
    for name, said in (
        ("list.pth", r"state dict.*; save model\.state_dict"),
        ("training.pth", "save what is under 'model' alone"),
        ("text.safetensors", "named tensors.*; get it again"),
        ("empty.pth", "named tensors.*EOFError.*; get it again"),
        ("folder.pth", "a folder; check the path"),
        ("none.pth", "not there"),
    ):
        with pytest.raises(InputError, match=said):
            build.load_weights(model, str(tmp_path / name))
