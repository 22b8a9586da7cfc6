"""Shared by the benches: the machine, the commit, paired timing, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What these figures were measured on."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def paired_times(tasks: dict[str, Callable[[], object]], repeats: int, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds of each task, measured in turns, so that whatever slows the machine slows all of them.

    Every other turn runs backwards: none is always the first after another's memory traffic.
    """
    cuda = torch.cuda.is_available()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(-warmup, repeats):
        turn = list(tasks.items())
        for name, task in turn if repeat % 2 else reversed(turn):
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            task()
            if cuda:
                torch.cuda.synchronize()
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def summary(times: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median milliseconds of each task, its quartiles, and the median of its ratios to ``base`` in the same turn."""
    rows = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        ratios = [value / other for value, other in zip(values, times[base], strict=True)]
        rows[name] = {
            "ms": round(1e3 * median, 3),
            "ms_quartiles": [round(1e3 * low, 3), round(1e3 * high, 3)],  # type: ignore[dict-item]
            "ratio": round(statistics.median(ratios), 4),
            "repeats": len(values),
        }
    return rows


def arguments(description: str | None, **defaults: Any) -> argparse.Namespace:
    """``--name value`` for each default, and ``--out``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=None, help="JSON file; tools/bench/results/<name>.json if unset")
    return parser.parse_args()


def keys_of(text: str) -> dict[str, Any]:
    """``batch=16 lr=0.001`` as on the command line; values are YAML."""
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in text.split())}


def known_results(path: str, field: str, setting: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call wrote; empty where there is no such file.

    Args:
        path: of the JSON file, or nothing.
        field: where in it the setting stands.
        setting: what this call measures with. Figures of another setting would stand under the name of this one.
    """
    if not path or not Path(path).is_file():
        return {}
    content: dict[str, Any] = json.loads(Path(path).read_text())
    for key, value in setting.items():
        if content[field].get(key) != value:
            raise SystemExit(
                f"{path}: expected figures with {key}={value}, got {key}={content[field].get(key)}; "
                "leave --known away, or name another file"
            )
    return content


def write(name: str, out: Path | None, content: dict[str, Any]) -> None:
    """Print and write a result."""
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), **content}, indent=1)
    path.write_text(text + "\n")
    print(text)
