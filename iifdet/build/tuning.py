"""Keys to a study of full trials: everything that can be refused is refused before the first training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iifdet.build.data import build_evaluator, build_index, split_name
from iifdet.build.loop import pick_device
from iifdet.build.study_keys import OWN, check_space, parse_objectives, read_space
from iifdet.config import InferenceKeys, TrainConfig, resolve
from iifdet.config.tuning import StudyKeys, parse_split, read_study
from iifdet.detectors import DETECTORS, Detector
from iifdet.errors import InputError
from iifdet.evaluation import EVALUATORS
from iifdet.longtail import ClassCounts
from iifdet.models import MODELS, create_model
from iifdet.tuning import (
    Found,
    Objective,
    Slot,
    Space,
    StudyPlan,
    TrainJob,
    Watch,
    check_choice,
    check_objectives,
    describe_storage,
    flatten,
    fork_server,
    open_folder,
    open_storage,
)
from iifdet.types import Batch, Detection, ImageInfo

log = logging.getLogger("iifdet")

#: What trials find imported: everything that a training needs.
PRELOAD = ("torch", "cv2", "hotcoco", "iifdet.api", "iifdet.tuning")


def build_study(keys: Mapping[str, Any], train: Callable[..., Any]) -> StudyPlan:
    """A study of whole trainings.

    Args:
        keys: those of ``iifdet tune``.
        train: ``iifdet.train``, importable by name in another process.

    Raises:
        InputError: bad keys, space, objective, data or storage, before anything is written.
    """
    study, base = read_study(keys)
    base["seed"] = study.seed
    share = parse_split(study)
    space, content = read_space(study.space)
    check_space(space, base)
    config = resolve(TrainConfig, {**base, **space.fixed, "holdout": share})
    space = fit_space(space, _build_edges(config, {**base, **space.fixed}, space))
    task = MODELS[config.model].task
    objectives = parse_objectives(study, task)
    slots = build_slots(study)
    index, val_index = build_index(config, "train", task), build_index(config, "val", task)
    blank = blank_metrics(config, index.counts(), val_index, task)
    check_objectives(objectives, flatten(blank))
    pruner = choose_pruner(study, space, objectives, EVALUATORS[task].summary(blank))
    about = describe(study, base, content, objectives)
    tuned_on = (
        split_name(config, "val", task) if not share else f"{len(val_index)} training images held out ({study.split})"
    )
    folder, name, storage = open_study_storage(study, base.get("name"))
    where = describe_storage(study.storage, folder / "study.journal")
    always = {"plots": False, "verbose": False, "exist_ok": True, "project": str(folder / "trials"), "holdout": share}
    if study.loader_workers is not None:
        always["workers"] = study.loader_workers
    base.pop("name", None)

    def make_keys(number: int, params: Mapping[str, Any], slot: Slot) -> dict[str, Any]:
        return {**base, **params, **always, "name": f"{number:04}", "device": slot.device}

    def make_recipe(found: Found) -> dict[str, Any]:
        tuned = {"study": name, "trial": found.number, "on": "val" if not share else study.split, **found.values}
        return to_recipe({**base, **space.fixed, **found.params}, tuned)

    return StudyPlan(
        name=name,
        folder=folder,
        storage=storage,
        where=where,
        about=about,
        space=space,
        objectives=objectives,
        sampler=study.sampler,
        pruner=pruner,
        trials=study.trials,
        epochs=config.epochs,
        seed=study.seed,
        job=TrainJob(train, objectives, pruner != "none", study.keep_weights),
        make_keys=make_keys,
        make_recipe=make_recipe,
        tuned_on=tuned_on,
        slots=slots,
        start_server=partial(fork_server, (*PRELOAD, "albumentations") if config.augment == "paper" else PRELOAD),
        watch=Watch(study.heartbeat, study.grace),
        grid_points=study.grid_points,
        plots=study.plots,
    )


def describe(
    study: StudyKeys, base: Mapping[str, Any], content: Mapping[str, Any], objectives: tuple[Objective, ...]
) -> dict[str, Any]:
    """What all processes of a study agree on, as plain values."""
    return {
        "keys": {k: v for k, v in base.items() if k not in OWN},
        "space": dict(content),
        "objective": [o.text for o in objectives],
        "split": "val" if study.on_val else study.split,
        "sampler": study.sampler,
        "post_process": study.post_process,
    }


def open_study_storage(study: StudyKeys, name: str | None) -> tuple[Path, str, Any]:
    """Folder, name and storage of a study; a storage of its own is tried before the folder is made."""
    storage = open_storage(study.storage, Path()) if study.storage else None
    run, name = open_folder(study.project, study.study, name)
    return run.path, name, storage or open_storage(None, run.path / "study.journal")


def choose_pruner(
    study: StudyKeys, space: Space, objectives: tuple[Objective, ...], each_time: Collection[str] = ()
) -> str:
    """The pruner, which needs one objective that is measured in every validation.

    Args:
        each_time: names of what is.
    """
    each_epoch = all(name in each_time for o in objectives for name in o.weights)
    possible = len(objectives) == 1 and each_epoch and not study.post_process
    pruner = study.pruner or ("median" if possible else "none")
    check_choice(study.sampler, pruner, space, len(objectives))
    if pruner != "none" and not possible:
        raise InputError(f"pruner: expected none, since {objectives[0].text} is known at the end alone, got {pruner}")
    return pruner


def build_slots(study: StudyKeys) -> list[Slot]:
    """Room for ``workers`` trials; CUDA devices and threads are shared out."""
    devices: list[str | int | None] = list(study.device or [])
    if not devices:
        devices = list(range(torch.cuda.device_count())) or [None]
    for device in devices:
        pick_device(device)
    threads = study.threads or max(1, torch.get_num_threads() // study.workers)
    return [Slot(n, devices[n % len(devices)], threads) for n in range(study.workers)]


def blank_metrics(config: InferenceKeys, counts: ClassCounts, index: Any, task: str) -> dict[str, Any]:
    """The metrics of a model that finds nothing: their names, and which of them are null on this split."""
    evaluator = build_evaluator(config, index, task)
    evaluator.update(*NOTHING[task](index))
    metrics: dict[str, Any] = evaluator.compute().metrics(counts, groups=config.group_limits)
    return metrics


def _no_detections(index: Any) -> tuple[Any, Batch]:
    rows = zip(index.image_ids.tolist(), index.files, index.sizes.tolist(), strict=True)
    infos = [ImageInfo(i, row, file, (h, w)) for row, (i, file, (h, w)) in enumerate(rows)]
    nothing = Detection(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0))
    return [nothing] * len(infos), Batch([], [], infos)


def _even_logits(index: Any) -> tuple[Any, Batch]:
    return torch.zeros(len(index), len(index.names)), Batch([], torch.from_numpy(index.labels), [])


#: task -> (index) -> outputs that say nothing about any image, and the batch that they are of.
NOTHING: dict[str, Callable[[Any], tuple[Any, Batch]]] = {"detect": _no_detections, "classify": _even_logits}


def to_recipe(keys: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that ``train`` takes: what differs from its defaults, and where it comes from."""
    config = resolve(TrainConfig, dict(keys))
    default = TrainConfig()
    values = config.model_dump(mode="json")
    own = {k: v for k, v in values.items() if k not in OWN and getattr(config, k) != getattr(default, k)}
    return {"model": config.model, **own, "tuned": dict(tuned)}


def fit_space(space: Space, model: nn.Module) -> Space:
    """The space without the background's keys where a model has no background logit, and without the ways to count for
    classifiers, whose images show one object each.
    """
    if not isinstance(model, Detector):
        space = _without(space, {"by", "normalizer"}, "an image of a classifier counts once, however it is counted")
    reason = model.why_no_background() if isinstance(model, Detector) else "classifiers have no background logit"
    return _without(space, {"bg_scale", "bg_shift"}, reason).without_choice("center", "bg") if reason else space


def _without(space: Space, names: set[str], reason: str) -> Space:
    """The space without these keys, as far as it has them, and a word about it."""
    searched = {p.name for p in space.parameters} & names
    if not searched:
        return space
    log.info("%s: not searched, since %s", " and ".join(sorted(searched)), reason)
    return space.without(searched, reason)


def _build_edges(config: TrainConfig, keys: Mapping[str, Any], space: Space) -> nn.Module:
    """The model, after those with the ends of what is searched in it: options that it does not know end here."""
    searched = [p for p in space.parameters if p.name == "model" or p.name.startswith("model_args.")]
    edges = [resolve(TrainConfig, {**keys, p.name: value}) for p in searched for value in p.edges()]
    for edge in [*edges, config]:
        with torch.device("meta" if edge.model in DETECTORS else "cpu"):  # without memory, where a model can be so
            model: nn.Module = create_model(edge.model, 2, **edge.model_args)
    return model
