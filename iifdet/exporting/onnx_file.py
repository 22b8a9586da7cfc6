"""A captured graph as ONNX, with NMS inside where that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from iifdet.exporting.card import Card
from iifdet.exporting.graph import quiet
from iifdet.exporting.onnx_nms import OUTPUTS, nms_nodes

#: What the graph gives without NMS, and is called inside where NMS follows.
DENSE, INNER = ("boxes", "scores"), ("all_boxes", "all_scores")


def to_onnx(program: ExportedProgram, outputs: Sequence[str] = DENSE) -> Any:
    """An onnx.ModelProto with a free batch dimension."""
    with quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["images"],
            output_names=list(outputs),
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    forget_where_it_was_made(model)
    return model


def describe(model: Any, card: Card) -> bytes:
    """The file's content: the model with the card as its metadata, checked."""
    import onnx

    for key, value in card.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def append_nms(graph: Any, card: Card, shape: tuple[int, int]) -> None:
    """Put NMS behind a graph with the outputs INNER.

    Args:
        shape: N and C of these.
    """
    from onnx import TensorProto, helper

    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    nodes, most = nms_nodes(*INNER, shape, card.preprocessing.size, card.options, card.levels)
    graph.node.extend(nodes.nodes)
    graph.initializer.extend(nodes.constants)
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    shapes = ([batch, most, 4], [batch, most], [batch, most])
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(*value) for value in zip(OUTPUTS, kinds, shapes, strict=True))


def forget_where_it_was_made(model: Any) -> None:
    """The exporter notes stack traces, with paths of this machine, at every node."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
