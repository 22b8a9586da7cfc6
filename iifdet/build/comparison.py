"""What a comparison needs of finished runs beside their files: the data they were evaluated on, their class rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iifdet.build.data import build_index
from iifdet.build.model import load_model
from iifdet.config import ValConfig, validate
from iifdet.datasets import DatasetIndex
from iifdet.errors import InputError


def evaluated_index(settings: dict[str, Any], data: str | None = None, *, allow_outside: bool = False) -> DatasetIndex:
    """The index of the split that a run's metrics speak of.

    Args:
        settings: the run's args.yaml. A training run evaluates on ``val``.
        data: where the data are now, if not where args.yaml says.
        allow_outside: they may name files outside their folders. What args.yaml says of it does not count: it comes
            with the run, which may be a stranger's.

    Raises:
        InputError: the data cannot be read.
    """
    keys = ("data", "max_bad", "fraction", "classes", "single_cls", "holdout", "cache_index", "seed", "predictions")
    known = {key: settings[key] for key in keys if key in settings} | ({} if data is None else {"data": data})
    known["allow_outside"] = allow_outside
    return build_index(validate(ValConfig, known), settings.get("split", "val"))


def classifier_norms(folders: list[Path]) -> list[Any]:
    """(C,) norms of the class rows of each run's last.pt; None where there is none to read."""
    found: list[Any] = []
    for folder in folders:
        try:
            found.append(load_model(folder / "weights" / "last.pt").row_norms())
        except InputError:  # a folder of `val` has no checkpoint
            found.append(None)
    return found
