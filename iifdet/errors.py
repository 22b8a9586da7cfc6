"""The one error that means "your input", not "our bug"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad arguments, files or data. The message is one line: expected, got, next step.

    The command line prints it and exits with code 2; anything else is a bug and shows as one.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or the list of known words when none is near."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
