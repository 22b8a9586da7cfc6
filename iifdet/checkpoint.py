"""Checkpoints: written atomically, loaded without running code from them."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from iifdet.errors import InputError
from iifdet.files import atomic_write
from iifdet.longtail import ClassCounts

FORMAT = "iifdet-1"
#: What every checkpoint holds.
PARTS = (
    "model",
    "names",
    "counts",
    "adjustment",
    "class_loss",
    "class_activation",
    "weights",
    "ema",
    "recipe",
    "training",
    "metrics",
)


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Everything a checkpoint says about a model besides its training: plain values and tensors only."""
    counts: ClassCounts | None = model.counts  # type: ignore[assignment]
    adjust = getattr(model, "adjust", None)
    return {
        "format": FORMAT,
        "model": model.spec,
        "names": list(model.names),  # type: ignore[arg-type]
        "counts": None
        if counts is None
        else {"images": counts.images, "instances": counts.instances, "num_images": counts.num_images},
        "adjustment": None if adjust is None else adjust.to_dict(),
        "class_loss": getattr(model, "class_loss_choice", None),
        "class_activation": getattr(model, "class_activation", None),
        "weights": to_cpu(model.state_dict()),
    }


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    *,
    recipe: dict[str, Any] | None = None,
    ema: dict[str, Tensor] | None = None,
    training: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    previous: Path | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        ema: averaged weights; where there are some, :func:`load_model` uses them.
        recipe: the resolved configuration as plain values.
        training: optimizer, schedule and generator states, for resuming.
        metrics: figures of this epoch, for the reader's eyes.
        previous: where the checkpoint that was at ``path`` stays.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    content = describe_model(model)
    content.update(
        ema=None if ema is None else to_cpu(ema), recipe=recipe or {}, training=training, metrics=metrics or {}
    )
    try:
        with atomic_write(path, previous=previous) as file:
            _save(content, file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"{path} cannot be written ({reason}); make room, then resume= goes on from the last one"
        ) from error


def _save(content: dict[str, Any], file: IO[bytes]) -> None:
    """``torch.save``, whose own error about a full disk speaks of positions in an archive."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        cause = error.__context__
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        raise cause or error from None


def read_checkpoint(path: str | Path, key: str = "weights") -> dict[str, Any]:
    """Load a checkpoint's content onto the CPU. Tensors and plain types only: a crafted file cannot run code.

    Args:
        key: what errors call it.

    Raises:
        InputError: missing, truncated, or not one of ours; it names the checkpoint before it, where that is whole.
    """
    path = Path(path)
    try:
        return _read(path, key)
    except InputError as error:
        previous = previous_of(path)
        if previous is None or not previous.is_file():
            raise
        try:
            _read(previous, key)
        except InputError:
            raise error from None
        raise InputError(f"{error}; {key}={previous} is the one before it") from error


def previous_of(path: Path) -> Path | None:
    """Where the checkpoint before ``last.pt`` is kept: ``last.prev.pt``; None for what has no such name."""
    return path.with_suffix(".prev.pt") if path.suffix == ".pt" and not path.name.endswith(".prev.pt") else None


def _read(path: Path, key: str) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(
            f"{key}: expected a checkpoint file, got the folder {path}; name a file such as weights/last.pt"
        )
    if "," in str(path) and not path.is_file():
        raise InputError(f"{key}: expected one checkpoint, got several: {path}; name one")
    if not path.is_file():
        raise InputError(f"{key}: expected a checkpoint file, got {path}, which is not there; check the path")
    try:
        damaged = _damaged(path)
        with warnings.catch_warnings():  # torch muses about foreign files; the error below says it in one line
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for every way in which a file can be wrong
        raise InputError(
            f"{key}: expected an iifdet checkpoint, got {path}: truncated or foreign ({type(error).__name__}); "
            "use another one"
        ) from error
    if damaged is not None:
        raise InputError(f"{key}: expected an iifdet checkpoint, got {path}, damaged in {damaged}; use another one")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{key}: expected an iifdet checkpoint ({FORMAT}), got another kind of file: {path}; use another one"
        )
    missing = [key for key in PARTS if key not in content]
    if missing:
        raise InputError(
            f"{key}: expected an iifdet checkpoint, got {path} without its part '{missing[0]}'; use another one"
        )
    return content


def _damaged(path: Path) -> str | None:
    """The first part whose bytes are not those that were written; None where all are. torch.load does not look."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def restore_model(model: nn.Module, content: dict[str, Any]) -> nn.Module:
    """Fill a freshly built model with what a checkpoint says of it; averaged weights where there are some."""
    restore_loss(model, content)
    if content["adjustment"] is not None:
        model.adjust.load_dict(content["adjustment"])  # type: ignore[operator,union-attr]
    model.load_state_dict(content["ema"] or content["weights"])  # last: where its weights were learned, averages count
    model.names = content["names"]
    if content["counts"] is not None:
        model.counts = ClassCounts(names=content["names"], **content["counts"])  # type: ignore[assignment]
    return model


def restore_loss(model: nn.Module, content: dict[str, Any]) -> None:
    """The classification loss that a checkpoint was trained with: weights to start from may have brought another one
    than the model's own options name."""
    if content["class_loss"] is not None:
        model.set_class_loss(content["class_loss"])  # type: ignore[operator]
        model.class_activation = content["class_activation"]


def to_cpu(value: Any) -> Any:
    """Copy nested tensors to the CPU, so that what is saved cannot change under the writer."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: to_cpu(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(v) for v in value)
    return value
