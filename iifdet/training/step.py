"""One optimizer step: 1) forward and backward over its batches, in pieces that fit 2) read losses and gradient norm,
and refuse what is not finite 3) clip, step, average. Of several processes each has batches of its own, and all make the
step or none does.

The device is waited for once a step, when everything of 1) stands in its queue (with fp16 the scaler asks again)."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iifdet.distributed import World, running_statistics
from iifdet.errors import InputError, is_out_of_memory
from iifdet.training.multiscale import rescale, scale_of
from iifdet.training.options import AMP_TYPES, FitOptions
from iifdet.training.pieces import Undo, pieces_of
from iifdet.training.prefetch import to_device
from iifdet.training.state import TrainState
from iifdet.types import Batch

log = logging.getLogger("iifdet")


@dataclass(frozen=True)
class Losses:
    """What the batches of one step gave this process, once the device has been asked.

    Attributes:
        sums: sum over the batches of each named loss.
        norm: of the gradient; None where there is none, or where the scaler looks after it.
        fault: why the step must not be made; None where it may.
    """

    sums: dict[str, float]
    norm: float | None
    fault: str | None = None


@dataclass(frozen=True)
class Piece:
    """A piece of a step's batches whose losses are still on the device.

    Attributes:
        number: of its batch in the epoch.
        files: its images.
        weight: what it counts in the step.
        losses: by name, and their sum as ``whole``.
    """

    number: int
    files: Sequence[str]
    weight: float
    losses: dict[str, Tensor]
    whole: Tensor


def train_step(state: TrainState, group: Sequence[Batch], batches: int, options: FitOptions, undo: Undo) -> bool:
    """Train the batches of one optimizer step and count them; whether the weights moved.

    Where a loss or the gradient is not finite, nothing moves: neither weights nor averages nor batch norms' statistics.

    Args:
        batches: of a whole epoch.
        undo: of this model.
    """
    undo.take()
    world = options.world
    pieces = _fitting(state, group, batches, options, undo)
    norm = None if state.scaler.is_enabled() else gradient_norm(state)
    losses = _read(pieces, norm, state)
    fault = world.first(losses.fault)
    if fault is None:
        world.average_(running_statistics(state.model))
        fault = _optimizer_step(state, options, norm, losses.norm)
    if fault is None:
        *means, images = world.mean([*losses.sums.values(), sum(map(len, group))])
        for name, value in zip(losses.sums, means, strict=True):
            state.sums[name] = state.sums.get(name, 0.0) + value
        state.trained += len(group)
        state.images += round(images * world.size)
    else:
        undo.buffers_back()
        state.optimizer.zero_grad(set_to_none=True)
        log.warning("%s: step skipped", fault)
    state.bad_steps = 0 if fault is None else state.bad_steps + 1
    state.batch += len(group)
    return fault is None


def _fitting(state: TrainState, group: Sequence[Batch], batches: int, options: FitOptions, undo: Undo) -> list[Piece]:
    """Forward and backward; where memory runs out, from the start in smaller pieces, and so from then on."""
    while True:
        try:
            return _gradients(state, group, batches, options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            _refuse_to_shrink(group, options, error)
        # beyond the clause the error no longer holds the tensors of the attempt
        state.optimizer.zero_grad(set_to_none=True)
        undo.all_back()
        together = getattr(state.model, "together", 1)
        state.micro = _smaller(max(map(len, group)), state.micro, together, options)
        if options.device.type == "cuda":
            torch.cuda.empty_cache()


def _refuse_to_shrink(group: Sequence[Batch], options: FitOptions, error: RuntimeError) -> None:
    """Several processes cannot make a step again: the others may be waiting for gradients of this one."""
    if options.world.size > 1:
        images = max(map(len, group))
        raise InputError(
            f"batch: expected memory for {images} images at once on {options.device}, got too little; with several "
            "processes a batch is not made smaller on the way: use batch=auto, or a smaller batch and more accumulate"
        ) from error


def _smaller(largest: int, micro: int, together: int, options: FitOptions) -> int:
    tried = min(largest, micro or largest)
    if tried <= together:
        images = "one image" if together == 1 else f"{together} images that belong together,"
        raise InputError(
            f"batch: expected memory for {images} of {options.imgsz} px, got none left on {options.device}; "
            "lower imgsz, use amp=bf16, or choose a smaller model"
        )
    half = -(-tried // (2 * together)) * together
    log.warning("out of memory with %d images at once: %d from now on, the batch of a step stays", tried, half)
    return half


def _gradients(state: TrainState, group: Sequence[Batch], batches: int, options: FitOptions) -> list[Piece]:
    """Add up the gradient of the mean loss; nothing is read from the device.

    In the last backward pass gradients become the mean over the processes. A process whose loss is not finite makes it
    too, since the others wait for it there; then they agree that the step is not made.
    """
    wrapped = state.model if state.wrapped is None else state.wrapped
    done: list[Piece] = []
    pieces = _pieces(group, state, options.world)
    for place, (number, piece, weight) in enumerate(pieces, start=1):
        alone = options.world.keeping_gradients(wrapped) if place < len(pieces) else contextlib.nullcontext()
        with alone:
            moved = rescale(to_device(piece, options.device), scale_of(state.epoch * batches + number, options))
            with torch.autocast(options.device.type, AMP_TYPES[options.amp], enabled=options.amp != "none"):
                losses = wrapped(moved.images, moved.targets)
            total = torch.stack(list(losses.values())).sum()
            state.scaler.scale(total * weight / options.accumulate).backward()
        files = [info.file for info in piece.infos]
        done.append(Piece(number, files, weight, {k: v.detach() for k, v in losses.items()}, total.detach()))
    return done


def _read(pieces: Sequence[Piece], norm: Tensor | None, state: TrainState) -> Losses:
    """Everything that a step has to know from the device, at once."""
    asked = [value for piece in pieces for value in (*piece.losses.values(), piece.whole)]
    told = torch.stack([value.float() for value in (*asked, *([] if norm is None else [norm]))]).tolist()
    sums: dict[str, float] = {}
    fault: str | None = None
    values = iter(told)
    for piece in pieces:
        for name in piece.losses:
            sums[name] = sums.get(name, 0.0) + next(values) * piece.weight
        fault = fault or _fault(next(values), state, piece)
    return Losses(sums, None if norm is None else next(values), fault)


def _pieces(group: Sequence[Batch], state: TrainState, world: World) -> list[tuple[int, Batch, float]]:
    """The pieces of a step's batches, each with the number of its batch and its weight; a batch weighs 1 on average.

    A piece weighs what it has of its batch's images; where the detector's losses are divided by a count of ground
    truth, what it has of the count of the whole step, over all pieces and processes: so that is what the step's losses
    are divided by.
    """
    together = getattr(state.model, "together", 1)
    pieces = [
        (n, piece, batch)
        for n, batch in enumerate(group, state.batch)
        for piece in pieces_of(batch, state.micro, together)
    ]
    if len(pieces) == 1 and world.size == 1:
        return [(n, piece, 1.0) for n, piece, _ in pieces]
    divisor = getattr(state.model, "loss_divisor", lambda *_: None)
    counted = [divisor(piece.images, piece.targets) for _, piece, _ in pieces]
    counts = [count for count in counted if count is not None]
    if len(counts) < len(pieces):
        return [(n, piece, len(piece) / len(batch)) for n, piece, batch in pieces]
    mean = max(world.mean([sum(counts)])[0], 1 / world.size) / len(group)  # of a batch
    return [(n, piece, max(count, 1) / mean) for (n, piece, _), count in zip(pieces, counts, strict=True)]


def _fault(loss: float, state: TrainState, piece: Piece) -> str | None:
    if math.isfinite(loss):
        return None
    return f"loss is {loss} at epoch {state.epoch} batch {piece.number} ({', '.join(piece.files)})"


def gradient_norm(state: TrainState) -> Tensor | None:
    """The norm of the whole gradient, where there is one; on its device."""
    parameters = _moved(state)
    return _norm(parameters) if parameters else None


def _optimizer_step(state: TrainState, options: FitOptions, norm: Tensor | None, known: float | None) -> str | None:
    """:func:`optimizer_step`; its first one makes the optimizer's moments.

    A smaller batch would not help where these find no memory: what belongs to the batch is free by then.
    """
    try:
        return optimizer_step(state, options.clip, norm, known)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"optimizer: expected memory for its state beside weights and gradients on {options.device}, got too "
            "little; use optimizer=sgd, ema=0, or a smaller model"
        ) from error


def optimizer_step(
    state: TrainState, clip: float = 0.0, norm: Tensor | None = None, known: float | None = None
) -> str | None:
    """Clip, step, reset gradients, average. No step without any gradient, or with one that is not finite.

    Args:
        norm: :func:`gradient_norm`, and ``known`` the same as a number: found out here where it is not given.

    Returns:
        What is not finite, or None.
    """
    parameters = _moved(state)
    if not parameters:
        return None
    if state.scaler.is_enabled():
        fault = _scaled_step(state, parameters, clip)
    else:
        norm = _norm(parameters) if norm is None else norm
        fault = _plain_step(state, parameters, clip, norm, norm.item() if known is None else known)
    state.optimizer.zero_grad(set_to_none=True)
    if fault is None and state.average is not None:
        state.average.update(state.model)
    return None if fault is None else f"{fault} at epoch {state.epoch} batch {state.batch}"


def _moved(state: TrainState) -> list[Tensor]:
    """The parameters that have a gradient."""
    return [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]


def _plain_step(state: TrainState, parameters: list[Tensor], clip: float, norm: Tensor, known: float) -> str | None:
    if not math.isfinite(known):
        return f"gradient is {known}"
    if clip:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    state.optimizer.step()
    return None


def _scaled_step(state: TrainState, parameters: list[Tensor], clip: float) -> str | None:
    """fp16: the scaler itself refuses a gradient that is not finite, and then lowers its scale."""
    scaler = state.scaler
    if clip:
        scaler.unscale_(state.optimizer)
        nn.utils.clip_grads_with_norm_(parameters, clip, _norm(parameters))
    before = scaler.get_scale()
    scaler.step(state.optimizer)
    scaler.update()
    return "gradient overflows fp16" if scaler.get_scale() < before else None


def _norm(parameters: list[Tensor]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
