"""Memory does not grow with the steps; tools/bench/soak.py looks for longer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "bench"))

from soak import slope, soak


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    """300 steps with validation and checkpoints on the way. A leaked batch a step would be 15 MB in 300 steps."""
    keys = {"model": "yolov3-nano", "data": "demo", "batch": 4, "imgsz": 64, "workers": 0, "fraction": 0.05}
    rows = soak(tmp_path, 300, 10, ema=0.999, save_steps=20, **keys)
    assert len(rows) == 30
    assert 300 * slope(rows, "mb") < 8
    assert abs(300 * slope(rows, "tensors")) < 60


def test_a_line_through_what_grows_has_its_slope() -> None:
    rows = [{"step": float(n), "mb": 100 + 0.5 * n if n > 20 else 0.0} for n in range(0, 101, 10)]
    assert slope(rows[1:], "mb") == pytest.approx(0.5, rel=0.3)
