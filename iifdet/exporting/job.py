"""One export from a model to a file that was tried out before it got its name."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from iifdet.classifiers import Classifier
from iifdet.detectors import Detector
from iifdet.detectors.rcnn import FasterRCNN
from iifdet.errors import InputError
from iifdet.exporting.card import Preprocessing
from iifdet.exporting.classes import build_classes
from iifdet.exporting.dense import build_dense
from iifdet.exporting.onnx_nms import check_options
from iifdet.exporting.proposals import build_proposals, check_proposals
from iifdet.exporting.reading import ONNX, TORCH, need
from iifdet.files import atomic_write

#: ``format`` -> suffix.
FORMATS = {"onnx": ONNX, "torch": TORCH}


@dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        file: where it is.
        nodes: operator -> how often the graph has it.
        difference: how far its scores lie from the model's at most, before any NMS, on made-up images.
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
        model: a detector or classifier in eval mode whose options and adjustment are those to export.
        preprocessing: how its images are made; the size is that of the graph.
        file: where it goes.
        format: a name in FORMATS.
        nms_inside: whether the graph also chooses detections.
    """

    model: Detector | Classifier
    preprocessing: Preprocessing
    file: Path
    format: str = "onnx"
    nms_inside: bool = False

    def check(self) -> None:
        """Refuse what cannot be exported.

        Raises:
            InputError: a package is missing, or a choice that the format or the model does not have.
        """
        if isinstance(self.model, FasterRCNN):
            check_proposals(self.model, self.format, self.nms_inside)
        if self.format == "onnx":
            need("onnx", "onnxscript", "onnxruntime")
        if self.nms_inside and not isinstance(self.model, Detector):
            raise InputError("nms_inside: expected false for a classifier, which has no boxes; drop it")
        if self.nms_inside and self.format != "onnx":
            raise InputError("nms_inside: expected format=onnx, got torch, which has no NMS; leave it outside")
        if self.nms_inside and isinstance(self.model, Detector):
            check_options(self.model.options)

    def run(self) -> ExportResult:
        """Export, try the result out beside the model, and write it.

        Raises:
            InputError: as :meth:`check`.
            RuntimeError: the graph says something else than the model.
        """
        self.check()
        # On the CPU: other devices round otherwise, and the graph is compared with the model.
        model = self.model if self.model.device.type == "cpu" else copy.deepcopy(self.model).cpu()
        if isinstance(model, Classifier):
            content, nodes, difference = build_classes(model, self.preprocessing, self.format)
        elif isinstance(model, FasterRCNN):
            content, nodes, difference = build_proposals(model, self.preprocessing, self.nms_inside)
        else:
            content, nodes, difference = build_dense(model, self.preprocessing, self.format, self.nms_inside)
        with atomic_write(self.file) as file:
            file.write(content)
        return ExportResult(self.file, nodes, difference)
