"""Keys to what the loop needs: device, optimizer, schedule, options."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from iifdet.config import TrainConfig
from iifdet.detectors import Detector
from iifdet.distributed import ALONE, World
from iifdet.errors import InputError, as_input_error, counted
from iifdet.optim import AveragedWeights, Schedule, build_optimizer
from iifdet.training import FitOptions, GraphedStep, Step, TrainState, train_step

log = logging.getLogger("iifdet")


def pick_device(name: str | int | None, local_rank: int | None = None) -> torch.device:
    """``cpu``, ``cuda``, a device number, or None for the best there is.

    Args:
        local_rank: number of this process on its machine where there are several: it takes the CUDA device of it.
    """
    text = "" if name is None else str(name).strip().lower()
    if local_rank is not None:
        text = _shared_device(text, local_rank)
    if text == "":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cpu":
        return torch.device("cpu")
    number = text.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdecimal():
        raise InputError(f"device: expected cpu, cuda or a device number, got '{name}'")
    if not torch.cuda.is_available():
        raise InputError(
            f"device: expected cpu on this machine, which has no CUDA device, got '{name}'; use device=cpu"
        )
    if int(number) >= torch.cuda.device_count():
        raise InputError(f"device: expected 0…{torch.cuda.device_count() - 1}, got {number}")
    return torch.device("cuda", int(number))


def _shared_device(text: str, local_rank: int) -> str:
    if text not in ("", "cpu", "cuda"):
        raise InputError(
            f"device: expected cpu or cuda where torchrun starts several processes, got '{text}'; "
            "each takes a CUDA device of its own, and CUDA_VISIBLE_DEVICES says which there are"
        )
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "cpu" or (text == "" and not found):
        return "cpu"
    if found and local_rank >= found:
        raise InputError(
            f"device: expected a CUDA device for each process, got {found} for process {local_rank} of this machine; "
            f"use torchrun --nproc-per-node={found}, or device=cpu"
        )
    return f"cuda:{local_rank}"


@contextlib.contextmanager
def deterministic(config: TrainConfig) -> Iterator[None]:
    """Within the block, with ``deterministic``, only operations that give the same bits every time; torch refuses the
    others on CUDA. To be entered before anything is computed there.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def fastest_algorithms(config: TrainConfig, model: Any) -> Iterator[None]:
    """Within the block, without ``deterministic``, cuDNN tries its algorithms and keeps the fastest where all batches
    have one shape; it would try them again on each new one.
    """
    one_shape = not config.rect and config.multi_scale is None and model.has_fixed_shapes
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = one_shape and not config.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def build_state(config: TrainConfig, model: nn.Module, device: torch.device) -> TrainState:
    """Optimizer, scaler and average around a model that is on its device."""
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    optimizer = build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        decay_all=config.decay_all,
        scaled=scaler.is_enabled(),
    )
    average = AveragedWeights(model, config.ema) if config.ema else None
    return TrainState(model, optimizer, scaler, average)


def synchronise_batch_norms(config: TrainConfig, model: nn.Module, device: torch.device, world: World) -> Any:
    """The model with SyncBatchNorm in place of batch norms, under the same names, where ``sync_bn`` asks for it."""
    if not config.sync_bn:
        return model
    if device.type != "cuda":
        raise InputError(
            f"sync_bn: expected CUDA devices, the only ones that PyTorch's SyncBatchNorm takes, got device={device}; "
            "drop sync_bn"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if world.size > 1 else model


def placed(config: TrainConfig, model: Any, device: torch.device) -> Any:
    """The model on its device as it trains fastest there: detectors' convolutions want channels last on CUDA.

    Raises:
        InputError: ``compile`` with a detector that has nothing to compile.
    """
    model = model.to(device)
    detector = isinstance(model, Detector)
    if config.channels_last or (detector and device.type == "cuda"):
        model = model.to(memory_format=torch.channels_last)
    if detector and config.compile:
        if config.multi_scale is not None:
            raise InputError("compile: expected images of one size, got multi_scale; add multi_scale=none")
        if config.rect:
            raise InputError("compile: expected images of one size, got rect=true; add rect=false")
        with as_input_error():
            model.compile_network()
    return model


def compiled(config: TrainConfig, model: Any) -> Any:
    """What computes losses: a classifier compiled where ``compile`` asks for it, a detector as :func:`placed` left it.

    Where compiling fails, a classifier stays as it is.
    """
    if not config.compile or isinstance(model, Detector):
        return model
    torch._dynamo.config.suppress_errors = True
    return torch.compile(model, dynamic=False)


def build_step(config: TrainConfig, device: torch.device) -> Step:
    """What makes an optimizer step: with images on a CUDA device, a graph of it."""
    return GraphedStep() if config.graph and config.cache == "device" and device.type == "cuda" else train_step


def build_schedule(config: TrainConfig) -> Schedule:
    """The learning rate over the run. Steps that all lie beyond its end are a recipe's whose epochs were cut."""
    if config.schedule == "step" and config.steps and min(config.steps) >= config.epochs:
        shares = ",".join(f"{step / max(config.steps) * 0.95 * config.epochs:.3g}" for step in config.steps)
        log.warning(
            "steps: none of %s lies within %s, so the learning rate never drops; give steps=[%s] or so",
            list(config.steps),
            counted(config.epochs, "epoch"),
            shares,
        )
    return Schedule(
        config.lr,
        config.epochs,
        config.schedule,
        config.steps,
        config.gamma,
        config.final_lr,
        config.warmup_epochs,
        config.warmup_factor,
    )


def fit_options(config: TrainConfig, device: torch.device, world: World = ALONE) -> FitOptions:
    """The loop's own keys."""
    names = [f.name for f in fields(FitOptions) if f.name not in ("device", "world")]
    options = FitOptions(device=device, world=world, **{name: getattr(config, name) for name in names})
    return replace(options, multi_scale=None) if config.rect else options  # build_mixing says so
