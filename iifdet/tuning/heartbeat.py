"""Whether the process that runs a trial is alive: its number on the same machine, a counter that moves elsewhere."""

from __future__ import annotations

import time

from optuna.trial import FrozenTrial

from iifdet.tuning.machine import Owner

#: Which process runs a trial, and how often it has said that it lives.
OWNER, BEAT = "iifdet:owner", "iifdet:beat"


class Watch:
    """Judges running trials.

    The counter is watched by this process's own clock, so clocks of machines need not agree. It works on every storage,
    where Optuna's own heartbeat needs a database.

    Args:
        interval: seconds between two beats of a living process.
        grace: seconds without a beat after which a process counts as dead.
    """

    def __init__(self, interval: float = 30.0, grace: float = 120.0) -> None:
        self.interval, self.grace = interval, grace
        self.me = str(Owner.current())
        self._seen: dict[int, tuple[object, float]] = {}  # trial -> its last beat, and when this process saw it first

    def why_dead(self, trial: FrozenTrial) -> str | None:
        """Why the process of a running trial counts as dead; None while it does not."""
        owner = Owner.parse(trial.system_attrs.get(OWNER))
        if owner is not None and owner.is_dead():
            return f"process {owner.pid} has ended without a word"
        beat = (trial.system_attrs.get(OWNER), trial.system_attrs.get(BEAT))
        last, since = self._seen.get(trial.number, (None, 0.0))
        now = time.monotonic()
        if last != beat:
            self._seen[trial.number] = (beat, now)
        elif now - since > self.grace:
            return f"no sign of life for {self.grace:.0f} s"
        return None
