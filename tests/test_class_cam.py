"""What a classifier's score rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from classification_data import write_folders

import iifdet
from iifdet.build.class_explainer import class_pictures, prepare_for_classes
from iifdet.checkpoint import save_checkpoint
from iifdet.classifiers import Classifier
from iifdet.datasets.classification.photos import Middle
from iifdet.errors import InputError
from iifdet.explaining import METHODS, explain_class
from iifdet.models import create_model

NAMES = ["ant", "bee", "cow"]
SIDE = 32
CPU = torch.device("cpu")


def small(seed: int = 0, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    model: Classifier = create_model("se_resnet20", len(NAMES), width=0.5, **options)
    model.names = NAMES
    for _ in range(3):
        model.train()(torch.rand(8, 3, SIDE, SIDE), torch.arange(8) % 3)
    with torch.no_grad():
        model.head.weight.normal_(std=0.5)
    return model.eval()


def seen(model: Classifier, image: np.ndarray, *arguments: Any, side: int = SIDE, **options: Any) -> Any:
    tensor, view = prepare_for_classes("x.png", image, transform=Middle(side, whole=side <= 64), device=CPU)
    return explain_class(model, tensor, view, *arguments, **options)


def picture(size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("label", [None, 0, 2])
def test_before_a_mean_and_a_linear_head_grad_cam_is_the_class_activation_map(label: int | None) -> None:
    """Zhou et al. (CVPR 2016): the class row times the last maps. Grad-CAM divides by the number of cells."""
    model, image = small(), picture()
    maps: list[Any] = []
    hook = model.network.layer3.register_forward_hook(lambda _m, _i, out: maps.append(out.detach()))  # type: ignore[union-attr]
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255
    with torch.no_grad():
        logits = model(tensor)[0]
    hook.remove()
    chosen = int(logits.argmax()) if label is None else label
    expected = torch.einsum("c,chw->hw", model.head.weight[chosen].detach(), maps[0][0]).clamp(min=0) / 64
    found = seen(model, image, label)
    assert found.chosen == chosen and found.layer == "layer3"
    assert found.value == pytest.approx(float(logits[chosen]), rel=1e-4)
    assert found.score == pytest.approx(float(logits.softmax(0)[chosen]), rel=1e-4)
    assert found.cam.shape == (SIDE, SIDE)
    step = SIDE // 8
    centres = found.cam[step // 2 - 1 :: step, step // 2 - 1 :: step]  # half a pixel from the middle of each cell
    assert np.corrcoef(centres.ravel(), expected.numpy().ravel())[0, 1] > 0.9
    assert found.cam.max() <= float(expected.max()) * (1 + 1e-4)
    np.testing.assert_allclose(found.cam[0, 0], float(expected[0, 0]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scalar", ["logit", "score"])
def test_every_method_gives_a_map_over_the_whole_image(method: str, scalar: str) -> None:
    found = seen(small(head="cosine"), picture((48, 40)), method=method, scalar=scalar)
    assert found.cam.shape == found.size == (48, 40) and found.cam.min() >= 0 and np.isfinite(found.cam).all()
    assert found.line.startswith(f"{NAMES[found.chosen]} {found.score:.2f}, {method} at layer3")


def test_the_adjustment_is_in_what_is_explained() -> None:
    model, image = small(), picture()
    plain = seen(model, image, 1)
    model.set_adjustment(torch.tensor([1.0, 3.0, 1.0]))
    weighed = seen(model, image, 1)
    assert weighed.value == pytest.approx(3 * plain.value, rel=1e-4)
    np.testing.assert_allclose(weighed.cam, 3 * plain.cam, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 300), (240, 400), (500, 260), (97, 130)])
def test_a_crop_lies_where_the_view_says(size: tuple[int, int]) -> None:
    """The pixels that hold their own x and y come to the middle as the view places them."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width) * 255 / width, (np.arange(height) * 255 / height)[:, None]
    tensor, view = prepare_for_classes("x.png", image, transform=Middle(112, whole=False), device=CPU)
    (sx, sy), (dx, dy) = view.info.scale, view.info.offset
    for cell in (20, 60, 90):
        assert float(tensor[0, 50, cell]) * width == pytest.approx((cell + 0.5 - dx) / sx - 0.5, abs=2.5)
        assert float(tensor[1, cell, 50]) * height == pytest.approx((cell + 0.5 - dy) / sy - 0.5, abs=2.5)
    inside = view.visible()
    rows, columns = (int(inside.any(axis=a).sum()) for a in (1, 0))
    assert rows == pytest.approx(112 / sy, abs=1.5) and columns == pytest.approx(112 / sx, abs=1.5)


def test_what_the_network_does_not_see_speaks_for_nothing() -> None:
    found = seen(small(), picture((100, 300)), method="layercam", side=96)
    assert not found.cam[:, :90].any() and not found.cam[:, 210:].any() and found.cam.any()


# -- the verb ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("cam")
    for seed in (0, 1):
        recipe = {"imgsz": SIDE, "model": "se_resnet20"}
        save_checkpoint(root / f"run{seed}" / "weights" / "last.pt", small(seed), recipe=recipe)
    (root / "mine.yaml").write_text(yaml.safe_dump(write_folders(root / "data")))
    cv2.imwrite(str(root / "photo.png"), picture((60, 90)))
    weights = [str(root / f"run{seed}" / "weights" / "last.pt") for seed in (0, 1)]
    return {"root": root, "weights": weights, "photo": str(root / "photo.png"), "data": str(root / "mine.yaml")}


def test_cam_writes_a_sheet_and_maps_with_a_column_for_each_model(files: dict[str, Any], tmp_path: Path) -> None:
    result = iifdet.cam(weights=files["weights"], source=files["photo"], category="cow", project=str(tmp_path))
    [sheet] = result.sheets
    assert sheet.picture is not None and cv2.imread(str(sheet.picture)).shape[0] > 300
    content = sheet.load()
    assert content["cam"].shape == (2, 60, 90) and content["label"].tolist() == [2, 2]
    assert content["class_name"].tolist() == ["cow", "cow"] and content["best"].shape == (2, 3)
    assert sheet.explained == [True, True] and sheet.lines[0].startswith("run0: cow ")


def test_curves_fall_and_rise_from_the_score_to_that_of_a_blurred_image(files: dict[str, Any], tmp_path: Path) -> None:
    keys: dict[str, Any] = {"weights": files["weights"][0], "source": files["photo"], "project": str(tmp_path)}
    [sheet] = iifdet.cam(curves=3, **keys).sheets
    content = sheet.load()
    score = float(content["score"][0])
    for prefix in ("", "chance_"):
        deletion, insertion = content[f"{prefix}deletion"][0], content[f"{prefix}insertion"][0]
        assert deletion.shape == insertion.shape == (4,)
        assert deletion[0] == pytest.approx(score, abs=1e-5) and insertion[-1] == pytest.approx(score, abs=1e-5)
        assert deletion[-1] == pytest.approx(insertion[0], abs=1e-5)
    assert ", deletion 0." in sheet.lines[0] and sheet.picture is not None
    plain = iifdet.cam(name="plain", **keys).sheets[0].picture
    assert plain is not None and cv2.imread(str(sheet.picture)).shape[0] > cv2.imread(str(plain)).shape[0]


def test_without_a_source_the_data_s_images_come_class_by_class(files: dict[str, Any], tmp_path: Path) -> None:
    keys: dict[str, Any] = {"weights": files["weights"][0], "data": files["data"], "project": str(tmp_path)}
    result = iifdet.cam(limit=4, plots=False, **keys)
    assert [Path(sheet.file).parts[-3:] for sheet in result.sheets] == [
        ("test", "ant", "000.png"),
        ("test", "bee", "000.png"),
        ("test", "cow", "000.png"),
        ("test", "ant", "001.png"),
    ]
    assert all(sheet.picture is None for sheet in result.sheets)
    assert len(class_pictures(files["data"], "train")) == 10


def test_a_trusted_list_may_name_images_elsewhere(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.txt").write_text("".join(f"{files['photo']} {label}\n" for label in range(3)))
    data = {"task": "classify", "format": "list", "path": str(tmp_path / "set"), "test": "test.txt"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    keys: dict[str, Any] = {"weights": files["weights"][0], "data": str(tmp_path / "mine.yaml"), "plots": False}
    with pytest.raises(InputError, match="allow_outside=true"):
        iifdet.cam(**keys, project=str(tmp_path))
    found = iifdet.cam(**keys, project=str(tmp_path), limit=1, allow_outside=True)
    assert [sheet.file for sheet in found.sheets] == [files["photo"]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gt": 1}, "gt: belongs to detectors"),
        ({"conf": 0.1}, "conf: belongs to detectors"),
        ({"category": "dodo"}, "category: expected a class of the model, got 'dodo'"),
        ({"layer": "layer9"}, "layer: expected one of auto, all, layer3"),
        ({"layer": "head"}, r"layer: expected one that gives a map \(B, C, H, W\), got 'head'"),
    ],
)
def test_wrong_keys_are_refused(files: dict[str, Any], tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.cam(weights=files["weights"][0], source=files["photo"], project=str(tmp_path), **keys)


def test_other_classes_and_detectors_do_not_stand_beside_a_classifier(files: dict[str, Any], tmp_path: Path) -> None:
    other = small()
    other.names = NAMES[::-1]
    save_checkpoint(tmp_path / "other.pt", other, recipe={})
    detector = create_model("yolov3-nano", 3)
    save_checkpoint(tmp_path / "detector.pt", detector, recipe={})
    for name, message in (("other.pt", "expected models of the same classes"), ("detector.pt", "classifiers alone")):
        with pytest.raises(InputError, match=message):
            iifdet.cam(weights=[files["weights"][0], str(tmp_path / name)], source=files["photo"])
    with pytest.raises(InputError, match="of a classifier beside detectors"):
        iifdet.cam(weights=[str(tmp_path / "detector.pt"), files["weights"][0]], source=files["photo"])
    with pytest.raises(InputError, match="source: expected images to look at"):
        iifdet.cam(weights=files["weights"][0])


@pytest.mark.parametrize(
    ("options", "names"), [({"experts": 2}, "expert1+expert2"), ({"bilateral": True}, "uniform+reversed")]
)
def test_a_score_on_several_branches_is_explained_by_all_of_them(options: dict[str, Any], names: str) -> None:
    torch.manual_seed(0)
    model: Any = create_model("se_resnet20", len(NAMES), width=0.5, **options).eval()
    model.names = NAMES
    found = seen(model, picture())
    assert found.layer == names
    one, other = (seen(model, picture(), layer=name).cam for name in names.split("+"))
    assert not np.allclose(found.cam, one) and not np.allclose(found.cam, other)
