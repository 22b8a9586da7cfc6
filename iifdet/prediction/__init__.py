"""Pictures of any origin through a detector: sources, Results, what is written about them. A leaf: nothing imports it
but the wiring of ``iifdet predict``."""

from iifdet.prediction.classified import Classified, ClassPredictor, ClassWriter
from iifdet.prediction.job import PredictionJob, PredictionSummary
from iifdet.prediction.output import Outputs
from iifdet.prediction.predictor import Predictor
from iifdet.prediction.results import Result
from iifdet.prediction.sources import is_one_picture, list_source, read_source

__all__ = [
    "ClassPredictor",
    "ClassWriter",
    "Classified",
    "Outputs",
    "PredictionJob",
    "PredictionSummary",
    "Predictor",
    "Result",
    "is_one_picture",
    "list_source",
    "read_source",
]
