"""``batch=auto``: how many images at once."""

from __future__ import annotations

import logging
from typing import Any

import torch

from iifdet.build.loop import fit_options
from iifdet.config import TrainConfig
from iifdet.datasets import TOGETHER
from iifdet.distributed import ALONE, World
from iifdet.errors import InputError
from iifdet.models import MODELS
from iifdet.training import TrainState, has_room, largest_fitting

log = logging.getLogger("iifdet")


def images_together(config: TrainConfig) -> int:
    """Images that are drawn to be trained on together."""
    return TOGETHER.get(config.sampling, 1)


def check_batch(config: TrainConfig, world: World) -> None:
    """Refuse a ``batch`` that the processes cannot share evenly, or that parts images which belong together."""
    together = images_together(config)
    share = together * world.size
    if together > 1 and config.batch % share:
        of_each = "" if world.size == 1 else f" ({together} for each of {world.size} processes)"
        raise InputError(
            f"batch: expected a multiple of {share}{of_each} with sampling={config.sampling}, got {config.batch}; "
            f"use batch={share * max(1, config.batch // share)}"
        )
    if config.batch % world.size:
        near = max(1, round(config.batch / world.size)) * world.size
        raise InputError(
            f"batch: expected a multiple of the {world.size} processes, which share it, got {config.batch}; "
            f"use batch={near}"
        )


def settle_batch(config: TrainConfig, state: TrainState, device: torch.device, world: World = ALONE) -> TrainConfig:
    """The keys with ``batch`` and ``accumulate`` as numbers; the images of an optimizer step stay the recipe's.

    Of several processes each measures, and the one with the least room decides.
    """
    if not config.auto_batch:
        return config
    if MODELS[config.model].task != "detect":
        raise InputError(f"batch: auto measures detectors, got model={config.model}; give a number")
    found: dict[str, Any] = {"auto_batch": False}  # a resumed run must not measure again
    if device.type == "cuda":
        effective = config.batch * config.accumulate // world.size  # of this process
        options, masks = fit_options(config, device), bool(getattr(state.model, "wants_masks", False))
        batch = largest_fitting(effective, lambda images: not world.any(not has_room(state, images, options, masks)))
        found |= {"batch": batch * world.size, "accumulate": effective // batch}
        log.info("batch: %d images at once, %d batches a step", batch * world.size, effective // batch)
    else:
        log.warning("batch: auto measures CUDA memory, got device=%s; batch=%d as by default", device, config.batch)
    return config.model_copy(update=found)
