"""An exported file, read: what it says about itself, and what it runs on."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iifdet.errors import InputError
from iifdet.exporting.card import CLASSIFY, Card
from iifdet.exporting.exported import ExportedClassifier, ExportedDetector, Run
from iifdet.exporting.graph import quiet

ONNX, TORCH = ".onnx", ".pt2"
SUFFIXES = (ONNX, TORCH)


def is_exported(path: str | Path) -> bool:
    """Whether a file is called like an exported graph."""
    return Path(path).suffix.lower() in SUFFIXES


def read_card(path: str | Path) -> Card:
    """What an exported file says about itself; nothing of it is run.

    Raises:
        InputError: missing, unreadable, or not an export of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights: expected an exported file, got {path}, which is not there; check the path")
    try:
        return Card.from_metadata(_onnx_metadata(path) if path.suffix.lower() == ONNX else _torch_metadata(path))
    except InputError:
        raise
    except Exception as error:  # every library has errors of its own for a broken file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"weights: expected a file that iifdet exported, got {path}: {reason}") from error


def load_exported(path: str | Path, trusted: bool = False) -> ExportedDetector | ExportedClassifier:
    """An exported file as the detector or classifier it was made of, on the CPU.

    Args:
        trusted: the file is known to come from a good place. PyTorch rebuilds a .pt2 with pickle and eval, so a crafted
            one can run any code.

    Raises:
        InputError: not an export of ours, a package is missing, or a .pt2 that nobody trusts.
    """
    path = Path(path)
    card = read_card(path)
    if path.suffix.lower() == TORCH and not trusted:
        raise InputError(
            f"trusted: expected true for {path}, since PyTorch can run code that stands in a .pt2; know where it comes "
            "from, or export with format=onnx"
        )
    try:
        run = run_onnx(str(path)) if path.suffix.lower() == ONNX else _run_torch(path)
        return ExportedClassifier(card, run) if card.task == CLASSIFY else ExportedDetector(card, run)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"weights: expected a whole exported file, got {path}: {reason}") from error


def need(*packages: str) -> None:
    """Refuse what cannot be done without some of the optional packages.

    Raises:
        InputError: it names the missing ones.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"format: expected the packages {', '.join(packages)}, got no {missing[0]}; pip install 'iifdet[export]'"
        )


def run_onnx(model: str | bytes) -> Run:
    """The file at this path, or these bytes, in onnxruntime on as many threads as PyTorch has."""
    session = _session(model)
    return lambda images: [torch.from_numpy(out) for out in session.run(None, {"images": images.numpy()})]


def _session(model: str | bytes) -> Any:
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnx_metadata(path: Path) -> dict[str, str]:
    return dict(_session(str(path)).get_modelmeta().custom_metadata_map)


def _torch_metadata(path: Path) -> dict[str, str]:
    """The extra files of a .pt2, which is a zip archive."""
    with zipfile.ZipFile(path) as archive:
        extras = {n.rpartition("/")[2]: n for n in archive.namelist() if "/extra/" in n}
        return {key: archive.read(name).decode() for key, name in extras.items()}


def _run_torch(path: Path) -> Run:
    with quiet():
        module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(images: Tensor) -> Sequence[Tensor]:
        return module(images)

    return run
