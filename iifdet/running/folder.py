"""The folder of a run and the lock on it, for one process or several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from iifdet.config import ValConfig
from iifdet.distributed import World
from iifdet.errors import InputError
from iifdet.rundir import Onlooker, RunDir


def open_run(world: World, make: Callable[[], RunDir]) -> tuple[RunDir, AbstractContextManager[Any]]:
    """A run folder and the lock on it: held by the main process, which alone writes there; the others may read.

    Where nothing was written before the lock is let go of, the folder goes with it.
    """
    lock = ExitStack()

    def hold() -> Path:
        run = make()
        lock.callback(_remove_if_empty, run.path)
        lock.enter_context(run.lock())
        return run.path

    path = world.on_main(hold)
    if not world.is_main and not path.is_dir():
        raise InputError(
            f"project: expected a folder that all machines see, got {path.absolute()}; choose a shared one"
        )
    return (RunDir if world.is_main else Onlooker)(path), lock


def validation_folder(cfg: ValConfig) -> RunDir:
    """The folder of a validation.

    Raises:
        InputError: it can not be made, or holds a training, whose figures have the same names.
    """
    run = RunDir.create("val", cfg.project, cfg.name, cfg.exist_ok)
    if run.last.parent.is_dir():
        raise InputError(f"exist_ok: expected the folder of a validation, got the training {run.path}; give name=")
    return run


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
