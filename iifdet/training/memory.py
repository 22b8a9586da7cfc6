"""``batch=auto``: the largest batch that one forward and backward pass has room for, measured."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from iifdet.errors import is_out_of_memory
from iifdet.training.multiscale import largest_size
from iifdet.training.options import AMP_TYPES, FitOptions
from iifdet.training.pieces import Undo
from iifdet.training.state import TrainState
from iifdet.types import Target

log = logging.getLogger("iifdet")

#: Share of the free memory that may be used: images with many boxes, and other sizes, need more than what is measured.
SHARE = 0.8
#: Boxes in each made-up image.
BOXES = 20


def largest_fitting(effective: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of ``effective`` that fits, so that whole batches make up a step; 1 where none does.

    Example:
        >>> largest_fitting(24, lambda images: images <= 7)
        6
    """
    divisors = [n for n in range(effective, 1, -1) if effective % n == 0]
    return next((n for n in divisors if fits(n)), 1)


def has_room(state: TrainState, images: int, options: FitOptions, masks: bool) -> bool:
    """Whether a training pass over that many images fits into SHARE of the CUDA memory that is free now.

    Nothing of the pass stays: gradients, statistics of batch norms and generators are as before.
    """
    device, undo = options.device, Undo(state.model, options.device)
    undo.take()
    torch.cuda.empty_cache()
    room, before = SHARE * torch.cuda.mem_get_info(device)[0], torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        _pass(state, images, options, masks)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        peak = None
    else:
        peak = torch.cuda.max_memory_allocated(device) - before + _optimizer_bytes(state)
    state.optimizer.zero_grad(set_to_none=True)
    undo.all_back()
    torch.cuda.empty_cache()
    log.info("batch: %d images %s", images, "do not fit" if peak is None else f"take {peak / 1e9:.2f} GB")
    return peak is not None and peak <= room


def _pass(state: TrainState, images: int, options: FitOptions, masks: bool) -> None:
    size = largest_size(options)
    pixels = torch.rand(images, 3, size, size, device=options.device)
    targets = [_target(size, masks, options.device) for _ in range(images)]
    state.model.train()
    with torch.autocast(options.device.type, AMP_TYPES[options.amp], enabled=options.amp != "none"):
        losses = state.model(pixels, targets)
    torch.stack(list(losses.values())).sum().backward()


def _target(size: int, masks: bool, device: torch.device) -> Target:
    corners = torch.rand(BOXES, 2, device=device) * size / 2
    boxes = torch.cat([corners, corners + size / 4], dim=1)
    target = Target(boxes=boxes, labels=torch.zeros(BOXES, dtype=torch.int64, device=device))
    if masks:
        target["masks"] = torch.ones(BOXES, size, size, dtype=torch.uint8, device=device)
    return target


def _optimizer_bytes(state: TrainState) -> int:
    """What the optimizer will add at its first step: two moments a weight for Adam, one for SGD."""
    parameters: list[Tensor] = [p for group in state.optimizer.param_groups for p in group["params"]]
    moments = 2 if "betas" in state.optimizer.defaults else 1
    return 0 if state.optimizer.state else moments * sum(p.numel() * p.element_size() for p in parameters)
