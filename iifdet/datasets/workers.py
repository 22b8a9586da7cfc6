"""Loaders with workers of one thread each, and whole batches shared out among processes."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from iifdet.datasets.samplers import Shard

# Workers wait for the disk as well: two on one core are no mistake, and it is the default of ours that is meant.
warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)


def worker_loader(
    dataset: Dataset[Any],
    order: dict[str, Any],
    collate: Callable[[Any], Any],
    *,
    workers: int,
    seed: int,
    pin_memory: bool,
    shard: tuple[int, int] | None = None,
) -> DataLoader[Any]:
    """A DataLoader whose batches depend on ``order`` alone, however many workers make them.

    Args:
        order: DataLoader's ``batch_sampler``, or ``sampler``, ``batch_size`` and ``drop_last``.
        seed: of what workers might draw.
        shard: (rank, world_size) where each whole batch is one process's.
    """
    if shard is not None:
        whole: Any = order["batch_sampler"] if "batch_sampler" in order else BatchSampler(**order)
        order = {"batch_sampler": Shard(whole, *shard)}
    return DataLoader(
        dataset,
        **order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        # Iterating draws a base seed from the global generator, which would tie the run's other draws to the loader.
        generator=torch.Generator().manual_seed(seed & 0xFFFFFFFF),
    )


def _start_worker(worker: int) -> None:
    """One thread a worker: more would fight the other workers for the same cores.

    A launcher, a scheduler or a terminal signals the whole process group. The run saves then, for which it needs its
    workers a little longer: it ends them itself. A second SIGTERM is obeyed, so that a worker that hangs can be ended.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
