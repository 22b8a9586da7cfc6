"""Which trials there are to do: read from the study's history, so that every process comes to the same answer.

A study holds its trials from the beginning, waiting; processes claim them. An attempt that dies gets a follower with
the same values. Nothing here needs a lock beyond what storages promise: a trial goes from waiting to running once, and
ends once. Where two processes add the same thing at the same moment, all agree which of both counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from iifdet.tuning.heartbeat import BEAT, OWNER, Watch
from iifdet.tuning.sampling import ROOT

log = logging.getLogger("iifdet")

#: Which follower an attempt is (1 for the first), and why an attempt ended that was no fault of its values.
ATTEMPT, DIED, REASON = "iifdet:attempt", "iifdet:died", "reason"
#: Set once an attempt has all of its values.
PROPOSED = "iifdet:proposed"
#: So many processes may die over one trial. A trial has a process of its own, so it is hardly ever to blame.
MOST_DEATHS = 10
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Lineage:
    """One trial as it counts, with its attempts, oldest first.

    Attributes:
        root: number of the first attempt.
        attempts: each but the last has died.
    """

    root: int
    attempts: tuple[FrozenTrial, ...]

    @property
    def last(self) -> FrozenTrial:
        return self.attempts[-1]

    @property
    def deaths(self) -> int:
        return sum(_died(t) and t.system_attrs[DIED] != INTERRUPTED for t in self.attempts)

    @property
    def needs_follower(self) -> bool:
        return _died(self.last) and self.deaths < MOST_DEATHS

    @property
    def is_done(self) -> bool:
        return self.last.state.is_finished() and not self.needs_follower

    @property
    def reason(self) -> str:
        """Why it failed."""
        if _died(self.last):
            return f"{self.deaths} attempts died: {self.last.system_attrs[DIED]}"
        return str(self.last.user_attrs.get(REASON, "unknown"))


def _died(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and DIED in trial.system_attrs


def lineages(trials: Sequence[FrozenTrial], target: int) -> list[Lineage]:
    """The first ``target`` trials of a history, each with the attempts at it that count."""
    followers: dict[tuple[int, int], FrozenTrial] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if ROOT in trial.system_attrs:
            followers.setdefault((trial.system_attrs[ROOT], trial.system_attrs[ATTEMPT]), trial)
    roots = sorted((t for t in trials if ROOT not in t.system_attrs), key=lambda t: t.number)
    found = []
    for root in roots[:target]:
        attempts = [root]
        while _died(attempts[-1]) and (root.number, len(attempts)) in followers:
            attempts.append(followers[root.number, len(attempts)])
        found.append(Lineage(root.number, tuple(attempts)))
    return found


@dataclass(frozen=True)
class Claim:
    """A trial that this process runs.

    Attributes:
        root: its number as it counts.
        trial: the attempt at it.
    """

    root: int
    trial: Trial


class Queue:
    """A study's trials, as seen and worked on by one process.

    Args:
        open_study: opens the study anew, so that its sampler sees what others have found meanwhile.
        storage: where it lives.
        target: how many trials are wanted in all.
        watch: judges whether the owners of running trials still live.
    """

    def __init__(self, open_study: Callable[[], Study], storage: BaseStorage, target: int, watch: Watch) -> None:
        self.open_study, self.storage, self.target, self.watch = open_study, storage, target, watch
        self.study = open_study()
        self._study_id = storage.get_study_id_from_name(self.study.study_name)

    def history(self) -> list[Lineage]:
        """All trials that count."""
        return lineages(self.storage.get_all_trials(self._study_id, deepcopy=False), self.target)

    def fill(self, points: Iterable[Mapping[str, Any]] = ()) -> None:
        """Add waiting trials up to the target; the first ones have the values of ``points``, the others a sampler's."""
        known, points = len(self.history()), list(points)
        for number in range(known, self.target):
            attrs = {"fixed_params": dict(points[number])} if number < len(points) and points[number] else {}
            self.study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=attrs))

    def claim(self) -> Claim | None:
        """Take the next waiting trial, or None where there is none."""
        for lineage in self.history():
            if lineage.last.state != TrialState.WAITING:
                continue
            trial_id = self._id(lineage.last)
            try:
                won = self.storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
            except UpdateFinishedTrialError:
                continue
            if won:
                self.storage.set_trial_system_attr(trial_id, OWNER, self.watch.me)
                self.study = self.open_study()
                return Claim(lineage.root, Trial(self.study, trial_id))
        return None

    def proposed(self, trial: Trial) -> None:
        """Note that a trial has all of its values: should it die, they go to the next attempt."""
        self.storage.set_trial_system_attr(self._id(trial), PROPOSED, True)

    def complete(self, trial: Trial, values: Sequence[float], figures: Mapping[str, Any]) -> None:
        """Note the result of a trial."""
        self._finish(trial, TrialState.COMPLETE, values=values, figures=dict(figures))

    def prune(self, trial: Trial) -> None:
        """Note that a trial was stopped early."""
        self._finish(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """Note that a trial failed by its own fault."""
        self._finish(trial, TrialState.FAIL, reason=reason)

    def put_back(self, trial: Trial, why: str = INTERRUPTED) -> None:
        """Give a running trial back, to be tried again with the same values."""
        self._bury(trial, why)

    def revive(self) -> None:
        """Put trials whose process has died back in the queue."""
        for lineage in self.history():
            if lineage.last.state == TrialState.RUNNING:
                why = self.watch.why_dead(lineage.last)
                if why:
                    log.warning("trial %d: %s; it is tried again", lineage.root, why)
                    self._bury(lineage.last, why)
        for lineage in self.history():
            if lineage.needs_follower:
                self.study.add_trial(_follower(lineage))

    def beat(self, trials: Iterable[Trial]) -> None:
        """Tell other machines that these trials are alive."""
        for trial in trials:
            trial_id = self._id(trial)
            try:
                count = self.storage.get_trial_system_attrs(trial_id).get(BEAT, 0)
                self.storage.set_trial_system_attr(trial_id, BEAT, count + 1)
            except UpdateFinishedTrialError:
                continue

    def _bury(self, trial: Trial | FrozenTrial, why: str) -> None:
        trial_id = self._id(trial)
        try:
            self.storage.set_trial_system_attr(trial_id, DIED, why)
            self.storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
        except UpdateFinishedTrialError:  # it has ended meanwhile, or another process was faster
            return

    def _finish(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None, **notes: Any) -> None:
        try:
            for name, value in notes.items():
                trial.set_user_attr(name, value)
            self.study.tell(trial.number, values, state=state)
        except (UpdateFinishedTrialError, ValueError) as error:
            if self.storage.get_trial(self._id(trial)).state == TrialState.RUNNING:
                raise
            log.warning("trial %d: its result came too late, others took it for dead (%s)", trial.number, error)

    def _id(self, trial: Trial | FrozenTrial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)


def _follower(lineage: Lineage) -> FrozenTrial:
    """The next attempt, with the values of the last one.

    Without all of them it gets none: the sampler, seeded by the trial, then proposes what it was about to propose.
    """
    died = lineage.last
    whole = PROPOSED in died.system_attrs
    kept = {k: v for k, v in died.system_attrs.items() if k not in (OWNER, BEAT, DIED)}
    attrs = {**kept, ROOT: lineage.root, ATTEMPT: len(lineage.attempts)}
    return create_trial(
        state=TrialState.WAITING,
        params=died.params if whole else {},
        distributions=died.distributions if whole else {},
        system_attrs=attrs,
    )
