"""Reader for Pascal VOC folders: 1) list XML files 2) parse them 3) find images and sizes 4) check, clip.

``difficult`` objects are read like COCO's crowds: never targets, ignored in evaluation as in VOC's own (its development
kit leaves them out), but counted in :meth:`DatasetIndex.counts`. Which detections one of them excuses follows COCO's
rule for crowds: those whose own area it covers, where VOC asks for an overlap of .5. ``truncated`` and ``occluded`` say
nothing here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.bounds import allowed_folders, refuse_outside
from iifdet.datasets.checking import CLIPPED, box_problems, check_boxes
from iifdet.datasets.description import DataDescription, Split, VocPart
from iifdet.datasets.images import image_sizes
from iifdet.datasets.index import DatasetIndex, Problem
from iifdet.datasets.listing import is_image, number_images, read_lines
from iifdet.datasets.voc_xml import VocAnnotation, VocError, read_voc_xml
from iifdet.errors import InputError, suggest

_LISTS = Path("ImageSets") / "Main"
#: Lists of one class end each line in 1, 0 or -1: has it, has a difficult one, has none. The image counts anyway.
_FLAG = re.compile(r"\s+(-1|0|1)$")


@dataclass
class _Item:
    """One image of the split with its annotation file."""

    file: str
    xml: str
    annotation: VocAnnotation


def read_voc(description: DataDescription, split: Split, *, segments: bool = True) -> DatasetIndex:
    """Read one split; VOC's XML has boxes only, so ``segments`` changes nothing.

    Classes are the description's names or, without names, those of the *training* XML files in alphabetical order,
    the same for all splits. A name that is none of them is a problem of that box.

    Raises:
        InputError: a folder or list is missing, or there is no class at all.
    """
    problems: list[Problem] = []
    items = _items(description, split, problems)
    names = description.names
    if names is None:
        train = description.splits.get("train", split)
        names = class_names(items if train == split else _items(description, train, []))
        if not names:
            raise InputError(f"{description.name}: expected objects with a name in the training XML files, found none")
    sizes = _sizes(items, problems)
    readable = np.flatnonzero(sizes[:, 0] > 0)
    return _index([items[n] for n in readable.tolist()], sizes[readable], names, str(description.root), problems)


def class_names(items: list[_Item]) -> list[str]:
    """Names of all objects, in alphabetical order."""
    return sorted({found.name for item in items for found in item.annotation.objects if found.name})


# -- files -------------------------------------------------------------------------------------------------------------


def _items(description: DataDescription, split: Split, problems: list[Problem]) -> list[_Item]:
    """Every annotation file of every part, parsed, with its image; an image that two lists name counts once."""
    if not split.parts:
        raise InputError("split: expected a VOC folder such as {path: VOC2007, list: trainval}, got none")
    items: dict[str, _Item] = {}
    allowed = allowed_folders(description, split)
    for part in split.parts:
        folder = _folder(part.annotations, part.path, "Annotations", split)
        images = _by_stem(_folder(part.images, part.path, "JPEGImages", split))
        for stem in _stems(part, folder, images, split, allowed):
            xml = os.path.join(folder, stem + ".xml")
            try:
                annotation = read_voc_xml(xml)
            except VocError as error:
                problems.append(Problem(xml, "image", str(error)))
                continue
            name = images.get(stem) or images.get(Path(annotation.filename.replace("\\", "/")).stem)
            if name is None:
                problems.append(Problem(xml, "image", "missing image file"))
            elif items.setdefault(name, _Item(name, xml, annotation)).xml != xml:
                problems.append(Problem(xml, "image", "second annotation file of an image"))
    return list(items.values())


def _folder(given: Path | None, path: Path, usual: str, split: Split) -> Path:
    """The given folder, VOC's own, or the part's: other tools put images and XML files side by side."""
    folder = given or (path / usual if (path / usual).is_dir() else path)
    if not folder.is_dir():
        raise InputError(f"images: expected the folder {folder}, which does not exist; {split.hint}")
    return folder


def _by_stem(folder: Path) -> dict[str, str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_image(entry.name))
    return {os.path.splitext(name)[0]: os.path.join(folder, name) for name in reversed(names)}


def _stems(part: VocPart, folder: Path, images: dict[str, str], split: Split, allowed: list[str] | None) -> list[str]:
    """What the part's list names or, without lists, every XML file."""
    present = {name[:-4] for name in os.listdir(folder) if name.endswith(".xml")}
    chosen = _list_file(part, split)
    if chosen is None:
        if not present:
            raise InputError(f"annotations: expected XML files in {folder}, found none; {split.hint}")
        return sorted(present)
    stems = list(dict.fromkeys(_stem(line, present, images) for line in read_lines(chosen)))
    files = (os.path.normpath(os.path.join(folder, stem + ".xml")) for stem in stems)
    refuse_outside(files, allowed, chosen, "line")
    return stems


def _stem(line: str, present: set[str], images: dict[str, str]) -> str:
    """The image that one line of a list means: ``000005``, ``000005 -1``, ``000005.jpg``."""
    bare = _FLAG.sub("", line)
    for word in (line, bare, os.path.splitext(os.path.basename(bare))[0]):
        if word in present or word in images:
            return word
    return bare


def _list_file(part: VocPart, split: Split) -> Path | None:
    lists = part.path / _LISTS
    if part.list is None:
        if not lists.is_dir():
            return None
        file = lists / f"{part.split}.txt"
    elif part.list.endswith(".txt"):
        file = part.path / part.list
    else:
        file = lists / f"{part.list}.txt"
    if not file.is_file():
        known = [entry.stem for entry in sorted(lists.glob("*.txt"))] if lists.is_dir() else []
        near = suggest(part.list or part.split, [name for name in known if "_" not in name]) if known else ""
        raise InputError(f"list: expected the file {file}, which does not exist{near or '; ' + split.hint}")
    return file


def _sizes(items: list[_Item], problems: list[Problem]) -> NDArray[np.int32]:
    """The XML's sizes, for its boxes are in those pixels; the image's where it has none. 0 where unreadable."""
    found, faults = image_sizes([item.file for item in items])
    problems += [Problem(items[n].file, "image", f"unreadable image: {fault}") for n, fault in faults.items()]
    own = np.array([item.annotation.size for item in items], dtype=np.int32).reshape(-1, 2)
    # Height and width exchanged: drawn on the pixels as stored, without the EXIF turn, which the loader puts right.
    other = (
        (own > 0).all(axis=1) & (found > 0).all(axis=1) & (np.sort(own, axis=1) != np.sort(found, axis=1)).any(axis=1)
    )
    reason = "size in the XML is not the image's, boxes read by the XML's"
    problems += [Problem(items[n].xml, "notice", reason) for n in np.flatnonzero(other).tolist()]
    return np.where((own > 0) & (found > 0), own, found).astype(np.int32)


# -- boxes -------------------------------------------------------------------------------------------------------------


def _index(
    items: list[_Item], sizes: NDArray[np.int32], names: list[str], root: str, problems: list[Problem]
) -> DatasetIndex:
    label_of = {name: label for label, name in enumerate(names)}
    rows = [(n, k, found) for n, item in enumerate(items) for k, found in enumerate(item.annotation.objects, start=1)]
    for n, k, found in rows:
        if found.name not in label_of:
            reason = f"unknown class '{found.name}'" if found.name else "object without a class name"
            problems.append(Problem(items[n].xml, "box", reason, k))
    rows = [row for row in rows if row[2].name in label_of]
    image = np.array([n for n, _, _ in rows], dtype=np.int64)
    xyxy = np.array([found.box for _, _, found in rows], dtype=np.float64).reshape(-1, 4)
    boxes, codes = check_boxes(xyxy, sizes[image])
    numbers = np.array([k for _, k, _ in rows], dtype=np.int64)
    problems += box_problems(codes, lambda m: items[image[m]].xml, numbers)
    keep = np.flatnonzero((codes == 0) | (codes == CLIPPED))
    kept, boxes = [rows[m][2] for m in keep.tolist()], boxes[keep]
    files = [item.file for item in items]
    return DatasetIndex(
        names=list(names),
        root=root,
        files=files,
        sizes=sizes,
        image_ids=number_images(files),
        box_image=image[keep],
        boxes=boxes,
        labels=np.array([label_of[found.name] for found in kept], dtype=np.int64),
        crowd=np.array([found.difficult for found in kept], dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        ann_ids=np.arange(1, len(keep) + 1, dtype=np.int64),
        category_ids=np.arange(len(names), dtype=np.int64),
        problems=problems,
    )
