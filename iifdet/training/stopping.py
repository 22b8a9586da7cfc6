"""Signals that end a run at a place where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from typing import Any


class GracefulStop:
    """Turns SIGINT and SIGTERM into a request that the loop honours after the step. A second one interrupts at once.

    Args:
        patient: a second one does nothing. A launcher passes on what the terminal has sent already, and kills who takes
            too long.
    """

    def __init__(self, patient: bool = False) -> None:
        self.signal = 0
        self.patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        with contextlib.suppress(ValueError):  # signals can only be caught in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.signal and not self.patient:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.signal != 0

    def leave_if_asked(self) -> None:
        """Raise what the signal asks for; call it only when everything is saved."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(143)
