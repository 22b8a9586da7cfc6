"""The one error that means "your input", not "our bug"."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any


class InputError(ValueError):
    """Bad arguments, files or data. The message is one line: expected, got, next step.

    The command line prints it and exits with code 2; anything else is a bug and shows as one. When a loader's worker
    raises it, torch makes a new one around the worker's whole traceback; the message is the last line of that.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught InputError in "):
            message = message.strip().splitlines()[-1].partition("InputError: ")[2]
        super().__init__(message)


@contextlib.contextmanager
def as_input_error(kinds: type[Exception] | tuple[type[Exception], ...] = ValueError) -> Iterator[None]:
    """What a part says of its arguments is said of the keys that they come from."""
    try:
        yield
    except kinds as error:
        raise InputError(str(error)) from error


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or the list of known words when none is near."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and whether there are more.

    Example:
        >>> some(["a", "b"]), some(["a", "b", "c", "d"])
        ('a, b', 'a, b, c, …')
    """
    listed = list(names)
    return ", ".join([*listed[:most], *(["…"] if len(listed) > most else [])])


def brief(value: Any, most: int = 80) -> str:
    """A value in a message: one line, and not much of it.

    Example:
        >>> brief("a"), brief([[1, 2], [3, 4]] * 40, 12)
        ("'a'", '[[1, 2], [3,…')
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}…"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "image"), counted(1200, "box", "boxes")
        ('1 image', '1,200 boxes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


#: How libraries that torch calls say what torch itself says with an OutOfMemoryError.
_NO_MEMORY = (
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9
    "unable to find an engine",  # torch, where none of cuDNN's got its workspace
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory has run out, whoever noticed.

    Example:
        >>> is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
        True
    """
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
