"""The keys of ``iifdet tune``: those of the study, and those of its trainings beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from iifdet.config.keys import Choice, TalkKeys
from iifdet.config.resolution import path_as_text, validate
from iifdet.config.training import TrainConfig
from iifdet.errors import InputError, suggest


def _objective(value: Any) -> Any:
    """One objective or several; a mapping of metrics to weights is a sum."""
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | dict) for item in items):
        raise ValueError("expected a metric such as AP, a sum such as 0.7*AP + 0.3*tail10, or a list of these")
    return [" + ".join(f"{w}*{n}" for n, w in item.items()) if isinstance(item, dict) else item for item in items]


def _devices(value: Any) -> Any:
    if value is None or isinstance(value, list):
        return value
    return [part.strip() for part in str(value).split(",")]


Objectives = Annotated[list[str] | None, BeforeValidator(_objective)]


class StudyKeys(TalkKeys):
    """The study; the keys below are those of its trainings"""

    study: str | None = None
    """its name; the same one again joins it or goes on with it"""
    space: str | None = None
    """what is searched: a YAML file, or a name in cfg/tune"""
    trials: Annotated[int, Field(ge=1)] = 50
    """in all, by all processes and calls together"""
    objective: Objectives = None
    """metric to maximise, a sum of several, or a list for a Pareto front; by default AP, of classifiers mean_class"""
    sampler: Literal["tpe", "cmaes", "random", "grid", "nsga2"] = "tpe"
    """how values are proposed"""
    pruner: Annotated[Literal["median", "hyperband", "none"], Choice] | None = None
    """what stops trials without a future; by default median where there is one objective"""
    post_process: bool = False
    """search the adjustment of a finished model alone: weights=<its last.pt>"""
    split: str = "holdout:0.1"
    """images that trials are judged on: this share of the training images, by strata; val needs on_val"""
    on_val: bool = False
    """judge trials on val: its figures then say nothing about new images"""
    storage: str | None = None
    """a journal file, an RDB URL or grpc://host:port; by default study.journal in the study's folder"""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """trials at a time in this process"""
    loader_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """processes that read images for each trial; by default the recipe's"""
    threads: Annotated[int, Field(ge=1)] | None = None
    """of each trial; by default a share of the machine's cores"""
    device: Annotated[list[str | int] | None, BeforeValidator(_devices)] = None
    """devices of the trials, taken in turn: 0,1"""
    grid_points: Annotated[int, Field(ge=2)] = 5
    """sampler=grid: values of a number"""
    heartbeat: Annotated[float, Field(gt=0)] = 30.0
    """seconds between two signs of life"""
    grace: Annotated[float, Field(gt=0)] = 120.0
    """seconds without one after which a trial is tried again"""
    keep_weights: bool = False
    """leave the checkpoints of all trials"""
    project: str | None = None
    """the folder above the study's; runs/tune where none is named"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """of the sampler and of every training"""


class TuneConfig(StudyKeys, TrainConfig):  # type: ignore[misc]  # the study's 'workers' and 'device' win
    """The study's keys, and any of ``train`` for all of its trials."""


def read_study(keys: Mapping[str, Any]) -> tuple[StudyKeys, dict[str, Any]]:
    """Keys of the study, and those of its trainings.

    Raises:
        InputError: an unknown key, a bad value, or one that a study sets itself.
    """
    for key, instead in {"resume": "study=NAME goes on", "exist_ok": "study=NAME goes on", "holdout": "split="}.items():
        if key in keys:
            raise InputError(f"{key}: expected no such key for a study, got one; {instead}")
    for key in keys:
        if key.partition(".")[0] not in TuneConfig.model_fields:
            raise InputError(f"{key}: unknown key{suggest(key, TuneConfig.model_fields)}")
    keys = {k: path_as_text(v) for k, v in keys.items()}
    study = validate(StudyKeys, {k: v for k, v in keys.items() if k in StudyKeys.model_fields})
    return study, {k: v for k, v in keys.items() if k not in StudyKeys.model_fields}


def parse_split(study: StudyKeys) -> float:
    """The share of the training images that is held out; 0 for val.

    Raises:
        InputError: neither, or val without ``on_val``.
    """
    kind, _, share = study.split.partition(":")
    if study.on_val and study.split in ("val", StudyKeys.model_fields["split"].default):
        return 0.0
    if kind == "val" and not share:
        raise InputError("split: expected holdout:SHARE, got val; to tune on val nonetheless, say on_val=true")
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if kind != "holdout" or not 0 < value < 1 or study.on_val:
        raise InputError(f"split: expected holdout:SHARE such as holdout:0.1, or on_val=true, got {study.split}")
    return value
