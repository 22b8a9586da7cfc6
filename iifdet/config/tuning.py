"""The keys of ``iifdet tune``: those of the study, and those of its trainings beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from iifdet.config.keys import Choice, DataKeys
from iifdet.config.resolution import validate
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


class StudyKeys(BaseModel):
    """Keys of the study itself. The seed is that of its sampler and of every training."""

    model_config = DataKeys.model_config

    study: str | None = None  # the name; the same one again joins or goes on
    space: str | None = None  # what is searched: a YAML file, or a name in cfg/tune
    trials: Annotated[int, Field(ge=1)] = 50  # in all, by all processes and calls together
    objective: Objectives = None  # maximised; several give a Pareto front; None: AP, of classifiers mean_class
    sampler: Literal["tpe", "cmaes", "random", "grid", "nsga2"] = "tpe"
    pruner: Annotated[Literal["median", "hyperband", "none"], Choice] | None = None  # None: median where there is one
    post_process: bool = False  # search the adjustment of a finished model alone: weights=<its last.pt>
    split: str = "holdout:0.1"  # of the training images, by strata; val needs on_val
    on_val: bool = False  # judge trials on val: its figures then say nothing about new images
    storage: str | None = None  # a journal file, an RDB URL or grpc://host:port; None: study.journal in the folder
    workers: Annotated[int, Field(ge=1)] = 1  # trials at a time in this process
    loader_workers: Annotated[int, Field(ge=0)] | None = None  # of each trial; None: the recipe's
    threads: Annotated[int, Field(ge=1)] | None = None  # of each trial; None: the machine's cores, shared
    device: Annotated[list[str | int] | None, BeforeValidator(_devices)] = None  # several are taken in turn
    grid_points: Annotated[int, Field(ge=2)] = 5  # values of a number in a grid
    heartbeat: Annotated[float, Field(gt=0)] = 30.0  # seconds between two signs of life
    grace: Annotated[float, Field(gt=0)] = 120.0  # seconds without one after which a trial is tried again
    keep_weights: bool = False  # leave the checkpoints of all trials
    project: str | None = None
    plots: bool = True
    verbose: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class TuneConfig(StudyKeys, TrainConfig):  # type: ignore[misc]  # the study's 'workers' and 'device' win
    """``iifdet tune``: the study's keys, and any of ``train`` for all of its trials."""


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
