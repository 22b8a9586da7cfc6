"""Keys to an export: which model, as what, where to."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from iifdet.build.adjustment import refuse_idle_weight_keys
from iifdet.build.class_predictor import class_habits, refuse_box_keys
from iifdet.build.classification import ALWAYS_BOXES, class_view
from iifdet.build.finished import adjust_finished, borrow, habits, load_finished
from iifdet.build.model import postprocess_options
from iifdet.config import resolve
from iifdet.config.exporting import ExportConfig
from iifdet.detectors import Detector
from iifdet.errors import InputError
from iifdet.exporting import FORMATS, Exported, ExportJob, Preprocessing

#: Keys of ``export`` that mean boxes.
ABOUT_BOXES = (*ALWAYS_BOXES, "nms_inside")


def build_export(keys: dict[str, Any], model: Any = None) -> ExportJob:
    """Check everything that can be checked before the graph is captured.

    Args:
        keys: of ExportConfig.
        model: a detector or classifier that is loaded already, instead of ``weights``; it is not changed.

    Raises:
        InputError: bad keys or weights, a file that is there already, a package that is not.
    """
    refuse_idle_weight_keys(keys)
    defaults = {"conf": ExportConfig.model_fields["conf"].default, "adjust": None}
    config = resolve(ExportConfig, {**defaults, **keys})
    model = load_finished(config.weights, config) if model is None else borrow(model, None)
    if isinstance(model, Exported):
        raise InputError(
            f"weights: expected a checkpoint, got {config.weights or 'a model'}, which is exported already"
        )
    if isinstance(model, Detector):
        known = habits(model, config.weights)
    else:
        refuse_box_keys(keys, ABOUT_BOXES)
        known = class_habits(model, keys)
    config = resolve(ExportConfig, {**_mine(known), **defaults, **keys})
    if config.adjust is not None:
        adjust_finished(model, config)
    if isinstance(model, Detector):
        model.options = postprocess_options(config, model.options)
        look = Preprocessing((config.imgsz, config.imgsz), config.resize)
    else:
        look = Preprocessing((config.imgsz, config.imgsz), "square" if class_view(config.imgsz).whole else "middle")
    job = ExportJob(model, look, _file(config), config.format, config.nms_inside)
    job.check()
    return job


def _mine(known: dict[str, Any]) -> dict[str, Any]:
    """Those of a model's habits that ``export`` has keys for."""
    return {key: value for key, value in known.items() if key in ExportConfig.model_fields}


def _file(config: ExportConfig) -> Path:
    """Where the export goes: beside the weights under their name, unless a key says it."""
    suffix = FORMATS[config.format]
    if config.file is None and not config.weights:
        raise InputError(f"file: expected where to write, got nothing; give file=model{suffix}")
    file = Path(config.weights or "").with_suffix(suffix) if config.file is None else Path(config.file)
    if file.suffix.lower() != suffix:
        raise InputError(f"file: expected a name that ends with {suffix}, as format={config.format} has it, got {file}")
    if file.is_dir() or (file.exists() and not config.exist_ok):
        raise InputError(f"file: expected a free name, got {file}, which is there; give exist_ok=true or another file=")
    try:  # before the work, not after it
        folder = next(place for place in file.absolute().parents if place.exists())  # the rest is made with the file
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"file: expected a folder that can be written to, got {file.parent} ({error.strerror}); give another file="
        ) from error
    return file
