"""The bench of ways to rebalance: what it takes over from an earlier call, and what it refuses to; recipes of rows."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from iifdet.resources import resource_names

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


def test_every_row_of_the_paper_s_tables_of_classification_has_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    published = importlib.import_module("paper_numbers").PUBLISHED
    recipes = set(resource_names("cfg"))
    rows = [f"classify/{table}-{row}" for table, found in published.items() for row in found]
    trained = [row for row in rows if not any(kind in row for kind in ("-post-process ", "-decoupled "))]
    assert len(trained) > 40 and not [row for row in trained if row not in recipes]
    assert all(f"classify/{table}-iif-decoupled" in recipes for table in published)
