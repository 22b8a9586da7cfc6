"""What a study searches and maximises, checked before its first training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iifdet.build.data import refuse_keys_in_training
from iifdet.config import TrainConfig, read_yaml, resolve
from iifdet.config.tuning import StudyKeys
from iifdet.errors import InputError, suggest
from iifdet.models import MODELS
from iifdet.resources import resource_names, resource_path
from iifdet.tuning import Objective, Space, parse_objective, parse_space

#: Keys that all trials of a study share: without them their figures could not be compared, or they are the study's own.
SHARED = ("data", "classes", "single_cls", "holdout", "fraction", "group_limits", "engine")
#: task -> what a study maximises where nothing else is asked for: what picks the best epoch of a training.
OBJECTIVES = {"detect": "AP", "classify": "mean_class"}
OWN = ("project", "name", "exist_ok", "resume", "plots", "verbose", "tensorboard", "device", "workers", "tuned")


def parse_objectives(study: StudyKeys, task: str) -> tuple[Objective, ...]:
    """What is maximised.

    Raises:
        InputError: not a metric or sum, or one of them twice.
    """
    texts = study.objective or [OBJECTIVES[task]]
    objectives = tuple(parse_objective(text) for text in texts)
    if len({o.text for o in objectives}) < len(objectives):
        raise InputError(f"objective: expected different ones, got {', '.join(texts)}")
    return objectives


def read_space(name: str | None) -> tuple[Space, dict[str, Any]]:
    """A space and the content of its file.

    Raises:
        InputError: no such file, or something in it that makes no space.
    """
    known = [n for n in resource_names("cfg") if n.startswith("tune/")]
    if name is None:
        raise InputError(f"space: expected a YAML file, got none; give space=file.yaml, or one of {', '.join(known)}")
    path: Path | None = Path(name)
    if not Path(name).is_file():
        path = resource_path("cfg", f"tune/{name.removeprefix('cfg/').removeprefix('tune/')}")
    if path is None:
        raise InputError(f"space: expected a YAML file, got {name}{suggest(name, known)}")
    content = read_yaml(path, "space")
    return parse_space(content), content


def check_space(space: Space, base: Mapping[str, Any]) -> None:
    """Try the ends of each range and every choice on the keys of a training, before there is one.

    Raises:
        InputError: an unknown key, one that belongs to the study, or a value that ``train`` refuses.
    """
    for key in (*space.fixed, *(p.name for p in space.parameters)):
        head = key.partition(".")[0]
        if head in (*SHARED, *OWN):
            raise InputError(f"space: expected a key that trials may differ in, got {key}; give it beside the space")
        if key in base:
            raise InputError(f"{key}: expected it once, got it in the space and beside it; drop one")
        if head not in TrainConfig.model_fields:
            raise InputError(f"space: unknown key '{key}'{suggest(head, TrainConfig.model_fields)}")
    for parameter in space.parameters:
        for value in parameter.edges():
            try:
                config = resolve(TrainConfig, {**base, **space.fixed, parameter.name: value})
                if config.model in MODELS:
                    refuse_keys_in_training(config, MODELS[config.model].task)
            except InputError as error:
                raise InputError(f"space: {parameter.name}={value}: {error}") from error
