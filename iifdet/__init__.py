"""iifdet: object detection on class-imbalanced data with Inverse Image Frequency.

``iifdet.train(...)``, ``.val``, ``.predict``, ``.tune``, ``.cam``, ``.export``, ``.stats``, ``.check``, ``.compare``
take the same keys as the command line; ``iifdet.load(path)`` gives the model of a checkpoint. Bad input raises
``iifdet.InputError``, whose message is one line. Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["InputError", "cam", "check", "compare", "export", "load", "predict", "stats", "train", "tune", "val"]


def __getattr__(name: str) -> Any:
    if name == "InputError":
        from iifdet.errors import InputError

        return InputError
    if name in __all__:
        from iifdet import api

        return getattr(api, name)
    raise AttributeError(f"module 'iifdet' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
