"""Signals that end a run at a place where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from iifdet.distributed import ALONE, World


class Stopped(Exception):
    """A signal has come while something ran that may be left at once."""


class GracefulStop:
    """Turns SIGINT and SIGTERM into a request that the loop honours after the step. A second one interrupts at once.

    Args:
        world: of several processes all stop where one was asked to, and a second signal does nothing: a launcher passes
            on what the terminal has sent already, and kills who takes too long.
    """

    def __init__(self, world: World = ALONE) -> None:
        self.noted = 0  # what has come to this process, at any moment
        self.signal = 0  # what all processes have agreed on
        self.world = world
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
        if self.noted and self.world.size == 1:
            raise KeyboardInterrupt
        self.noted = self.noted or number

    @property
    def asked(self) -> bool:
        """Whether a signal has come, as of the last :meth:`agree`."""
        return self.signal != 0

    def agree(self, also: bool = False) -> bool:
        """Let a signal to one process be a signal to all. All processes call it at the same place.

        A signal that comes while they wait for one another is noted, and agreed on at the next call.

        Args:
            also: another question, asked along with it.

        Returns:
            Whether it is so on some process.
        """
        self.signal, other = self.world.largest([self.noted, also])
        return bool(other)

    def stop_if_asked(self) -> None:
        """Like :meth:`agree`, where work may be left at once, such as between two batches of a validation.

        Raises:
            Stopped: a signal has come to some process.
        """
        self.agree()
        if self.asked:
            raise Stopped

    def leave_if_asked(self) -> None:
        """Raise what the signal asks for; call it only when everything is saved."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(143)
