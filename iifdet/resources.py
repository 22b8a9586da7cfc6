"""Recipes and data descriptions that come along: ``cfg/`` and ``data/`` of a checkout, or their copies in a wheel."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path, PurePosixPath

KINDS = ("cfg", "data")
SUFFIX = ".yaml"


def resource_path(kind: str, name: str) -> Path | None:
    """Return the file of the built-in recipe or data description, or None where there is none of that name.

    Args:
        kind: ``"cfg"`` or ``"data"``.
        name: with or without ``.yaml``, folders allowed: ``"yolov3"``, ``"tune/yolov3.yaml"``. Names that would lead
            out of the folder are no built-in names, hence None.

    Example:
        >>> resource_path("cfg", "../pyproject.toml") is None
        True
    """
    root = _root(kind)
    if root is None or not _stays_inside(name):
        return None
    path = root / (name if name.endswith(SUFFIX) else name + SUFFIX)
    return path if path.is_file() else None


def resource_names(kind: str) -> list[str]:
    """Return all built-in names of a kind, without suffix and sorted: ``["demo", …]``, ``["tune/yolov3", …]``."""
    root = _root(kind)
    if root is None:
        return []
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{SUFFIX}"))


def _root(kind: str) -> Path | None:
    """The folder of a kind: that of the checkout this file lies in, otherwise the wheel's."""
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got '{kind}'")
    checkout = Path(__file__).resolve().parent.parent
    # Any package may have left a folder named data in site-packages; only a checkout has this project file beside it.
    in_checkout = (checkout / "pyproject.toml").is_file()
    root = checkout / kind if in_checkout else Path(str(files("iifdet"))) / "_resources" / kind
    return root if root.is_dir() else None


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\:\0")
