"""One export from a detector to a file that was tried out before it got its name."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iifdet.detectors import Detector
from iifdet.errors import InputError
from iifdet.exporting.card import Card, Preprocessing
from iifdet.exporting.graph import capture, prepare, quiet
from iifdet.exporting.onnx_file import DENSE, INNER, append_nms, describe, to_onnx
from iifdet.exporting.onnx_nms import check_options
from iifdet.exporting.reading import ONNX, TORCH, need, run_onnx
from iifdet.files import atomic_write

#: ``format`` -> suffix.
FORMATS = {"onnx": ONNX, "torch": TORCH}
#: How far scores, and boxes as a share of their largest coordinate, may lie from the model's.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        file: where it is.
        nodes: operator -> how often the graph has it.
        difference: how far its scores lie from the model's at most, before NMS, on made-up images.
    """

    file: Path
    nodes: Counter[str]
    difference: float

    def describe(self) -> str:
        """One line."""
        size, apart = self.file.stat().st_size / 1e6, f"{self.difference:.0e}"
        return f"{self.file}: {size:.1f} MB, {self.nodes.total()} nodes, scores within {apart} of the model's"


@dataclass
class ExportJob:
    """Everything that an export needs, checked; :meth:`run` does it.

    Attributes:
        model: a detector in eval mode whose options and adjustment are those to export.
        preprocessing: how its images are made; the size is that of the graph.
        file: where it goes.
        format: a name in FORMATS.
        nms_inside: whether the graph also chooses detections.
    """

    model: Detector
    preprocessing: Preprocessing
    file: Path
    format: str = "onnx"
    nms_inside: bool = False

    def check(self) -> None:
        """Refuse what cannot be exported.

        Raises:
            InputError: a package is missing, or a choice that the format does not have.
        """
        if self.format == "onnx":
            need("onnx", "onnxscript", "onnxruntime")
        if self.nms_inside and self.format != "onnx":
            raise InputError("nms_inside: expected format=onnx, got torch, which has no NMS; leave it outside")
        if self.nms_inside:
            check_options(self.model.options)

    def run(self) -> ExportResult:
        """Export, try the result out beside the model, and write it.

        Raises:
            InputError: as :meth:`check` and :func:`prepare`.
            RuntimeError: the graph says something else than the model.
        """
        self.check()
        images = torch.rand(2, 3, *self.preprocessing.size, generator=torch.Generator().manual_seed(0))
        graph = prepare(self.model, images)
        with torch.no_grad():
            levels, dense = graph.model.dense(images).levels, graph(images)
        card = Card.of(self.model, self.preprocessing, nms=self.nms_inside, levels=levels)
        program = capture(graph, images)
        if self.format == "onnx":
            model = to_onnx(program, INNER if self.nms_inside else DENSE)
            difference = self._try_out(run_onnx(model.SerializeToString()))
            if self.nms_inside:
                append_nms(model.graph, card, (int(dense[1].shape[1]), int(dense[1].shape[2])))
            content, nodes = describe(model, card), Counter(node.op_type for node in model.graph.node)
        else:
            difference = self._try_out(program.module())
            content, nodes = _torch_bytes(program, card), Counter(_operators(program))
        with atomic_write(self.file) as file:
            file.write(content)
        return ExportResult(self.file, nodes, difference)

    @torch.no_grad()
    def _try_out(self, run: Callable[[Tensor], Sequence[Tensor]]) -> float:
        """How far the scores lie apart on other images, and another number of them, than those of the capture."""
        images = torch.rand(3, 3, *self.preprocessing.size, generator=torch.Generator().manual_seed(1))
        boxes, scores = run(images)
        raw = self.model.adjusted(self.model.raw(images.to(next(self.model.parameters()).device)))
        true_boxes = torch.stack([r.boxes for r in raw]).float().cpu()
        true_scores = torch.stack([self.model.scores(r) for r in raw]).cpu()
        apart = float((scores - true_scores).abs().max())
        reach = true_boxes.abs().amax(dim=-1, keepdim=True).clamp(min=1)
        shifted = float(((boxes - true_boxes).abs() / reach).max())
        if not max(apart, shifted) <= TOLERANCE:
            raise RuntimeError(f"the graph's scores lie up to {apart:.1e} from the model's, its boxes {shifted:.1e}")
        return apart


def _torch_bytes(program: torch.export.ExportedProgram, card: Card) -> bytes:
    file = io.BytesIO()
    program.example_inputs = None  # a batch of images would be larger than many a model
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the files of this machine
    with quiet():
        torch.export.save(program, file, extra_files=card.to_metadata())
    return file.getvalue()


def _operators(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
