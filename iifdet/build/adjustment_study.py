"""Keys to a study of the adjustment alone: the network runs once over each split, and trials take seconds."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from iifdet.build.adjustment import set_adjustment
from iifdet.build.adjustment_tasks import ADJUSTMENT_TASKS
from iifdet.build.data import build_evaluator, build_index, build_val_batches, refuse_keys_in_val, split_name
from iifdet.build.loop import pick_device
from iifdet.build.model import is_foreign, load_model, postprocess_options
from iifdet.build.study_keys import parse_objectives, read_space
from iifdet.build.tuning import (
    PRELOAD,
    blank_metrics,
    build_slots,
    choose_pruner,
    describe,
    fit_space,
    open_study_storage,
    to_recipe,
)
from iifdet.checkpoint import read_checkpoint
from iifdet.config import ValConfig, WeightKeys, resolve, validate
from iifdet.config.tuning import StudyKeys, parse_split, read_study
from iifdet.detectors import Detector
from iifdet.errors import InputError, suggest
from iifdet.exporting import is_exported
from iifdet.models import MODELS
from iifdet.rundir import RunDir
from iifdet.training import AMP_TYPES
from iifdet.tuning import (
    Found,
    Objective,
    Report,
    Space,
    StudyPlan,
    StudyResult,
    Watch,
    check_objectives,
    describe_storage,
    flatten,
    fork_server,
    values_of,
)

log = logging.getLogger("iifdet")

#: What may be searched.
SEARCHED = {"adjust", *WeightKeys.model_fields}
#: What val figures are compared with: the paper's choice, and no adjustment.
REFERENCES: dict[str, dict[str, Any]] = {
    "no adjustment": {"adjust": "none"},
    "IIF smooth, the paper's": {"adjust": "iif"},
    "IIF smooth with mean 1": {"adjust": "iif", "temperature": "mean"},
}


@dataclass(frozen=True)
class Judge:
    """Scores adjustments of a model on raw outputs; the same numbers as ``iifdet val`` gives.

    Attributes:
        task: of the model.
        keys: those of ``val``, without an adjustment.
        cache: file of the raw outputs.
        objectives: what the study maximises.
    """

    task: str
    keys: dict[str, Any]
    cache: Path
    objectives: tuple[Objective, ...]

    def __call__(self, keys: dict[str, Any], report: Report) -> tuple[list[float], dict[str, Any]]:
        task = ADJUSTMENT_TASKS[self.task]
        figures = self.figures(keys, task.cache.load(self.cache))
        return values_of(self.objectives, figures), {name: figures[name] for name in task.figures}

    def figures(self, keys: Mapping[str, Any], cache: Any) -> dict[str, float | None]:
        """All numbers of an evaluation under one adjustment, by name."""
        config = validate(ValConfig, {**self.keys, **keys})
        model = _load(config)
        set_adjustment(model, config, config.adjust or "none", strategy="post_process")
        index = build_index(config, config.split, self.task)
        evaluator = build_evaluator(config, index, self.task, activation=model.class_activation)
        with torch.inference_mode():
            for raw, batch in cache.batches(config.batch):
                evaluator.update(ADJUSTMENT_TASKS[self.task].outputs(model, raw), batch)
        return flatten(evaluator.compute().metrics(model.counts, groups=config.group_limits))


def build_adjustment_study(keys: Mapping[str, Any]) -> StudyPlan:
    """A study of the adjustment of a finished model.

    Raises:
        InputError: bad keys, weights, space, objective, data or storage, before the network runs.
    """
    asked = _read(keys)
    study, config = asked.study, asked.config
    objectives = parse_objectives(study, asked.kind)
    model = _load(config)
    space, content = _space_for(asked, model)
    choose_pruner(study, space, objectives)
    slots = [replace(slot, device="cpu") for slot in build_slots(study)]
    index = _index_for(asked, model)
    check_objectives(objectives, flatten(blank_metrics(config, model.counts, index, asked.kind)))
    folder, name, storage = open_study_storage(study, asked.name)
    judge = Judge(asked.kind, config.model_dump(mode="json"), folder / "raw.pt", objectives)
    if not judge.cache.is_file():
        _collect(model, config, index, study, asked.kind).save(judge.cache)

    def make_recipe(found: Found) -> dict[str, Any]:
        tuned = {"study": name, "trial": found.number, "on": asked.on, "weights": str(config.weights), **found.values}
        how = {"strategy": "post_process" if found.params.get("adjust") != "none" else "end_to_end"}
        return to_recipe({**asked.recipe, **space.fixed, **found.params, **how, "holdout": 0.0}, tuned)

    return StudyPlan(
        name=name,
        folder=folder,
        storage=storage,
        where=describe_storage(study.storage, folder / "study.journal"),
        about={**describe(study, asked.base, content, objectives), "weights": _digest(Path(str(config.weights)))},
        space=space,
        objectives=objectives,
        sampler=study.sampler,
        pruner="none",
        trials=study.trials,
        epochs=0,
        seed=study.seed,
        job=judge,
        make_keys=lambda number, params, slot: dict(params),
        make_recipe=make_recipe,
        tuned_on=f"{len(index)} training images held out ({asked.on})" if config.holdout else asked.on,
        slots=slots,
        start_server=partial(fork_server, PRELOAD),
        watch=Watch(study.heartbeat, study.grace),
        grid_points=study.grid_points,
        plots=study.plots,
        finish=_reporter(judge, config, model, study, space),
    )


@dataclass(frozen=True)
class _Asked:
    """What the keys ask for.

    Attributes:
        study: how to search.
        name: of the study, where one is given.
        base: the other keys, as given.
        recipe: the keys that the model was trained with.
        kind: the model's task.
        config: of ``val`` on what adjustments are judged on; ``holdout`` is 0 where that is val itself.
        on: what that is called.
    """

    study: StudyKeys
    name: str | None
    base: dict[str, Any]
    recipe: dict[str, Any]
    kind: str
    config: ValConfig
    on: str

    @property
    def unseen(self) -> bool:
        """Whether the model was not trained on the images that adjustments are judged on."""
        task, config = ADJUSTMENT_TASKS[self.kind], self.config
        same = all(self.recipe.get(k) == getattr(config, k) for k in task.same_images)
        return not config.holdout or (same and task.left_out(self.recipe) == config.holdout)


def _read(keys: Mapping[str, Any]) -> _Asked:
    study, given = read_study(keys)
    (recipe, kind), base = _about(given), dict(given)
    task = ADJUSTMENT_TASKS[kind]
    refuse_keys_in_val(base, kind)
    name = base.pop("name", None)
    left_out = task.left_out({**recipe, **{k: base[k] for k in task.of_recipe if k in base}})
    split = study if "split" in keys or not left_out else _same_holdout(study, left_out)
    own = {k: recipe[k] for k in task.of_recipe if k in recipe}
    chosen = {"holdout": parse_split(split), "split": "val"}
    config = resolve(ValConfig, {"verbose": False, "plots": False, **own, **base, **chosen})
    on = split.split if config.holdout else split_name(config, "val", kind)
    return _Asked(study, name, base, recipe, kind, config, on)


def _space_for(asked: _Asked, model: Any) -> tuple[Space, dict[str, Any]]:
    """The space, as far as the model knows its keys, and the content of its file."""
    space, content = read_space(asked.study.space or "tune/post_process")
    space = fit_space(space, model)
    _check_space(space, asked.config.model_dump())
    return space, content


def _index_for(asked: _Asked, model: Any) -> Any:
    """The images that adjustments are judged on; a line says where the model has seen them."""
    index = build_index(asked.config, "val", asked.kind)
    if list(index.names) != list(model.names):
        data = asked.config.data
        raise InputError(f"data: expected the checkpoint's {len(model.names)} classes, got others in {data}")
    if not asked.unseen:
        _say_what_was_seen(asked.config.holdout)
    return index


def _about(base: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The keys that a checkpoint was trained with, and its model's task."""
    weights = base.get("weights")
    if not weights or is_foreign(weights):
        raise InputError(f"weights: expected a checkpoint for post_process, got {weights}; give weights=<its last.pt>")
    if is_exported(weights):
        raise InputError(f"weights: expected a checkpoint, got {weights}, whose rows carry an adjustment; give its .pt")
    content = read_checkpoint(weights)
    return dict(content["recipe"] or {}), MODELS[content["model"]["name"]].task


def _digest(file: Path) -> str:
    """Which weights these are: another file under the same name must not go on with the study."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _same_holdout(study: StudyKeys, share: float) -> StudyKeys:
    """The images that the model's own run held out."""
    return study if study.on_val else study.model_copy(update={"split": f"holdout:{share}"})


def _say_what_was_seen(share: float) -> None:
    log.warning(
        "the model was trained on the images that adjustments are judged on: its scores of them are surer than on "
        "new ones; train it with holdout=%g for a fair choice",
        share,
    )


def _load(config: ValConfig) -> Any:
    assert config.weights is not None
    model = load_model(config.weights)
    if model.counts is None:
        raise InputError(f"weights: expected training counts in the checkpoint, got none in {config.weights}")
    if isinstance(model, Detector):
        model.options = postprocess_options(config, model.options)
    return model


def _check_space(space: Space, keys: Mapping[str, Any]) -> None:
    for name in (*space.fixed, *(p.name for p in space.parameters)):
        if name not in SEARCHED:
            raise InputError(f"space: unknown key '{name}' of an adjustment{suggest(name, SEARCHED)}")
    for parameter in space.parameters:
        for value in parameter.edges():
            try:
                validate(ValConfig, {**keys, **space.fixed, parameter.name: value})
            except InputError as error:
                raise InputError(f"space: {parameter.name}={value}: {error}") from error


def _collect(model: Any, config: ValConfig, index: Any, study: StudyKeys, task: str) -> Any:
    where = pick_device(study.device[0] if study.device else None)
    batches = build_val_batches(config, config, index, task)
    log.info("running %s once over %d images", config.weights, len(index))
    return ADJUSTMENT_TASKS[task].cache.collect(model.to(where), batches, where, AMP_TYPES[config.amp])


def _reporter(
    judge: Judge, config: ValConfig, model: Any, study: StudyKeys, space: Space
) -> Callable[[StudyResult], StudyResult]:
    """Takes the figures of val once, for the best trial and for what it is compared with."""

    def report(result: StudyResult) -> StudyResult:
        best = {**space.fixed, **result.best[0].params}
        apply = f"iifdet val weights={config.weights} " + " ".join(f"{k}={v}" for k, v in best.items())
        on_val = validate(ValConfig, {**config.model_dump(), "holdout": 0.0, "split": "val"})
        result = replace(result, apply=apply, reported=split_name(on_val, "val", judge.task))
        file, wanted = result.folder / "val.json", {**REFERENCES, f"trial {result.best[0].number}": best}
        if file.is_file():
            known = json.loads(file.read_text())
            if list(known) == list(wanted):
                return replace(result, val=known)
        cache = _collect(model, on_val, build_index(on_val, "val", judge.task), study, judge.task)
        final = replace(judge, keys=on_val.model_dump(mode="json"))
        figures = {name: final.figures(keys, cache) for name, keys in wanted.items()}
        val = {name: {k: found[k] for k in ADJUSTMENT_TASKS[judge.task].figures} for name, found in figures.items()}
        RunDir(result.folder).write_json("val.json", val)
        return replace(result, val=val)

    return report
