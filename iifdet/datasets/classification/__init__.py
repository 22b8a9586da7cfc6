"""Data of image classification: descriptions, readers into one ClassIndex, long tails cut on purpose."""

from iifdet.datasets.classification.description import ClassDescription, find_class_description
from iifdet.datasets.classification.index import ArrayImages, ClassIndex, ImageSource, StoredImages
from iifdet.datasets.classification.loading import READERS, choose_classes, load_class_index
from iifdet.datasets.classification.profiles import cut_long_tail, exponential_profile

__all__ = [
    "READERS",
    "ArrayImages",
    "ClassDescription",
    "ClassIndex",
    "ImageSource",
    "StoredImages",
    "choose_classes",
    "cut_long_tail",
    "exponential_profile",
    "find_class_description",
    "load_class_index",
]
