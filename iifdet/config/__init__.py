"""Typed configuration: defaults < recipe (YAML) < ``key=value``. Only cli, api, build and running see it."""

from iifdet.config.inspection import CheckConfig, StatsConfig
from iifdet.config.keys import (
    Adjust,
    Classes,
    DataKeys,
    DetectionKeys,
    InferenceKeys,
    SplitKeys,
    TalkKeys,
    VariantKeys,
    WeightKeys,
)
from iifdet.config.recipes import read_yaml
from iifdet.config.resolution import parse_value, resolve, validate
from iifdet.config.training import TrainConfig
from iifdet.config.usage import describe_keys, tabulate_keys
from iifdet.config.validation import ImportedKeys, ValConfig
from iifdet.config.verbs import CONFIGS, values_of

__all__ = [
    "CONFIGS",
    "Adjust",
    "CheckConfig",
    "Classes",
    "DataKeys",
    "DetectionKeys",
    "ImportedKeys",
    "InferenceKeys",
    "SplitKeys",
    "StatsConfig",
    "TalkKeys",
    "TrainConfig",
    "ValConfig",
    "VariantKeys",
    "WeightKeys",
    "describe_keys",
    "parse_value",
    "read_yaml",
    "resolve",
    "tabulate_keys",
    "validate",
    "values_of",
]
