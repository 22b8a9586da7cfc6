"""2,000 optimizer steps of the nano model on the demo data under memory watch: nothing may grow.

    python tools/bench/soak.py

The whole loop runs: loader, mosaic, averages, checkpoints in mid-epoch, validation. Resident memory and the tensors
that are alive are read every so many steps; the first fifth is warm-up. ``growth_mb_per_1000_steps`` is the slope of a
straight line through the rest.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write

import iifdet
from iifdet.training import Callback


class Watch(Callback):
    """Notes memory and tensors, and ends the run after ``steps``."""

    def __init__(self, steps: int, every: int) -> None:
        self.steps, self.every, self.done = steps, every, 0
        self.rows: list[dict[str, float]] = []

    def on_step(self, *_: Any) -> None:
        self.done += 1
        if self.done % self.every == 0:
            gc.collect()
            tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
            self.rows.append({"step": self.done, "mb": round(resident_mb(), 2), "tensors": tensors})
        if self.done >= self.steps:
            raise KeyboardInterrupt


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def slope(rows: list[dict[str, float]], name: str) -> float:
    """Change a step of a straight line through what follows the first fifth."""
    rest = rows[len(rows) // 5 :]
    return float(np.polyfit([r["step"] for r in rest], [r[name] for r in rest], 1)[0])


def soak(folder: Path, steps: int, every: int, **keys: Any) -> list[dict[str, float]]:
    """Rows of (step, mb, tensors)."""
    watch = Watch(steps, every)
    try:
        iifdet.train(callbacks=[watch], project=folder, plots=False, verbose=False, epochs=10**6, patience=0, **keys)
    except KeyboardInterrupt:
        if watch.done < steps:  # it was somebody else's
            raise
    return watch.rows


def main() -> None:
    args = arguments(__doc__, steps=2000, every=50, batch=4, imgsz=64)
    torch.set_num_threads(1)
    started = time.perf_counter()
    keys = {"model": "yolov3-nano", "data": "demo", "batch": args.batch, "imgsz": args.imgsz, "workers": 0}
    more = {"mosaic": 0.5, "ema": 0.999, "save_steps": 100, "fraction": 0.25, "val_every": 2}
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(Path(folder), args.steps, args.every, **keys, **more)
    figures = {
        "growth_mb_per_1000_steps": round(1000 * slope(rows, "mb"), 3),
        "growth_tensors_per_1000_steps": round(1000 * slope(rows, "tensors"), 2),
        "first_mb": rows[len(rows) // 5]["mb"],
        "last_mb": rows[-1]["mb"],
        "seconds": round(time.perf_counter() - started),
    }
    write("soak", args.out, {"setting": {**keys, **more, "steps": args.steps}, **figures, "rows": rows})


if __name__ == "__main__":
    main()
