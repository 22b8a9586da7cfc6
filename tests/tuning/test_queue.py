"""The queue: whoever dies whenever, every trial counts once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from iifdet.tuning import Queue, Watch, lineages
from iifdet.tuning.heartbeat import BEAT, OWNER
from iifdet.tuning.machine import Owner, here
from iifdet.tuning.queue import ATTEMPT, DIED, MOST_DEATHS
from iifdet.tuning.sampling import ROOT


class Office:
    """A storage in memory and processes that work on it, as many as a test wants."""

    def __init__(self, target: int = 3, grace: float = 1e9) -> None:
        self.storage, self.target, self.grace = optuna.storages.InMemoryStorage(), target, grace
        optuna.create_study(storage=self.storage, study_name="s", direction="maximize")

    def process(self, pid: int | None = None) -> Queue:
        """A process: this one, or one with a number that no process has."""
        watch = Watch(grace=self.grace)
        if pid is not None:
            watch.me = str(Owner(here(), pid, "0"))
        return Queue(self.open_study, self.storage, self.target, watch)

    def open_study(self) -> optuna.Study:
        return optuna.load_study(study_name="s", storage=self.storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def states(self) -> list[str]:
        return [("died " if DIED in t.system_attrs else "") + t.state.name for t in self.open_study().trials]


GONE = 2**22 + 1  # above the largest process number


@pytest.fixture
def office() -> Iterator[Office]:
    yield Office()


def test_trials_wait_from_the_beginning_and_are_claimed_in_order(office: Office) -> None:
    queue = office.process()
    queue.fill([{"x": 0.25}])
    queue.fill()  # another process that joins
    assert office.states() == ["WAITING"] * 3
    claims = [queue.claim() for _ in range(4)]
    assert [c and c.root for c in claims] == [0, 1, 2, None]
    assert claims[0] is not None and claims[0].trial.suggest_float("x", 0, 1) == 0.25
    assert claims[1] is not None and claims[1].trial.suggest_float("x", 0, 1) != 0.25


def test_more_trials_are_added_to_what_there_is(office: Office) -> None:
    office.process().fill()
    office.target = 5
    office.process().fill()
    assert len(office.states()) == 5


def test_waiting_trials_beyond_the_target_are_left_alone(office: Office) -> None:
    office.process().fill()
    office.target = 2
    queue = office.process()
    assert [c and c.root for c in (queue.claim(), queue.claim(), queue.claim())] == [0, 1, None]


def test_a_dead_process_leaves_its_trial_to_the_next_with_the_same_values(office: Office) -> None:
    dead = office.process(GONE)
    dead.fill()
    lost = dead.claim()
    assert lost is not None
    value = lost.trial.suggest_float("x", 0, 1)
    dead.proposed(lost.trial)
    queue = office.process()
    queue.revive()
    again = queue.claim()
    assert again is not None and again.root == 0 and again.trial.number == 3
    assert again.trial.suggest_float("x", 0, 1) == value
    queue.complete(again.trial, [0.5], {"AP": 0.5})
    first = queue.history()[0]
    assert first.is_done and first.last.values == [0.5] and len(first.attempts) == 2


def test_a_process_that_dies_among_the_proposals_leaves_none_of_them(office: Office) -> None:
    dead = office.process(GONE)
    dead.fill()
    lost = dead.claim()
    assert lost is not None
    lost.trial.suggest_float("x", 0, 1)
    queue = office.process()
    queue.revive()
    again = queue.claim()
    assert again is not None and again.root == 0 and again.trial.params == {}


def test_the_trials_of_a_living_process_are_left_alone(office: Office) -> None:
    queue = office.process()
    queue.fill()
    queue.claim()
    office.process().revive()
    assert office.states() == ["RUNNING", "WAITING", "WAITING"]


def test_two_who_revive_the_same_trial_at_once_make_one_attempt(office: Office) -> None:
    dead = office.process(GONE)
    dead.fill()
    dead.claim()
    one, two = office.process(), office.process()
    one.revive()
    twin = next(t for t in office.open_study().trials if ROOT in t.system_attrs)
    office.open_study().add_trial(optuna.trial.create_trial(state=TrialState.WAITING, system_attrs=twin.system_attrs))
    claims = [two.claim() for _ in range(4)]
    assert [c and c.root for c in claims] == [0, 1, 2, None]
    assert [len(lineage.attempts) for lineage in one.history()] == [2, 1, 1]


def test_a_result_that_comes_after_the_obituary_does_not_count(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    slow = office.process(GONE)
    slow.fill()
    claim = slow.claim()
    assert claim is not None
    queue = office.process()
    queue.revive()
    slow.complete(claim.trial, [9.0], {})
    assert "came too late" in caplog.text
    assert [lin.last.values for lin in queue.history()] == [None] * 3


def test_a_trial_that_takes_its_processes_with_it_fails_at_last(office: Office) -> None:
    queue = office.process()
    queue.fill()
    for _ in range(MOST_DEATHS):
        dead = office.process(GONE).claim()
        assert dead is not None and dead.root == 0
        queue.revive()
    first = queue.history()[0]
    assert first.is_done and first.reason.startswith(f"{MOST_DEATHS} attempts died: process {GONE}")
    claim = queue.claim()
    assert claim is not None and claim.root == 1


def test_interruptions_are_no_deaths(office: Office) -> None:
    queue = office.process()
    queue.fill()
    for _ in range(2 * MOST_DEATHS):
        claim = queue.claim()
        assert claim is not None and claim.root == 0
        queue.put_back(claim.trial)
        queue.revive()
    assert not queue.history()[0].is_done and queue.history()[0].deaths == 0


def test_trials_that_fail_by_their_own_fault_are_not_repeated(office: Office) -> None:
    queue = office.process()
    queue.fill()
    claim = queue.claim()
    assert claim is not None
    queue.fail(claim.trial, "lr: too large")
    queue.revive()
    first = queue.history()[0]
    assert first.is_done and first.reason == "lr: too large" and len(first.attempts) == 1


def test_elsewhere_a_process_is_alive_as_long_as_its_counter_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(grace=10)
    clock = [0.0]
    monkeypatch.setattr("iifdet.tuning.heartbeat.time.monotonic", lambda: clock[0])
    far = office.process()
    far.watch.me = str(Owner("another/machine", os.getpid(), "0"))
    far.fill()
    claim, queue = far.claim(), office.process()
    assert claim is not None
    for now in (0, 8, 16, 24):
        clock[0] = now
        far.beat([claim.trial])
        queue.revive()
    assert office.states()[0] == "RUNNING"
    clock[0] = 33
    queue.revive()
    assert office.states()[0] == "RUNNING"
    clock[0] = 35
    queue.revive()
    assert office.states()[0] == "died FAIL"
    assert "no sign of life for 10 s" in office.open_study().trials[0].system_attrs[DIED]


def test_a_process_killed_between_claim_and_signature_is_found_by_its_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office, clock = Office(grace=10), [0.0]
    monkeypatch.setattr("iifdet.tuning.heartbeat.time.monotonic", lambda: clock[0])
    queue = office.process()
    queue.fill()
    office.storage.set_trial_state_values(0, state=TrialState.RUNNING)
    queue.revive()
    clock[0] = 11
    queue.revive()
    assert office.states() == ["died FAIL", "WAITING", "WAITING", "WAITING"]


def test_followers_forget_owner_and_beat_and_keep_what_samplers_noted(office: Office) -> None:
    dead = office.process(GONE)
    dead.fill()
    claim = dead.claim()
    assert claim is not None
    dead.beat([claim.trial])
    office.storage.set_trial_system_attr(0, "nsga2:generation", 4)
    office.process().revive()
    attrs = office.open_study().trials[3].system_attrs
    assert attrs == {ROOT: 0, ATTEMPT: 1, "nsga2:generation": 4} and not {OWNER, BEAT, DIED} & set(attrs)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["claim", "end", "die", "interrupt", "join"])), max_size=60)
)
def test_whatever_happens_every_trial_is_done_once(events: list[tuple[int, str]]) -> None:
    office = Office(target=4)
    office.process().fill()
    held: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    results: list[int] = []
    queues = [office.process(GONE + i) for i in range(3)]  # each counts as dead for the others as soon as they look
    for who, event in events:
        queue, mine = queues[who], held[who]
        if event == "claim" and (claim := queue.claim()) is not None:
            mine.append(claim)
        elif event == "end" and mine:
            claim = mine.pop(0)
            before = office.open_study().trials[claim.trial.number].state
            queue.complete(claim.trial, [float(claim.root)], {})
            results += [claim.root] if before == TrialState.RUNNING else []
        elif event == "die":
            held[who] = []
            office.process().revive()
        elif event == "interrupt" and mine:
            queue.put_back(mine.pop(0).trial)
        elif event == "join":
            office.process().fill()
    last = office.process()
    last.revive()
    while (claim := last.claim()) is not None:
        last.complete(claim.trial, [float(claim.root)], {})
        results.append(claim.root)
    history = last.history()
    assert all(lineage.is_done for lineage in history) and len(history) == 4
    complete = [lin.root for lin in history if lin.last.state == TrialState.COMPLETE]
    exhausted = [lin.root for lin in history if lin.deaths == MOST_DEATHS]
    assert sorted(results) == complete and sorted(complete + exhausted) == [0, 1, 2, 3]
    assert lineages(office.open_study().trials, 4) == history, "every process reads the same out of it"
