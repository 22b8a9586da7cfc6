"""Models as graphs that run without this package: ONNX and torch.export; and such files as models again."""

from iifdet.exporting.card import CLASSIFY, Card, Preprocessing
from iifdet.exporting.exported import Exported, ExportedClassifier, ExportedDetector
from iifdet.exporting.graph import DenseGraph, prepare
from iifdet.exporting.job import FORMATS, ExportJob, ExportResult
from iifdet.exporting.reading import SUFFIXES, is_exported, load_exported, read_card

__all__ = [
    "CLASSIFY",
    "FORMATS",
    "SUFFIXES",
    "Card",
    "DenseGraph",
    "ExportJob",
    "ExportResult",
    "Exported",
    "ExportedClassifier",
    "ExportedDetector",
    "Preprocessing",
    "is_exported",
    "load_exported",
    "prepare",
    "read_card",
]
