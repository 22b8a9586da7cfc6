"""The bench of ways to rebalance: what it takes over from an earlier call, and what it refuses to."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """longtail.py, whose runs have an AP of 1 and no training."""
    monkeypatch.syspath_prepend(str(BENCH))
    longtail = importlib.import_module("longtail")

    def measure(args: Any, seed: str, name: str, runs: Any) -> None:
        runs.setdefault(name, {}).setdefault(seed, dict.fromkeys(longtail.FIGURES, 1.0))

    monkeypatch.setattr(longtail, "_measure", measure)
    return longtail


def call(bench: Any, monkeypatch: pytest.MonkeyPatch, out: Path, **options: Any) -> dict[str, Any]:
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["longtail.py", *words, "--out", str(out)])
    bench.main()
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_a_second_call_adds_to_the_first_and_each_run_keeps_its_machine(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "x.json"
    first = call(bench, monkeypatch, out, methods="softmax", known=tmp_path / "none-yet.json")
    assert list(first["runs"]) == ["softmax"]
    out.write_text(json.dumps({**first, "origins": {"softmax, seed 0": {"device": "another"}}}))
    second = call(bench, monkeypatch, out, methods="iif", known=out)
    assert list(second["runs"]) == ["softmax", "iif"]
    assert second["origins"]["softmax, seed 0"] == {"device": "another"}
    assert second["origins"]["iif, seed 0"] == second["machine"]


def test_figures_of_another_setting_are_not_passed_off_as_these(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "x.json"
    call(bench, monkeypatch, out, methods="softmax", epochs=12)
    with pytest.raises(SystemExit, match="expected figures with epochs=40, got epochs=12"):
        call(bench, monkeypatch, out, methods="softmax", epochs=40, known=out)
