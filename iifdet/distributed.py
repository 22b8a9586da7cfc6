"""One process or several: who this one is, and what all of them have to agree on.

``World`` is a process alone: each of its methods gives back what it was given, so that nobody else has to ask.
``Processes`` is one of several that ``torchrun`` started. They talk through gloo about values on the CPU (whether to
go on, losses, detections) and through NCCL about gradients on CUDA.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from iifdet.errors import InputError

log = logging.getLogger("iifdet")
T = TypeVar("T")

#: How long a process waits for the others: as long as one may be busy alone, with demo data or a large evaluation.
PATIENCE = timedelta(minutes=30)


class World:
    """A process alone.

    Attributes:
        rank, size: which process this is, and of how many.
        local_rank: which of those on its own machine; CUDA devices go by it.
    """

    rank, size, local_rank = 0, 1, 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, draws and speaks."""
        return self.rank == 0

    def largest(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over the processes, on all of them."""
        return list(values)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over the processes, on all of them."""
        return list(values)

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, on the main one; nothing elsewhere."""
        return [value]

    def share(self, value: T) -> list[T]:
        """The values of all processes by rank, on all of them."""
        return [value]

    def broadcast(self, value: T) -> T:
        """The main process's value, on all of them."""
        return value

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors in place by their mean over the processes."""

    def wrap(self, model: nn.Module, accumulate: int = 1) -> nn.Module:
        """What training calls in place of ``model``, so that gradients become the mean over the processes."""
        return model

    def keeping_gradients(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """A block whose backward passes add to the gradients of this process alone."""
        return contextlib.nullcontext()

    def own_generators(self, seed: int) -> None:
        """Let the generators of this process draw what no other one's do, from here on."""

    # -- made of these -----------------------------------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Whether it is so on some process."""
        return bool(self.largest([int(flag)])[0])

    def first(self, text: str | None) -> str | None:
        """What the first process that has something to say says, on all of them."""
        if not self.any(text is not None):
            return None
        return next(said for said in self.share(text) if said is not None)

    @contextlib.contextmanager
    def one_a_machine_first(self) -> Iterator[None]:
        """A block that one process of each machine goes through before the others: it fills caches, they find them."""
        if self.local_rank:
            self.barrier()
        try:
            yield
        finally:  # who fails lets the others see for themselves
            if not self.local_rank:
                self.barrier()

    def on_main(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on the main process, on all of them.

        Raises:
            InputError: from ``make``; the other processes then leave without a word.
        """
        made: Any = None
        error: InputError | None = None
        if self.is_main:
            try:
                made = make()
            except InputError as caught:
                error = caught
        made, failed = self.broadcast((made, error is not None))
        if error is not None:
            raise error
        if failed:
            raise SystemExit(2)
        return made


#: The neutral object.
ALONE = World()


class Processes(World):
    """One of several processes. Every method waits for all of them."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))

    def largest(self, values: Sequence[int]) -> list[int]:
        together = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(together, dist.ReduceOp.MAX)
        return together.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        together = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(together)
        return (together / self.size).tolist()

    def gather(self, value: T) -> list[T]:
        found: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, found)
        return found or []

    def share(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: T) -> T:
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def barrier(self) -> None:
        dist.all_reduce(torch.zeros(1))  # dist.barrier would go through NCCL where there is one

    @torch.no_grad()
    def average_(self, tensors: Iterable[Tensor]) -> None:
        parts = list(tensors)
        if not parts:
            return
        together = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(together)
        means = (together / self.size).split([part.numel() for part in parts])
        torch._foreach_copy_(parts, [mean.view_as(part) for mean, part in zip(means, parts, strict=True)])

    def wrap(self, model: nn.Module, accumulate: int = 1) -> nn.Module:
        """DistributedDataParallel.

        Buffers are not broadcast: those that training moves are averaged once a step (:func:`running_statistics`), and
        the others are the same everywhere. Every trained parameter of every detector takes part in every batch, one
        without boxes too, so unused ones need not be searched for, and the graph is static. Only with accumulation
        that is not said: of a static graph PyTorch would reduce the very first backward pass, which is not the one.

        ``device_ids`` are not named, on CUDA neither: DDP would copy what it is called with to the device, boxes and
        labels among it, which are checked on the CPU first so that nothing waits.
        """
        with (
            warnings.catch_warnings()
        ):  # the new name of broadcast_buffers does not do the same, and old versions lack it
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                model,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=accumulate == 1,
            )

    def keeping_gradients(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        return wrapped.no_sync()  # type: ignore[operator]

    def own_generators(self, seed: int) -> None:
        if self.rank:  # the main process goes on as it would alone
            torch.manual_seed((seed + self.rank * 0x9E3779B97F4A7C15) % 2**63)


def running_statistics(model: nn.Module) -> Iterator[Tensor]:
    """What each process adds up of its own batches: means and variances that batch norms in train mode keep, buffers
    that a module names as ``running``, and the gradients of classes that some losses count.

    SyncBatchNorm's are those of all processes' batches already.
    """
    for module in model.modules():
        own = isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        if own and module.training and module.running_mean is not None and module.running_var is not None:
            yield cast(Tensor, module.running_mean)
            yield cast(Tensor, module.running_var)
        if module.training:
            yield from (getattr(module, name) for name in getattr(module, "running", ()))
    statistic = getattr(model, "class_statistic", None)
    if statistic is not None and statistic.ndim > 1:  # their ratio is asked for: the mean does as well as the sum
        yield statistic


def launched() -> int | None:
    """This process's number on its machine, where a launcher started several; None where it is alone."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    return int(os.environ.get("LOCAL_RANK", 0)) if several else None


def made_current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """CUDA's current device while this lasts; nothing on the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Meet the other processes that ``torchrun`` started; a process alone meets nobody.

    The device is the current one meanwhile: recordings and figures of memory are of that one.
    A group that the caller has set up, for CPU tensors too (gloo), is used and left as it is. After an error nobody is
    waited for: the process ends, and with it the others, whose next word to it fails.

    Args:
        device: of this process; on CUDA gradients go through NCCL.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes() if dist.get_world_size() > 1 else ALONE
        return
    if launched() is None:
        with made_current(device):
            yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RuntimeError("another process of this run has ended; its own lines say why") from error
        raise
    dist.destroy_process_group()
