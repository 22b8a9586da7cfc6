"""Signals that end a run at a place where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from torch import nn


class Stopped(Exception):
    """A signal has come while something ran that may be left at once."""


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

    @contextlib.contextmanager
    def between_batches(self, model: nn.Module) -> Iterator[None]:
        """A block in which a signal stops whatever calls ``model``, before its next call.

        Raises:
            Stopped: a signal has come. Several processes do not stop here: the others would wait for this one.
        """

        def look(*_: object) -> None:
            if self.signal:
                raise Stopped

        handle = None if self.patient else model.register_forward_pre_hook(look)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()

    def leave_if_asked(self) -> None:
        """Raise what the signal asks for; call it only when everything is saved."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(143)
