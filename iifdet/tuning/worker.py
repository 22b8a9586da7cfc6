"""Work on a study's queue: N trials at a time, each in its process, until nothing is left to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from iifdet.training.stopping import GracefulStop
from iifdet.tuning.process import Job, Outcome, TrialProcess
from iifdet.tuning.queue import Claim, Queue
from iifdet.tuning.space import Space

log = logging.getLogger("iifdet")

#: Seconds between two looks at the storage while others work.
TICK = 1.0


@dataclass(frozen=True)
class Slot:
    """Room for one trial at a time.

    Attributes:
        number: which of this process's slots.
        device: the key ``device`` of its trials.
        threads: of its CPU arithmetic.
    """

    number: int
    device: str | int | None
    threads: int


@dataclass
class Running:
    """A trial and its process."""

    root: int
    trial: Trial
    process: TrialProcess
    began: float


#: (number, searched and fixed keys, slot) -> all keys of a trial.
MakeKeys = Callable[[int, Mapping[str, Any], Slot], dict[str, Any]]


class Worker:
    """Works on a queue with the slots that it has.

    Args:
        queue: the study's trials.
        space: what is searched.
        context: a fork server.
        job: what a trial does.
        make_keys: the keys it does it with.
        slots: how many at a time, and where.
        logs: folder of what the trials say.
        changed: called after each trial that ends here.
    """

    def __init__(
        self,
        queue: Queue,
        space: Space,
        context: Any,
        job: Job,
        make_keys: MakeKeys,
        slots: Sequence[Slot],
        logs: Path,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue, self.space, self.context, self.job, self.make_keys = queue, space, context, job, make_keys
        self.free, self.logs, self.changed = list(slots), logs, changed
        self.running: dict[Slot, Running] = {}
        self._beaten = time.monotonic()

    def work(self) -> None:
        """Work until every trial of the study has ended, here or elsewhere.

        Raises:
            KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, with the running trials back in the queue.
        """
        with GracefulStop() as stop:
            try:
                while self._turn():
                    stop.agree()
                    if stop.asked:
                        break
            finally:
                for slot in list(self.running):
                    self._abandon(slot)
                self.queue.revive()
            stop.leave_if_asked()

    def _turn(self) -> bool:
        """1) bring back the dead 2) start what there is room for 3) wait 4) read. False when all is done."""
        self.queue.revive()
        while self.free and (claim := self.queue.claim()) is not None:
            self._start(claim)
        if not self.running and all(lineage.is_done for lineage in self.queue.history()):
            return False
        ready = [thing for r in self.running.values() for thing in r.process.waits_for]
        if ready:
            wait(ready, TICK)
        else:
            time.sleep(TICK / 5)
        for slot in list(self.running):
            self._read(slot)
        self._beat()
        return True

    def _start(self, claim: Claim) -> None:
        slot, trial = self.free.pop(0), claim.trial
        params = self.space.suggest(trial)
        self.queue.proposed(trial)
        keys = self.make_keys(trial.number, params, slot)
        try:
            process = TrialProcess(self.context, self.job, keys, slot.threads, self.logs / f"{trial.number:04}.log")
        except (EOFError, OSError) as error:  # the fork server has just ended, by a signal to the whole group perhaps
            self.free.append(slot)
            self.queue.put_back(trial, f"no process for it: {error}")
            return
        self.running[slot] = Running(claim.root, trial, process, time.monotonic())

    def _read(self, slot: Slot) -> None:
        """Deal with everything that a trial has said."""
        run = self.running[slot]
        while (message := run.process.read()) is not None:
            if isinstance(message, Outcome):
                self._end(slot, message)
                return
            step, value = message
            run.trial.report(value, step)
            run.process.answer(not run.trial.should_prune())

    def _end(self, slot: Slot, outcome: Outcome) -> None:
        run = self.running.pop(slot)
        self.free.append(slot)
        run.process.close()
        if outcome.kind == "complete":
            self.queue.complete(run.trial, outcome.values, outcome.figures or {})
        elif outcome.kind == "pruned":
            self.queue.prune(run.trial)
        elif outcome.kind == "lost":
            self.queue.put_back(run.trial, outcome.reason)
        else:
            self.queue.fail(run.trial, outcome.reason)
        text = ", ".join(f"{v:.4f}" for v in outcome.values) or outcome.reason
        log.info("trial %d %s %s (%.0f s)", run.root, outcome.kind, text, time.monotonic() - run.began)
        self.changed()

    def _abandon(self, slot: Slot) -> None:
        run = self.running.pop(slot)
        run.process.close()
        self.queue.put_back(run.trial)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= self.queue.watch.interval:
            self.queue.beat(r.trial for r in self.running.values())
            self._beaten = now
