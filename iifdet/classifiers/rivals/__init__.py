"""Rivals of IIF that are classifiers of their own: each is one file, and an option of every network."""

from iifdet.classifiers.rivals.bilateral import BilateralClassifier
from iifdet.classifiers.rivals.contrastive import ContrastiveClassifier
from iifdet.classifiers.rivals.experts import ExpertClassifier
from iifdet.classifiers.rivals.generation import GeneratingClassifier
from iifdet.classifiers.rivals.memory import MemoryClassifier
from iifdet.classifiers.rivals.robust import RobustClassifier

__all__ = [
    "BilateralClassifier",
    "ContrastiveClassifier",
    "ExpertClassifier",
    "GeneratingClassifier",
    "MemoryClassifier",
    "RobustClassifier",
]
