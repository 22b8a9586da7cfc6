"""Which images a split has: folders, globs and list files to paths, and numbers for them."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.bounds import allowed_folders, refuse_outside
from iifdet.datasets.description import DataDescription, Split
from iifdet.datasets.images import SUFFIXES
from iifdet.errors import InputError


def list_images(description: DataDescription, split: Split) -> list[str]:
    """All images of a split, each once, sorted.

    A place may be a folder (with what is below it), one image, a glob such as ``images/*/*.jpg`` or ``images/**``, or
    a ``.txt`` file that lists images; a glob that ends in ``.txt`` stands for several such lists. What a list names is
    taken as it stands; elsewhere only files with an image's suffix count.

    Raises:
        InputError: a place does not exist, a list cannot be read or leads out of the data set, or there is no image
            in all of them.
    """
    allowed = allowed_folders(description, split)
    files: set[str] = set()
    for place in split.images:
        for found in matches(place, split):
            if os.path.isdir(found):
                files.update(os.path.join(d, f) for d, _, names in os.walk(found) for f in names if is_image(f))
            elif found.endswith(".txt"):
                listed = _listed(Path(found), description.root)
                refuse_outside(listed, allowed, found, "line")
                files.update(listed)
            elif is_image(found):
                files.add(found)
            elif found == str(place):
                raise InputError(f"images: expected a folder, an image or a .txt list, got the file {place}")
    if not files:
        raise InputError(f"images: expected image files in {split.images[0]}, found none; {split.hint}")
    return sorted(files)


def is_image(file: str) -> bool:
    """Whether a file is called like an image."""
    return file.lower().endswith(SUFFIXES)


def number_images(files: list[str]) -> NDArray[np.int64]:
    """COCO's habit: files named by distinct numbers (up to 15 digits) have those as ids. Otherwise 0…N-1 in file order.

    Example:
        >>> number_images(["a/000012.jpg", "a/7.jpg"]).tolist(), number_images(["a/x.jpg", "a/7.jpg"]).tolist()
        ([12, 7], [0, 1])
    """
    stems = [Path(file).stem for file in files]
    if all(stem.isascii() and stem.isdecimal() and len(stem) <= 15 for stem in stems):
        ids = np.array([int(stem) for stem in stems], dtype=np.int64)
        if len(np.unique(ids)) == len(ids):
            return ids
    return np.arange(len(files), dtype=np.int64)


def matches(place: Path, split: Split) -> list[str]:
    """The place itself, or what it matches as a glob: a file may well have brackets in its name."""
    text = str(place)
    if os.path.exists(text):
        return [text]
    if not glob.has_magic(text):
        raise InputError(f"images: expected the folder or list {place}, which does not exist; {split.hint}")
    # Text files that 'data/**' meets are labels; only a pattern that asks for text files means lists.
    lists = text.endswith(".txt")
    try:
        found = [f for f in glob.glob(text, recursive=True) if f.endswith(".txt") == lists]
    except (OSError, ValueError):
        found = []  # a folder that may not be listed, or a NUL in the pattern
    if not found:
        raise InputError(f"images: expected files that match {place}, found none; {split.hint}")
    return found


def read_lines(file: Path) -> list[str]:
    """Lines of a list file without blanks around them; empty ones are left out.

    Raises:
        InputError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"images: expected a readable list, got {file} ({error.strerror})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _listed(file: Path, root: Path) -> list[str]:
    # As in Ultralytics' lists, './' means beside the list; anything else is relative to the data set's folder.
    return [
        os.path.normpath(os.path.join(file.parent if line.startswith("./") else root, line))
        for line in read_lines(file)
    ]
