"""YOLOv3, SSD and RetinaNet as files: they say the same number of things about every image, any number at once."""

from __future__ import annotations

from typing import Any

import torch

from iifdet.detectors import Detector
from iifdet.exporting.card import Card, Preprocessing
from iifdet.exporting.exported import Run
from iifdet.exporting.graph import TOLERANCE, Built, capture, prepare
from iifdet.exporting.onnx_file import DENSE, INNER, append_nms
from iifdet.exporting.writing import written


def build_dense(model: Detector, look: Preprocessing, format: str, nms_inside: bool) -> Built:
    """The file of a detector with dense predictions, tried out beside it.

    Raises:
        InputError: an adjustment that cannot be folded.
        RuntimeError: the graph says something else than the model.
    """
    images = torch.rand(2, 3, *look.size, generator=torch.Generator().manual_seed(0))
    graph = prepare(model, images)
    with torch.no_grad():
        levels, dense = graph.model.dense(images).levels, graph(images)
    card = Card.of(model, look, nms=nms_inside, levels=levels)
    program = capture(graph, images)
    outputs = INNER if nms_inside else DENSE

    def add_nms(inner: Any) -> None:
        if nms_inside:
            append_nms(inner, card, (int(dense[1].shape[1]), int(dense[1].shape[2])))

    return written(program, card, format, outputs, lambda run: _try_out(run, model, look), add_nms)


@torch.no_grad()
def _try_out(run: Run, model: Detector, look: Preprocessing) -> float:
    """How far the scores lie apart on other images, and another number of them, than those of the capture."""
    images = torch.rand(3, 3, *look.size, generator=torch.Generator().manual_seed(1))
    boxes, scores = run(images)
    raw = model.adjusted(model.raw(images))
    true_boxes = torch.stack([r.boxes for r in raw]).float()
    true_scores = torch.stack([model.scores(r) for r in raw])
    apart = float((scores - true_scores).abs().max())
    reach = true_boxes.abs().amax(dim=-1, keepdim=True).clamp(min=1)
    shifted = float(((boxes - true_boxes).abs() / reach).max())
    if not max(apart, shifted) <= TOLERANCE:
        raise RuntimeError(f"the graph's scores lie up to {apart:.1e} from the model's, its boxes {shifted:.1e}")
    return apart
