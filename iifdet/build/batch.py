"""``batch=auto``: how many images at once."""

from __future__ import annotations

import logging
from typing import Any

import torch

from iifdet.build.loop import fit_options
from iifdet.config import TrainConfig
from iifdet.training import TrainState, has_room, largest_fitting

log = logging.getLogger("iifdet")


def settle_batch(config: TrainConfig, state: TrainState, device: torch.device) -> TrainConfig:
    """The keys with ``batch`` and ``accumulate`` as numbers; the images of an optimizer step stay the recipe's."""
    if not config.auto_batch:
        return config
    found: dict[str, Any] = {"auto_batch": False}  # a resumed run must not measure again
    if device.type == "cuda":
        effective = config.batch * config.accumulate
        options, masks = fit_options(config, device), bool(getattr(state.model, "wants_masks", False))
        batch = largest_fitting(effective, lambda images: has_room(state, images, options, masks))
        found |= {"batch": batch, "accumulate": effective // batch}
        log.info("batch: %d images at once, %d batches a step", batch, effective // batch)
    else:
        log.warning("batch: auto measures CUDA memory, got device=%s; batch=%d as by default", device, config.batch)
    return config.model_copy(update=found)
