"""CIFAR-10 and CIFAR-100 from their python-version files, whose pickles are read without running anything in them."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.classification.description import ClassDescription
from iifdet.datasets.classification.index import ArrayImages, ClassIndex
from iifdet.errors import InputError

#: format -> (folder in the archive, part -> files, key of labels, file and key of names, classes).
LAYOUTS: dict[str, tuple[str, dict[str, tuple[str, ...]], bytes, tuple[str, bytes], int]] = {
    "cifar10": (
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        b"labels",
        ("batches.meta", b"label_names"),
        10,
    ),
    "cifar100": (
        "cifar-100-python",
        {"train": ("train",), "test": ("test",)},
        b"fine_labels",
        ("meta", b"fine_label_names"),
        100,
    ),
}
#: All that a CIFAR file is made of beside plain values: arrays of numbers.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
_SIDE = 32


class _Plain(pickle.Unpickler):
    """Plain values and arrays; whatever else a file asks for, and be it a function to call, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_cifar(description: ClassDescription, split: str) -> ClassIndex:
    """The ``train`` (50,000) or ``test`` (10,000) images, in the files' order, in memory.

    ``path`` is the folder of the files, the one above it, or the archive as it is published (``.tar.gz``).

    Raises:
        InputError: a file is missing, damaged, or holds something else.
    """
    folder, parts, label_key, (meta, name_key), classes = LAYOUTS[description.format]
    part = description.split(split).images
    if part not in parts:
        raise InputError(f"{description.name}: {split}: expected one of {', '.join(parts)}, got '{part}'")
    files = _files(description, folder, (*parts[part], meta))
    batches = [_batch(files[name], name, label_key, classes, description) for name in parts[part]]
    array = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    names = description.names or _names(files[meta], name_key, classes, description)
    if len(names) != classes:
        raise InputError(f"{description.name}: names: expected {classes} names, got {len(names)}; leave names out")
    images = ArrayImages(array, [f"{part}/{row:05}" for row in range(len(array))])
    return ClassIndex.of(names, images, labels, str(description.root))


def _files(description: ClassDescription, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Name -> content."""
    root = description.root
    read = _from_folder(root / folder if (root / folder).is_dir() else root)
    if root.is_file():
        read = _from_archive(root, folder)
    found = {}
    for name in names:
        try:
            found[name] = read(name)
        except (OSError, KeyError, tarfile.TarError, EOFError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(
                f"{description.name}: expected {name} of {folder} in {root}, got none ({reason}); {description.hint}"
            ) from error
    return found


def _from_folder(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def _from_archive(archive: Path, folder: str) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        with tarfile.open(archive) as tar:
            file = tar.extractfile(f"{folder}/{name}")
            if file is None:
                raise KeyError(f"{folder}/{name} is no file")
            return file.read()

    return read


def _load(data: bytes, name: str, description: ClassDescription) -> dict[Any, Any]:
    try:
        content = _Plain(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{description.root}: {name}: expected a file of {description.format}, got another or a damaged one "
            f"({reason}); get it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{description.root}: {name}: expected keys and values, got {type(content).__name__}")
    return content


def _batch(
    data: bytes, name: str, key: bytes, classes: int, description: ClassDescription
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, 32, 32, 3) and (N,) of one file."""
    content = _load(data, name, description)
    pixels, labels = content.get(b"data"), content.get(key)
    where = f"{description.root}: {name}"
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * _SIDE * _SIDE,):
        raise InputError(f"{where}: expected 'data' of (N, {3 * _SIDE * _SIDE}) bytes; is it {description.format}?")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(v) is int for v in labels):
        raise InputError(f"{where}: expected {len(pixels)} numbers as '{key.decode()}'; is it {description.format}?")
    found = np.array(labels, dtype=np.int64)
    if len(found) and not (found.min() >= 0 and found.max() < classes):
        raise InputError(f"{where}: expected labels 0…{classes - 1}, got {found.min()}…{found.max()}; get it again")
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return np.ascontiguousarray(images), found


def _names(data: bytes, key: bytes, classes: int, description: ClassDescription) -> list[str]:
    names = _load(data, "names", description).get(key)
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(n, bytes | str) for n in names):
        raise InputError(f"{description.root}: expected {classes} class names as '{key.decode()}'; get it again")
    return [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]
