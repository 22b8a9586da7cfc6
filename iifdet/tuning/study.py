"""One process's part in a study: join it, work on it, report."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

from iifdet.errors import InputError
from iifdet.rundir import RunDir
from iifdet.tuning.heartbeat import Watch
from iifdet.tuning.objective import Objective
from iifdet.tuning.process import Job, fork_server
from iifdet.tuning.queue import Lineage, Queue
from iifdet.tuning.reporting import MakeRecipe, write_page, write_tables
from iifdet.tuning.results import StudyResult, count_epochs, count_states, find_best, list_failures, trial_rows
from iifdet.tuning.sampling import PRUNERS, SAMPLERS, SeededByTrial
from iifdet.tuning.space import Space
from iifdet.tuning.worker import MakeKeys, Slot, Worker

log = logging.getLogger("iifdet")

#: Where a study notes what it is about.
DEFINITION = "iifdet"


@dataclass(frozen=True)
class StudyPlan:
    """Everything that one process needs for its part in a study.

    Attributes:
        name: of the study in the storage.
        folder: what the study leaves behind.
        storage: where the study lives, and ``where`` in words.
        about: what all processes of the study agree on, as plain values.
        space, objectives: what is searched, and what is maximised.
        sampler, pruner: names in SAMPLERS and PRUNERS.
        trials: how many are wanted in all, by all processes and earlier calls together.
        epochs: of a full trial.
        seed: of the sampler.
        job, make_keys, make_recipe: what a trial does, with which keys, and the recipe that comes of it.
        tuned_on: the images that trials are judged on, in words.
        slots: how many trials at a time in this process, and where.
        start_server: makes what trials are forked from.
        watch: how dead processes are found.
        grid_points: values of a number in a grid.
        plots: pictures at the end.
        finish: adds figures to the final result, once; None adds nothing.
    """

    name: str
    folder: Path
    storage: BaseStorage
    where: str
    about: Mapping[str, Any]
    space: Space
    objectives: tuple[Objective, ...]
    sampler: str
    pruner: str
    trials: int
    epochs: int
    seed: int
    job: Job
    make_keys: MakeKeys
    make_recipe: MakeRecipe
    tuned_on: str
    slots: Sequence[Slot]
    start_server: Callable[[], Any] = fork_server
    watch: Watch = field(default_factory=Watch)
    grid_points: int = 5
    plots: bool = True
    finish: Callable[[StudyResult], StudyResult] | None = None


def run_study(plan: StudyPlan) -> StudyResult:
    """1) join the study, or begin it 2) work until all of its trials have ended 3) leave tables, pictures and a page.

    Raises:
        InputError: the study exists and is about something else.
        KeyboardInterrupt, SystemExit: on signals, with the running trials back in the queue and the tables written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    context = plan.start_server()
    _begin(plan)
    queue = Queue(lambda: _open(plan), plan.storage, _target(plan), plan.watch)
    queue.fill(_first_points(plan))
    _announce(plan, queue)

    def write() -> None:
        _write(plan, queue.history())

    worker = Worker(queue, plan.space, context, plan.job, plan.make_keys, plan.slots, plan.folder / "logs", write)
    try:
        worker.work()
    finally:
        write()
    result = _write(plan, queue.history(), last=True)
    rows = trial_rows(queue.history(), result.objectives, plan.epochs)
    write_page(result, queue.study, rows, pictures=plan.plots)
    return result


def _begin(plan: StudyPlan) -> None:
    """Make the study unless it is there; refuse to mix two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=plan.storage,
            study_name=plan.name,
            directions=["maximize"] * len(plan.objectives),
            load_if_exists=True,
        )
        known = study.user_attrs.get(DEFINITION)
        if known is None:
            if study.get_trials(deepcopy=False):
                raise InputError(f"study: expected a study of iifdet, got another program's {plan.name}; choose a name")
            study.set_user_attr(DEFINITION, dict(plan.about))
            study.set_metric_names([o.text for o in plan.objectives])
    for key, value in plan.about.items():
        if known is not None and known.get(key) != value:
            raise InputError(
                f"study: expected {plan.name}'s own {key}, {_shorten(known.get(key))}, got {_shorten(value)}; "
                "repeat it, or choose another study="
            )


def _shorten(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def _open(plan: StudyPlan) -> Study:
    sampler = SeededByTrial(SAMPLERS[plan.sampler], plan.seed, plan.space)
    return optuna.load_study(
        study_name=plan.name, storage=plan.storage, sampler=sampler, pruner=PRUNERS[plan.pruner](plan.epochs)
    )


def _grid(plan: StudyPlan) -> list[dict[str, Any]]:
    """The points of a grid in a random order, so that any beginning of them covers the space."""
    import numpy as np

    points = plan.space.grid(plan.grid_points)
    order = np.random.default_rng(plan.seed).permutation(len(points))
    return [points[i] for i in order.tolist()]


def _first_points(plan: StudyPlan) -> list[dict[str, Any]]:
    return _grid(plan) if plan.sampler == "grid" else [plan.space.start()]


def _target(plan: StudyPlan) -> int:
    if plan.sampler != "grid":
        return plan.trials
    points = len(_grid(plan))
    if points != plan.trials:
        log.info("the grid has %d points, %d of them are tried", points, min(points, plan.trials))
    return min(points, plan.trials)


def _announce(plan: StudyPlan, queue: Queue) -> None:
    history = queue.history()
    done = sum(lineage.is_done for lineage in history)
    log.info("%s: study %s in %s", plan.folder, plan.name, plan.where)
    log.info(
        "%d of %d trials done; %d keys by %s, pruner %s, %d at a time, maximising %s on %s",
        *(done, len(history), len(plan.space.parameters), plan.sampler, plan.pruner, len(plan.slots)),
        *(", ".join(o.text for o in plan.objectives), plan.tuned_on),
    )


def _write(plan: StudyPlan, history: Sequence[Lineage], *, last: bool = False) -> StudyResult:
    names = tuple(o.text for o in plan.objectives)
    result = StudyResult(
        folder=plan.folder,
        study=plan.name,
        storage=plan.where,
        objectives=names,
        tuned_on=plan.tuned_on,
        counts=count_states(history),
        failures=list_failures(history),
        best=find_best(history, names),
        epochs=count_epochs(history, plan.epochs),
        apply=f"iifdet train model={plan.folder / 'best.yaml'}",
    )
    if last and plan.finish is not None and result.succeeded:
        result = plan.finish(result)
    write_tables(result, trial_rows(history, names, plan.epochs), plan.make_recipe)
    return result


def open_folder(project: str | None, study: str | None, name: str | None) -> tuple[RunDir, str]:
    """The folder of a study and its name: ``study`` is joined where it is, otherwise a new one is begun."""
    run = RunDir.create("tune", project, study or name, exist_ok=study is not None, key="study" if study else "name")
    return run, run.path.name if study is None else study
