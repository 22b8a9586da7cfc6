"""A captured graph, tried out, as the content of a file."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from iifdet.exporting.card import Card
from iifdet.exporting.exported import Run
from iifdet.exporting.graph import Built, quiet
from iifdet.exporting.onnx_file import describe, to_onnx
from iifdet.exporting.reading import run_onnx


def written(
    program: ExportedProgram,
    card: Card,
    format: str,
    outputs: Sequence[str],
    try_out: Callable[[Run], float],
    finish: Callable[[Any], None] = lambda graph: None,
) -> Built:
    """The file of a program, once it says what the model says.

    Args:
        format: ``onnx`` or ``torch``.
        outputs: names of what an ONNX graph gives.
        try_out: how far it lies from the model; raises where that is too far.
        finish: adds to an ONNX graph what the model has not.
    """
    if format == "onnx":
        proto = to_onnx(program, outputs)
        difference = try_out(run_onnx(proto.SerializeToString()))
        finish(proto.graph)
        return describe(proto, card), Counter(node.op_type for node in proto.graph.node), difference
    difference = try_out(program.module())
    called = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return _torch_bytes(program, card), called, difference


def _torch_bytes(program: ExportedProgram, card: Card) -> bytes:
    file = io.BytesIO()
    program.example_inputs = None  # a batch of images would be larger than many a model
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the files of this machine
    with quiet():
        torch.export.save(program, file, extra_files=card.to_metadata())
    return file.getvalue()
