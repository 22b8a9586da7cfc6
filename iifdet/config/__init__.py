"""Typed configuration: defaults < recipe (YAML) < ``key=value``. Only cli, api and build see it."""

from iifdet.config.inspection import CheckConfig, StatsConfig
from iifdet.config.keys import Adjust, Classes, DataKeys, DetectionKeys, InferenceKeys, WeightKeys
from iifdet.config.recipes import read_yaml
from iifdet.config.resolution import parse_value, resolve, validate
from iifdet.config.training import TrainConfig
from iifdet.config.validation import ValConfig

__all__ = [
    "Adjust",
    "CheckConfig",
    "Classes",
    "DataKeys",
    "DetectionKeys",
    "InferenceKeys",
    "StatsConfig",
    "TrainConfig",
    "ValConfig",
    "WeightKeys",
    "parse_value",
    "read_yaml",
    "resolve",
    "validate",
]
