"""The choice of detections as ONNX operators: what iifdet.detectors.postprocess.select does, for a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.detectors import PostprocessOptions
from iifdet.errors import InputError

#: Names of what the graph gives with NMS inside: (B, K, 4), (B, K) and (B, K), best first, filled up with label -1.
OUTPUTS = ("boxes", "scores", "labels")
#: Score of what is out of the running.
OUT = -1.0


def check_options(options: PostprocessOptions) -> None:
    """Refuse choices that ONNX's NMS cannot make.

    Raises:
        InputError: NMS across classes.
    """
    if options.nms != "class":
        raise InputError(f"nms: expected 'class' inside an ONNX graph, got '{options.nms}'; use nms_inside=false")


class NodeList:
    """Nodes and constants of a graph that grows; each call gives the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        from onnx import numpy_helper

        array: NDArray[Any] = np.asarray(values, kind)
        name = f"nms_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, out: str = "", more: int = 0, **attributes: Any) -> Any:
        """Append a node; ``more`` further outputs make it give all their names."""
        from onnx import helper

        stem = f"nms_{kind.lower()}_{len(self.nodes)}"
        outputs = [out or stem, *(f"{stem}_{i}" for i in range(1, more + 1))]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=stem, **attributes))
        return outputs if more else outputs[0]


def nms_nodes(
    boxes: str, scores: str, shape: tuple[int, int], size: tuple[int, int], options: PostprocessOptions, levels: Any
) -> tuple[NodeList, int]:
    """Nodes from ``boxes`` (B, N, 4) and ``scores`` (B, N, C) to OUTPUTS, and K.

    Args:
        shape: N and C.
        size: (height, width) that boxes are clipped to.
        levels: how many of the N rows stand on each feature level.
    """
    graph, (rows, classes) = NodeList(), shape
    zero, out = graph.constant(0.0), graph.constant(OUT)
    height, width = size
    clipped = graph.add("Min", graph.add("Max", boxes, zero), graph.constant([width, height, width, height]))
    # 1. Candidates: the rest scores -1.
    scores = _candidates(graph, scores, shape, options, levels)
    corners = graph.add("Split", clipped, axis=2, num_outputs=2, more=1)  # (B, N, 2) twice
    sides = graph.add("Sub", corners[1], corners[0])
    shortest = graph.add("ReduceMin", sides, graph.constant([2], np.int64), keepdims=1)
    scores = graph.add("Where", graph.add("Greater", shortest, zero), scores, out)
    # 2. NMS, class by class.
    by_class = graph.add("Transpose", scores, perm=[0, 2, 1])  # (B, C, N)
    most = min(options.max_det, rows * classes)
    limits = (graph.constant([most], np.int64), graph.constant([options.iou]), graph.constant([options.conf]))
    kept = graph.add("NonMaxSuppression", clipped, by_class, *limits)  # (M, 3): image, class, row
    flat = graph.add("ScatterND", _nobody(graph, by_class), kept, graph.add("GatherND", by_class, kept))
    flat = graph.add("Reshape", flat, graph.constant([0, rows * classes], np.int64))
    # 3. The best K of each image.
    values, places = graph.add("TopK", flat, graph.constant([most], np.int64), axis=1, more=1)
    there, number = graph.add("Greater", values, zero), graph.constant(rows, np.int64)
    graph.add("Where", there, values, zero, out="scores")
    graph.add("Where", there, graph.add("Div", places, number), graph.constant(-1, np.int64), out="labels")
    place = graph.add("Unsqueeze", graph.add("Mod", places, number), graph.constant([2], np.int64))
    chosen = graph.add("GatherND", clipped, place, batch_dims=1)
    graph.add("Where", graph.add("Unsqueeze", there, graph.constant([2], np.int64)), chosen, zero, out="boxes")
    return graph, most


def _candidates(
    graph: NodeList, scores: str, shape: tuple[int, int], options: PostprocessOptions, levels: tuple[int, ...]
) -> str:
    """(B, N, C) scores in which all that may not enter NMS are -1, in the order in which ``select`` counts them."""
    rows, classes = shape
    if options.level_candidates and levels:
        split = graph.constant(levels, np.int64)
        parts = graph.add("Split", scores, split, axis=1, more=len(levels) - 1)
        parts = parts if len(levels) > 1 else [parts]
        best = [
            _best_of_all(graph, part, (n, classes), options.level_candidates)
            for part, n in zip(parts, levels, strict=True)
        ]
        scores = graph.add("Concat", *best, axis=1)
    if not options.multi_label:
        first = graph.add("ArgMax", scores, axis=2, keepdims=1)
        same = graph.add("Equal", first, graph.constant(np.arange(classes), np.int64))
        scores = graph.add("Where", same, scores, graph.constant(OUT))
    elif 0 < options.class_candidates < rows:
        scores = _best(graph, scores, 1, options.class_candidates)
    return _best_of_all(graph, scores, shape, options.max_candidates)


def _best_of_all(graph: NodeList, scores: str, shape: tuple[int, int], number: int) -> str:
    """(B, N, C) scores in which all but the best ``number`` are -1."""
    rows, classes = shape
    if number >= rows * classes:
        return scores
    flat = graph.add("Reshape", scores, graph.constant([0, rows * classes], np.int64))
    best = _best(graph, flat, 1, number)
    return graph.add("Reshape", best, graph.constant([0, rows, classes], np.int64))


def _best(graph: NodeList, scores: str, axis: int, number: int) -> str:
    """Scores in which all but the best ``number`` along an axis are -1."""
    values, places = graph.add("TopK", scores, graph.constant([number], np.int64), axis=axis, more=1)
    return graph.add("ScatterElements", _nobody(graph, scores), places, values, axis=axis)


def _nobody(graph: NodeList, like: str) -> str:
    """A tensor of this shape full of -1."""
    return graph.add("Add", graph.add("Mul", like, graph.constant(0.0)), graph.constant(OUT))
