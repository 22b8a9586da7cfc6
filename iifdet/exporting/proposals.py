"""Faster and Mask R-CNN as ONNX, one image at a time: proposals are as many as the image has.

torch.export wants to know every number beforehand, so these graphs are traced. Their choice of detections is
iifdet.detectors.postprocess.select's, written without a loop or a branch over what an image holds.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from iifdet.boxes import clip
from iifdet.detectors import PostprocessOptions
from iifdet.detectors.postprocess import in_own_pixels
from iifdet.detectors.rcnn import FasterRCNN, Scene, resized
from iifdet.errors import InputError
from iifdet.exporting.card import Card, Preprocessing
from iifdet.exporting.exported import ExportedDetector, Run
from iifdet.exporting.graph import Built, fold_and_fuse, quiet
from iifdet.exporting.onnx_file import DENSE, describe, forget_where_it_was_made
from iifdet.exporting.onnx_nms import OUTPUTS
from iifdet.exporting.reading import run_onnx
from iifdet.types import Detection, RawPredictions

#: What the graph gives with masks.
MASKED = (*OUTPUTS, "masks")
#: Names of the dimensions that are as long as the image needs.
FREE = {"boxes": {1: "proposals"}, "scores": {1: "proposals"}}
#: The first version in which all operators of these graphs are there.
OPSET = 17
#: How far apart two boxes may lie that are one, as a share of the image's longer side; how many rows must have one.
NEAR, SHARE = 1e-3, 0.95
#: How far the scores of one box may lie apart: its place is rounded before features are read there.
TOLERANCE = 1e-2


def build_proposals(model: FasterRCNN, look: Preprocessing, nms_inside: bool) -> Built:
    """The file of an R-CNN, tried out beside it.

    Raises:
        InputError: as :func:`check_proposals` and :func:`fold_and_fuse`.
        RuntimeError: the graph says something else than the model.
    """
    images = torch.rand(1, 3, *look.size, generator=torch.Generator().manual_seed(0))
    twin = fold_and_fuse(model, images)
    assert isinstance(twin, FasterRCNN)
    _settle_size(twin, look, images)
    card = Card.of(model, look, nms=nms_inside, batch=1)
    proto = trace(ProposalGraph(twin), images, DENSE, FREE)
    difference = _try_out(run_onnx(proto.SerializeToString()), model, look)
    if nms_inside:
        proto = trace(DetectionGraph(twin), images, MASKED if model.wants_masks else OUTPUTS, {})
        _compare(ExportedDetector(card, run_onnx(proto.SerializeToString())), model, look)
    return describe(proto, card), Counter(node.op_type for node in proto.graph.node), difference


def _settle_size(twin: FasterRCNN, look: Preprocessing, images: Tensor) -> None:
    """Say how large the network sees the image: in a trace torchvision rounds otherwise, and may be a pixel off."""
    height, width = resized(twin.net.transform, look.size, images)[1]
    twin.net.transform.fixed_size = (width, height)


def check_proposals(model: FasterRCNN, format: str, nms_inside: bool) -> None:
    """Refuse what no graph of an R-CNN can do.

    Raises:
        InputError: torch.export; masks of boxes that are not chosen yet; a threshold that too many boxes may pass.
    """
    name = type(model).__name__
    if format != "onnx":
        raise InputError(
            f"format: expected onnx for a {name}, got {format}: it has as many proposals as the image gives, and "
            "torch.export wants to know how many"
        )
    if model.wants_masks and not nms_inside:
        raise InputError(
            f"nms_inside: expected true for a {name}, got false: it looks for masks in the boxes that were chosen"
        )
    if nms_inside:
        _check_choice(model)


def _check_choice(model: FasterRCNN) -> None:
    """The graph has no limit on the boxes that enter NMS: so few must pass ``conf`` that none would be needed."""
    if model.options.class_candidates or model.options.only:
        raise InputError(
            f"nms_inside: expected options without class_candidates and only for a {type(model).__name__}, "
            f"got {model.options}; give nms_inside=false"
        )
    options, classes = model.options, model.num_classes
    if model.class_activation == "softmax" and options.conf > 0:  # probabilities that sum to 1
        classes = min(classes, math.ceil(1 / options.conf) - 1)
    most = model.net.rpn.post_nms_top_n() * (classes if options.multi_label else 1)
    if most > options.max_candidates:
        raise InputError(
            f"conf: expected one that at most {options.max_candidates} boxes of an image can pass, got {options.conf} "
            f"that {most} may; raise it, or give nms_inside=false"
        )


def said(model: FasterRCNN, images: Tensor) -> tuple[RawPredictions, Scene]:
    """Adjusted predictions, and what they come from; the adjustment is in the rows, but where there is an alignment."""
    raw, scene = model.single(images)
    return (raw if model.align is None else model.adjusted([raw])[0]), scene


class ProposalGraph(nn.Module):
    """(1, 3, H, W) RGB in [0, 1] to boxes (1, N, C, 4), xyxy in its pixels, not clipped, and scores (1, N, C).

    N proposals, the best first; scores are adjusted ones.
    """

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raw, _ = said(self.model, images)
        return raw.boxes[None], self.model.scores(raw)[None]


class DetectionGraph(nn.Module):
    """(1, 3, H, W) to boxes (1, K, 4), scores and labels (1, K), best first, filled up with label -1, K = ``max_det``.

    With masks also (1, K, 28, 28): probabilities of the pixels of a grid that is laid over each box.
    """

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raw, scene = said(self.model, images)
        assert raw.network is not None
        options = self.model.options
        boxes, scores, labels = chosen(raw.network.boxes, self.model.scores(raw), raw.network.size, options)
        own = in_own_pixels(Detection(boxes=boxes, labels=labels, scores=scores), raw)
        found = [(own["boxes"], 0), (scores, 0), (labels, -1)]
        if self.model.wants_masks:
            masks = self.model.net.roi_heads.masks(scene.features, [boxes], [labels + 1], scene.sizes)
            found.append((masks[0][:, 0], 0))
        return tuple(_filled(values, value, options.max_det)[None] for values, value in found)


def chosen(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], options: PostprocessOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (K, 4), scores and labels (K,) of the detections among (N, C, 4) boxes with (N, C) scores, best first."""
    classes = scores.shape[1]
    boxes = clip(boxes, size)
    sides = boxes[..., 2:] - boxes[..., :2]
    solid = (sides > 0).all(dim=-1) & (sides >= options.min_box).all(dim=-1)
    if not options.multi_label:  # before boxes without area are left out, as select does
        best = F.one_hot(scores.argmax(dim=1), classes).bool()
        scores = torch.where(best, scores, -1.0)
    scores = torch.where(solid, scores, -1.0)
    columns = scores.t().contiguous()  # (C, N)
    kept = _ClassNMS.apply(boxes.transpose(0, 1).contiguous(), columns, options.iou, options.conf, options.max_det)
    survivors = torch.full_like(scores, -1.0).index_put((kept[:, 2], kept[:, 0]), scores[kept[:, 2], kept[:, 0]])
    values, places = survivors.flatten().sort(descending=True)
    values, places = values[: options.max_det], places[: options.max_det]
    there = (values > options.conf).nonzero()[:, 0]
    values, places = values[there], places[there]
    return boxes.reshape(-1, 4)[places], values, places % classes


class _ClassNMS(torch.autograd.Function):
    """NMS in each class of its own boxes: ONNX's operator, to which classes are so many images."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou: float, conf: float, most: int) -> Tensor:
        """(C, N, 4) boxes and (C, N) scores to (M, 3) ``[class, 0, row]`` of what stays."""
        kept = []
        for label, (box, score) in enumerate(zip(boxes, scores, strict=True)):
            rows = (score > conf).nonzero()[:, 0]
            rows = rows[nms(box[rows].double(), score[rows].double(), iou)[:most]]
            kept.append(torch.stack([torch.full_like(rows, label), torch.zeros_like(rows), rows], dim=1))
        return torch.cat(kept)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float, conf: float, most: int) -> Any:
        """The same as a node."""
        limits = [torch.tensor([most]), torch.tensor([iou], dtype=torch.float32), torch.tensor([conf]).float()]
        constants = [g.op("Constant", value_t=value) for value in limits]
        axis = g.op("Constant", value_t=torch.tensor([1]))
        return g.op("NonMaxSuppression", boxes, g.op("Unsqueeze", scores, axis), *constants)


def _filled(values: Tensor, value: int, most: int) -> Tensor:
    """(K, …) values followed by so many of one ``value`` that they are ``most``."""
    return torch.cat([values, values.new_full((most, *values.shape[1:]), value)])[:most]


def trace(graph: nn.Module, images: Tensor, outputs: Sequence[str], free: dict[str, dict[int, str]]) -> Any:
    """The graph as an onnx.ModelProto for one image."""
    import onnx

    file = io.BytesIO()
    graph.eval().requires_grad_(False)
    with quiet(), torch.no_grad():
        torch.onnx.export(
            graph,
            (images,),
            file,  # type: ignore[arg-type]  # a file object is what the tracing exporter takes
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes=free,
        )
    proto = onnx.load_from_string(file.getvalue())
    forget_where_it_was_made(proto)
    return proto


@torch.no_grad()
def _try_out(run: Run, model: FasterRCNN, look: Preprocessing) -> float:
    """How far scores lie apart on another image than that of the trace, where model and graph have one proposal.

    Rounding changes the order of proposals that are about equally good, and which of them NMS keeps; so rows are
    found by their boxes, and a few may have no partner.
    """
    images = torch.rand(1, 3, *look.size, generator=torch.Generator().manual_seed(1))
    boxes, scores = (value[0] for value in run(images))
    raw = model.adjusted(model.raw(images))[0]
    true_boxes, true_scores = clip(raw.boxes.float(), look.size), model.scores(raw)
    apart = torch.cdist(true_boxes.flatten(1), clip(boxes, look.size).flatten(1), p=float("inf"))
    nearest, partner = (apart / max(look.size)).min(dim=1)
    paired = nearest <= NEAR
    difference = float((true_scores - scores[partner])[paired].abs().max()) if paired.any() else math.inf
    if not (float(paired.float().mean()) >= SHARE and difference <= TOLERANCE):
        raise RuntimeError(
            f"the graph's scores lie up to {difference:.1e} from the model's; "
            f"{int((~paired).sum())} of {len(paired)} proposals are not its own"
        )
    return difference


@torch.no_grad()
def _compare(exported: ExportedDetector, model: FasterRCNN, look: Preprocessing) -> None:
    """See that the whole graph finds what the model finds, on a made-up image and on a black one."""
    generator = torch.Generator().manual_seed(1)
    for image in (torch.rand(1, 3, *look.size, generator=generator), torch.zeros(1, 3, *look.size)):
        mine, graph = model(image)[0], exported(image)[0]
        partners = _partners(mine, graph, NEAR * max(look.size))
        if len(graph["scores"]) < SHARE * len(mine["scores"]) or len(partners) < SHARE * len(mine["scores"]):
            raise RuntimeError(
                f"the graph finds {len(partners)} of the model's {len(mine['scores'])} detections, "
                f"and {len(graph['scores'])} altogether"
            )
        for one, other in partners:
            if "masks" in mine and (mine["masks"][one] - graph["masks"][other]).abs().mean() > TOLERANCE:
                raise RuntimeError("the graph's masks are not the model's")


def _partners(mine: Detection, graph: Detection, near: float) -> list[tuple[int, int]]:
    """(row, row) of detections with one label, about the same score and the same box."""
    apart = torch.cdist(mine["boxes"], graph["boxes"], p=float("inf")) <= near
    same = mine["labels"][:, None] == graph["labels"]
    close = (mine["scores"][:, None] - graph["scores"]).abs() <= TOLERANCE
    found = apart & same & close
    return [(row, int(found[row].int().argmax())) for row in found.any(dim=1).nonzero()[:, 0].tolist()]
