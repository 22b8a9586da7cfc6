"""Files of a YOLO data set that lie there and are not used: labels of no image, images that no reader takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from iifdet.datasets.description import DataDescription
from iifdet.datasets.findings import LABELS_OF_NOTHING, NOT_TAKEN, Finding
from iifdet.datasets.listing import is_image
from iifdet.datasets.yolo_txt import label_file

#: Images that are left out because nothing reads them.
OTHERS = (".gif", ".avif", ".heic", ".heif", ".jfif", ".jxl", ".tga", ".psd", ".svg")
#: What annotation programs put beside the labels.
NO_LABELS = ("classes.txt", "labels.txt", "names.txt", "readme.txt", "notes.txt")


def find_strays(description: DataDescription, split: str) -> list[Finding]:
    """What lies unused in the folders of a split. Lists and globs choose: what they leave out is meant.

    Only text labels are one file an image; other formats have nothing that could stray.
    """
    if description.format != "yolo":
        return []
    found: list[Finding] = []
    for folder in (str(place) for place in description.split(split).images if os.path.isdir(place)):
        files = sorted(_files(folder))
        found += [Finding("warning", split, file, NOT_TAKEN) for file in files if file.lower().endswith(OTHERS)]
        used = {label_file(file) for file in files if is_image(file)}
        labels = os.path.dirname(label_file(os.path.join(folder, "x.jpg")))
        found += [
            Finding("warning", split, file, LABELS_OF_NOTHING) for file in sorted(_labels(labels)) if file not in used
        ]
    return found


def _files(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names)


def _labels(folder: str) -> Iterator[str]:
    """As :func:`label_file` writes them."""
    for file in _files(folder):
        name = os.path.basename(file).lower()
        if name.endswith(".txt") and name not in NO_LABELS:
            yield str(Path(file))
