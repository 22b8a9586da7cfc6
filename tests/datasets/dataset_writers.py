"""Small writers, one a format: an index to files on disk, and the description that reads them back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from iifdet.datasets import READERS, DatasetIndex

Writer = Callable[[DatasetIndex, Path], dict[str, Any]]


def write_coco(index: DatasetIndex, folder: Path) -> dict[str, Any]:
    """One JSON file and a folder of links to the images."""
    _link(index, folder / "images")
    document = index.to_coco()
    for image, file in zip(document["images"], index.files, strict=True):
        image["file_name"] = Path(file).name
    (folder / "train.json").write_text(json.dumps(document))
    return {"format": "coco", "path": str(folder), "train": {"images": "images", "annotations": "train.json"}}


def write_lvis(index: DatasetIndex, folder: Path) -> dict[str, Any]:
    """COCO's form with images named by their address alone, and the lists and counts that LVIS adds."""
    content = write_coco(index, folder)
    document = json.loads((folder / "train.json").read_text())
    counts = index.counts()
    for image in document["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for label, category in enumerate(document["categories"]):
        images = int(counts.images[label])
        category |= {"image_count": images, "instance_count": int(counts.instances[label])}
        category["frequency"] = "r" if images <= 10 else "c" if images <= 100 else "f"
    for annotation in document["annotations"]:
        del annotation["iscrowd"]
    (folder / "train.json").write_text(json.dumps(document))
    return {**content, "format": "lvis", "train": {"images": ".", "annotations": "train.json"}}


def write_yolo(index: DatasetIndex, folder: Path) -> dict[str, Any]:
    """A text file an image: boxes, and polygons where a box has exactly one."""
    _link(index, folder / "images")
    (folder / "labels").mkdir()
    for row, (file, (height, width)) in enumerate(zip(index.files, index.sizes.tolist(), strict=True)):
        lines = []
        for m in range(index.boxes_of(row).start, index.boxes_of(row).stop):
            polygons = None if index.segments is None else index.segments.coco(m)
            if isinstance(polygons, list) and len(polygons) == 1:
                shares = [v / (width, height)[k % 2] for k, v in enumerate(polygons[0])]
            else:
                x1, y1, x2, y2 = index.boxes[m].astype(float)
                shares = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            lines.append(" ".join([str(index.labels[m]), *(f"{v:.9f}" for v in shares)]))
        if lines:
            (folder / "labels" / Path(file).with_suffix(".txt").name).write_text("\n".join(lines))
    return {"path": str(folder), "train": "images", "names": index.names}


def write_voc(index: DatasetIndex, folder: Path) -> dict[str, Any]:
    """An XML file an image and a list of them; crowds are ``difficult``."""
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    _link(index, folder / "JPEGImages")
    for row, file in enumerate(index.files):
        objects = "".join(_voc_object(index, m) for m in range(index.boxes_of(row).start, index.boxes_of(row).stop))
        (folder / "Annotations" / Path(file).with_suffix(".xml").name).write_text(
            f"<annotation><filename>{escape(Path(file).name)}</filename>{_voc_size(index, row)}{objects}</annotation>"
        )
    stems = [Path(file).stem for file in index.files]
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems))
    return {"format": "voc", "path": str(folder), "train": ".", "names": index.names}


def _voc_size(index: DatasetIndex, row: int) -> str:
    height, width = index.sizes[row].tolist()
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


def _voc_object(index: DatasetIndex, m: int) -> str:
    x1, y1, x2, y2 = index.boxes[m].astype(float).tolist()
    sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
    box = "".join(f"<{side}>{value:.10g}</{side}>" for side, value in sides.items())
    name, difficult = escape(index.names[index.labels[m]]), int(index.crowd[m])
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def _link(index: DatasetIndex, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in index.files:
        (folder / Path(file).name).symlink_to(file)


#: format -> writer. A new format is one function and one line here.
WRITERS: dict[str, Writer] = {
    name: writer
    for name, writer in {"coco": write_coco, "lvis": write_lvis, "yolo": write_yolo, "voc": write_voc}.items()
    if name in READERS
}
#: Those whose files can hold polygons, and crowds (or what the format calls so).
WITH_MASKS, WITH_CROWDS = [name for name in WRITERS if name != "voc"], ("coco", "voc")
