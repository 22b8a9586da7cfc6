"""Data sets: descriptions, readers into one index, transforms, loaders, and the embedded demo data."""

from iifdet.datasets.copy_paste import CopyPaste
from iifdet.datasets.description import DataDescription, described_names, find_description
from iifdet.datasets.images import ImageError, read_image
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.loader import DetectionDataset, Sample, collate, make_loader
from iifdet.datasets.mixing import Mixing
from iifdet.datasets.paper import PaperTransform
from iifdet.datasets.pieces import Piece
from iifdet.datasets.reading import READERS, load_index
from iifdet.datasets.rect import RectBatchSampler
from iifdet.datasets.resizing import RESIZES, letterbox, squash
from iifdet.datasets.samplers import EpochSampler, SampleKey
from iifdet.datasets.sampling import SAMPLING, TOGETHER, repeat_factors
from iifdet.datasets.segments import Segments
from iifdet.datasets.select import hold_out
from iifdet.datasets.ssd import SSDTransform
from iifdet.datasets.transforms import EvalTransform, TrainTransform, Transformed, sample_seed

#: ``augment`` -> transform of the training images.
TRANSFORMS: dict[str, type[EvalTransform]] = {
    "default": TrainTransform,
    "paper": PaperTransform,
    "ssd": SSDTransform,
}

__all__ = [
    "READERS",
    "RESIZES",
    "SAMPLING",
    "TOGETHER",
    "TRANSFORMS",
    "CopyPaste",
    "DataDescription",
    "DatasetIndex",
    "DetectionDataset",
    "EpochSampler",
    "EvalTransform",
    "ImageError",
    "Mixing",
    "PaperTransform",
    "Piece",
    "Problem",
    "RectBatchSampler",
    "SSDTransform",
    "Sample",
    "SampleKey",
    "Segments",
    "TrainTransform",
    "Transformed",
    "collate",
    "described_names",
    "find_description",
    "hold_out",
    "letterbox",
    "load_index",
    "make_loader",
    "read_image",
    "repeat_factors",
    "sample_seed",
    "squash",
]
