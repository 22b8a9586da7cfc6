"""NMS as ONNX operators chooses what PyTorch chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.detectors import PostprocessOptions
from iifdet.detectors.postprocess import select

onnx = pytest.importorskip("onnx", reason="pip install iifdet[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install iifdet[export]")

from iifdet.exporting.onnx_nms import OUTPUTS, nms_nodes  # noqa: E402 (after the packages it needs)

HEIGHT, WIDTH = 48, 64


def session(rows: int, classes: int, options: PostprocessOptions, levels: tuple[int, ...] = ()) -> Any:
    """A graph of NMS alone."""
    from onnx import TensorProto, helper

    nodes, most = nms_nodes("all_boxes", "all_scores", (rows, classes), (HEIGHT, WIDTH), options, levels)
    value = helper.make_tensor_value_info
    given_ = [value(name, TensorProto.FLOAT, ["b", rows, n]) for name, n in (("all_boxes", 4), ("all_scores", classes))]
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    shapes = (["b", most, 4], ["b", most], ["b", most])
    out = [value(*v) for v in zip(OUTPUTS, kinds, shapes, strict=True)]
    graph = helper.make_graph(nodes.nodes, "nms", given_, out, nodes.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def scene(seed: int, images: int, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Crowded boxes, some of them outside the image or without area, and scores that never tie."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 60, (images, rows, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(-2, 30, (images, rows, 2))], axis=2).astype(np.float32)
    scores = rng.permutation(images * rows * classes).reshape(images, rows, classes) / (images * rows * classes)
    return boxes, scores.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 3),
    classes=st.integers(1, 4),
    options=st.builds(
        PostprocessOptions,
        conf=st.sampled_from([0.0, 0.3, 0.999]),
        iou=st.sampled_from([0.0, 0.45, 1.0]),
        max_det=st.sampled_from([1, 7, 20]),
        max_candidates=st.sampled_from([20, 4096]),
        multi_label=st.booleans(),
        class_candidates=st.sampled_from([0, 5]),
        level_candidates=st.sampled_from([0, 9]),
    ),
)
def test_a_batch_gets_the_detections_of_select(
    seed: int, images: int, classes: int, options: PostprocessOptions
) -> None:
    rows, levels = 24, (16, 8)
    boxes, scores = scene(seed, images, rows, classes)
    found = session(rows, classes, options, levels).run(list(OUTPUTS), {"all_boxes": boxes, "all_scores": scores})
    for i in range(images):
        wanted, _ = select(torch.from_numpy(boxes[i]), torch.from_numpy(scores[i]), (HEIGHT, WIDTH), options, levels)
        number = len(wanted["labels"])
        there = found[2][i] >= 0
        assert there.sum() == number and there[:number].all(), "best first, the rest is filled up"
        np.testing.assert_array_equal(found[2][i][:number], wanted["labels"])
        np.testing.assert_array_equal(found[1][i][:number], wanted["scores"])
        np.testing.assert_allclose(found[0][i][:number], wanted["boxes"])
        assert not found[0][i][number:].any() and not found[1][i][number:].any()


def test_an_image_without_detections_gives_no_label(tmp_path: Any) -> None:
    boxes, scores = scene(0, 2, 6, 2)
    scores[1] = 0.1
    found = session(6, 2, PostprocessOptions(conf=0.25)).run(None, {"all_boxes": boxes, "all_scores": scores})
    assert (found[2][0] >= 0).any() and (found[2][1] == -1).all()


@pytest.mark.slow
def test_a_file_with_nms_inside_predicts_like_the_checkpoint(tiny_root: Any, tmp_path: Any) -> None:
    from test_export import SIZE, make

    import iifdet
    from iifdet.checkpoint import save_checkpoint
    from iifdet.errors import InputError

    last = tmp_path / "last.pt"
    save_checkpoint(last, make("yolov3-tiny"), recipe={"imgsz": SIZE, "iou": 0.5})
    file = iifdet.export(weights=last, nms_inside=True, conf=0.003, max_det=50).file
    source = str(tiny_root / "val")
    mine = list(iifdet.predict(source, weights=last, conf=0.003, max_det=50))
    theirs = list(iifdet.predict(source, weights=file))
    assert sum(len(r.labels) for r in mine) > 20
    for one, other in zip(mine, theirs, strict=True):
        assert one.classes == other.classes
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-4)
    sure = list(iifdet.predict(source, weights=file, conf=0.004))
    assert 0 < sum(len(r.labels) for r in sure) < sum(len(r.labels) for r in theirs)
    for keys in ({"conf": 0.001}, {"iou": 0.6}, {"max_det": 100}):
        with pytest.raises(InputError, match="NMS inside the file"):
            iifdet.predict(source, weights=file, **keys)
