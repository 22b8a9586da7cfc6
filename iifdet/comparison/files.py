"""Files of a run folder, read for a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from iifdet.errors import InputError
from iifdet.evaluation.engine import Array


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json; an InputError where there is none of a detector's or classifier's run."""
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{folder}: expected a run folder with metrics.json, got none; "
            "let the run finish, or make one with: iifdet val weights=…"
        ) from None
    except ValueError as error:  # broken JSON or encoding
        raise InputError(f"{path}: expected JSON, got {error}; run iifdet val again") from None
    if not isinstance(metrics, dict) or not {"AP", "top1"} & set(metrics):
        raise InputError(f"{path}: expected the figures of a run, got neither AP nor top1; run iifdet val again")
    return metrics


def read_settings(folder: Path) -> dict[str, Any]:
    """args.yaml; empty where there is none."""
    try:
        settings = yaml.safe_load((folder / "args.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / 'args.yaml'}: expected YAML, got {reason}; repair or delete it") from None
    return settings if isinstance(settings, dict) else {}


def short_names(paths: list[Path]) -> list[str]:
    """The shortest folder names that tell the runs apart."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


class _Row(msgspec.Struct):
    """What counts of a line of predictions.json."""

    image_id: int
    category_id: int
    score: float
    bbox: tuple[float, float, float, float]
    segmentation: Any = None


def read_predictions(folder: Path) -> tuple[Array, list[Any] | None]:
    """predictions.json as (n, 7) ``[image_id, x, y, w, h, score, category_id]``, and the masks where each has one.

    Raises:
        InputError: no file, or not the detections of a run.
    """
    path = folder / "predictions.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[_Row])
    except OSError:
        raise InputError(f"{folder}: expected predictions.json, got none; make it with iifdet val weights=…") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected detections, got {error}; run iifdet val again") from None
    rows = np.array([(d.image_id, *d.bbox, d.score, d.category_id) for d in found], float).reshape(-1, 7)
    masks = [d.segmentation for d in found]
    return rows, masks if masks and all(m is not None for m in masks) else None
