"""Files of weights that other programs made, and what torchvision publishes: named tensors, never code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iifdet.errors import InputError

#: What torchvision's ImageNet networks subtract and divide by.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file. A crafted file cannot run code.

    Raises:
        InputError: missing, unreadable, or something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which is not there"
        raise InputError(f"weights: expected a file, got {path}, {what}; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises types of its own for each way in which a file can be wrong
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:160]}".strip()
        raise InputError(
            f"weights: expected named tensors, got {path}: cut short, or of another kind ({reason}); get it again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        raise InputError(
            f"weights: expected a state dict, got a training checkpoint around one: {path}; "
            "save what is under 'model' alone"
        )
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights: expected a state dict, got other content in {path}; save model.state_dict()")
    return state


def fetch_published(entry: Any) -> dict[str, Tensor]:
    """The tensors of one of torchvision's weight entries, from its cache or the network.

    Raises:
        InputError: neither has them.
    """
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network, or a file that was cut short
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"weights: could not fetch {entry.url} ({type(error).__name__}); fetch it where there is a network, "
            f"then put it into {folder}, or pass weights=<path of the file>"
        ) from error


def mismatched(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names of ``wanted`` that a file lacks, and those that have another shape there."""
    missing = [name for name in wanted if name not in state]
    wrong = [name for name, tensor in wanted.items() if name in state and state[name].shape != tensor.shape]
    return missing, wrong


def some_names(names: Sequence[str]) -> str:
    """The first five of many names, for a message."""
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5) if names else "none"
