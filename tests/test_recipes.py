"""Every recipe that comes with the package trains: not only its keys are valid, its run runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import iifdet
from iifdet.resources import resource_names

SMALL: dict[str, Any] = {"imgsz": 64, "batch": 8, "epochs": 1, "workers": 0, "device": "cpu", "plots": False}


@pytest.mark.parametrize("name", [name for name in resource_names("cfg") if "/" not in name])
def test_a_recipe_trains_an_epoch(name: str, tiny_data: str, tmp_path: Path) -> None:
    run = iifdet.train(model=name, data=tiny_data, project=tmp_path, **SMALL, **{"model_args.width": 0.0625})
    assert run.metrics["AP"] is not None
