"""Detectors as graphs that run without this package: ONNX and torch.export; and such files as detectors again."""

from iifdet.exporting.card import Card, Preprocessing
from iifdet.exporting.graph import DenseGraph, prepare
from iifdet.exporting.job import FORMATS, ExportJob, ExportResult
from iifdet.exporting.reading import SUFFIXES, ExportedDetector, is_exported, load_exported, read_card

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Card",
    "DenseGraph",
    "ExportJob",
    "ExportResult",
    "ExportedDetector",
    "Preprocessing",
    "is_exported",
    "load_exported",
    "prepare",
    "read_card",
]
