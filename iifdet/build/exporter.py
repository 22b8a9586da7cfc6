"""Keys to an export: which model, as what, where to."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from iifdet.build.adjustment import refuse_idle_weight_keys
from iifdet.build.finished import adjust_finished, borrow, habits, load_finished
from iifdet.build.model import postprocess_options
from iifdet.config import resolve
from iifdet.config.exporting import ExportConfig
from iifdet.detectors import Detector
from iifdet.errors import InputError
from iifdet.exporting import FORMATS, ExportedDetector, ExportJob, Preprocessing


def build_export(keys: dict[str, Any], model: Detector | None = None) -> ExportJob:
    """Check everything that can be checked before the graph is captured.

    Args:
        keys: of ExportConfig.
        model: a detector that is loaded already, instead of ``weights``; it is not changed.

    Raises:
        InputError: bad keys or weights, a file that is there already, a package that is not.
    """
    refuse_idle_weight_keys(keys)
    keys = {"conf": ExportConfig.model_fields["conf"].default, "adjust": None, **keys}
    config = resolve(ExportConfig, keys)
    model = load_finished(config.weights, config) if model is None else borrow(model, None)
    if not isinstance(model, Detector):
        raise InputError(
            f"weights: expected a detector, got {config.weights}, which is a classifier; export has none yet"
        )
    if isinstance(model, ExportedDetector):
        raise InputError(f"weights: expected a checkpoint, got {config.weights}, which is exported already")
    known = {k: v for k, v in habits(model, config.weights).items() if k in ExportConfig.model_fields}
    config = resolve(ExportConfig, {**known, **keys})
    model.options = postprocess_options(config, model.options)
    if config.adjust is not None:
        adjust_finished(model, config)
    look = Preprocessing((config.imgsz, config.imgsz), config.resize)
    job = ExportJob(model, look, _file(config), config.format, config.nms_inside)
    job.check()
    return job


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
