"""The keys of every verb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from iifdet.config.comparison import CompareConfig
from iifdet.config.explaining import CamConfig
from iifdet.config.exporting import ExportConfig
from iifdet.config.inspection import CheckConfig, StatsConfig
from iifdet.config.prediction import PredictConfig
from iifdet.config.resolution import resolve
from iifdet.config.training import TrainConfig
from iifdet.config.tuning import TuneConfig, read_study
from iifdet.config.validation import ValConfig

CONFIGS: dict[str, type[BaseModel]] = {
    "train": TrainConfig,
    "val": ValConfig,
    "predict": PredictConfig,
    "tune": TuneConfig,
    "cam": CamConfig,
    "export": ExportConfig,
    "stats": StatsConfig,
    "check": CheckConfig,
    "compare": CompareConfig,
}


def values_of(verb: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The values that all keys of a verb have beside those that are given.

    Raises:
        InputError: as :func:`iifdet.config.resolve`.
    """
    if verb == "tune":  # the study has keys of its own under names that recipes use, such as workers
        study, rest = read_study(keys)
        return {**resolve(TrainConfig, rest).model_dump(), **study.model_dump()}
    return resolve(CONFIGS[verb], dict(keys)).model_dump()
