"""How the loop runs: the keys of the same names, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iifdet.distributed import ALONE, World

AMP_TYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class FitOptions:
    """How to run the loop, see the keys of the same names; and with which other processes."""

    epochs: int
    device: torch.device
    amp: str = "none"
    accumulate: int = 1
    clip: float = 0.0
    patience: int = 0
    save_steps: int = 0
    save_minutes: float = 0.0
    max_bad_steps: int = 20
    max_rollbacks: int = 3
    val_every: int = 1
    frozen_bn: str = "eval"
    multi_scale: tuple[float, float] | None = None
    multi_scale_every: int = 10
    imgsz: int = 640
    seed: int = 0
    world: World = ALONE
