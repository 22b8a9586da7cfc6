"""Broken annotation files of every format end in an InputError or in a sound index, never in another exception.

A few examples of each format in the usual run, 2,400 and more with ``-m slow``; the summary prints their number.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_helpers import SIZES, assert_sound, document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iifdet.datasets import READERS, load_index
from iifdet.errors import InputError

Files = dict[str, bytes]

# -- valid data sets ---------------------------------------------------------------------------------------------------


def lvis_document() -> dict[str, Any]:
    """The same with what LVIS adds."""
    content = coco_document()
    for image, negative in zip(content["images"], ([17], [], [3, 90]), strict=True):
        image["coco_url"] = f"http://x/images/{image.pop('file_name')}"
        image |= {"neg_category_ids": negative, "not_exhaustive_category_ids": [3][: len(negative)]}
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category |= {"frequency": frequency, "image_count": 4, "instance_count": 9}
    return content


def coco_document() -> dict[str, Any]:
    """The usual three images with a polygon, a run-length mask and a compressed one."""
    from pycocotools import mask as coco_mask

    content = document()
    canvas = np.zeros(SIZES[0], dtype=np.uint8, order="F")
    canvas[:8, :8] = 1
    packed = coco_mask.encode(canvas)
    content["annotations"][0]["segmentation"] = [[5, 6, 25, 6, 25, 36]]
    content["annotations"][1]["segmentation"] = {"size": [60, 80], "counts": [600, 20, 4180]}
    content["annotations"][2]["segmentation"] = {"size": [60, 80], "counts": packed["counts"].decode()}
    return content


VOC_XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>x</folder><filename>0.png</filename>
<size><width>80</width><height>60</height><depth>3</depth></size>
<object><name>car</name><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>36</ymax></bndbox></object>
<object><name>bus</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>80</xmax><ymax>60</ymax></bndbox></object>
</annotation>"""
YOLO_ROWS = "1 0.5 0.5 0.5 0.25\n2 0.1 0.2 0.5 0.2 0.5 0.4\n0 0.25 0.25 0.5 0.5\n"


@dataclass(frozen=True)
class Format:
    """A valid data set, and how its annotations may be broken with their form kept."""

    description: dict[str, Any]
    files: Files
    edited: st.SearchStrategy[Files]


# -- breaking them with their form kept --------------------------------------------------------------------------------

EXTREME = st.sampled_from([0, 1e9, -1e9, 1e300, 2**63, 2**31])
NUMBER = st.one_of(st.integers(-9, 99), st.integers(), st.floats(), EXTREME)
SIZE = st.one_of(st.sampled_from([[60, 80], [0, 0], [80, 60], [2**40, 1]]), st.lists(NUMBER, max_size=3))
RUNS = st.one_of(st.text(max_size=9), st.text("0123PQ`abo@_", max_size=12), st.lists(NUMBER, max_size=4))
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    NUMBER,
    st.text(max_size=4),
    st.sampled_from(["../x.png", "/", ".", "0.png\0", "a" * 300 + ".png", "1.png"]),
    st.lists(st.one_of(NUMBER, st.text(max_size=2)), max_size=8),
    st.lists(NUMBER, min_size=4, max_size=4),
    st.lists(st.lists(NUMBER, max_size=9), max_size=3),
    st.fixed_dictionaries({"size": SIZE, "counts": RUNS}),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner)),
)
COCO_KEYS = {
    "images": ["id", "file_name", "height", "width"],
    "annotations": ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"],
    "categories": ["id", "name"],
}
LVIS_KEYS = {
    "images": ["id", "coco_url", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"],
    "annotations": COCO_KEYS["annotations"],
    "categories": ["id", "name", "frequency", "image_count", "instance_count"],
}


@st.composite
def edited_json(draw: st.DrawFn, document: Callable[[], dict[str, Any]], keys: dict[str, list[str]]) -> Files:
    """Values of a document replaced, entries replaced, whole tables replaced."""
    content: Any = document()
    place = st.sampled_from([(table, key) for table, known in keys.items() for key in [*known, None]])
    for (table, key), row, value in draw(st.lists(st.tuples(place, st.integers(0, 2), VALUE), max_size=4)):
        value = copy.deepcopy(value)  # strategies hand out one object many times; JSON has no cycles
        if key is None or not isinstance(content[table][row], dict):
            content[table][row] = value
        else:
            content[table][row][key] = value
    if draw(st.integers(0, 9)) == 0:
        content[draw(st.sampled_from([*keys, "info"]))] = draw(VALUE)
    return {"train.json": json.dumps(content).encode("utf-8", "surrogatepass")}


WORD = st.one_of(st.floats().map(str), st.floats(-0.1, 1.1).map(str), st.integers(-2, 4).map(str), st.text(max_size=3))
ROWS = st.lists(st.lists(WORD, max_size=9).map(" ".join), max_size=5).map("\n".join)


@st.composite
def edited_yolo(draw: st.DrawFn) -> Files:
    """Rows of any words, or good rows with a word replaced; a list of images with any lines."""
    rows = [line.split() for line in YOLO_ROWS.splitlines()]
    line = draw(st.sampled_from(rows))
    line[draw(st.integers(0, len(line) - 1))] = draw(WORD)
    text = draw(st.one_of(ROWS, st.just("\n".join(" ".join(words) for words in rows))))
    names = st.sampled_from(["images/0.png", "./images/1.png", "images/none.png", "labels/0.txt", "..", "\ufeff"])
    listed = draw(st.lists(st.one_of(names, st.text(max_size=5)), min_size=1, max_size=4))
    return {"labels/0.txt": encoded(text), "list.txt": encoded("\n".join(["images/0.png", *listed]))}


TAGS = ["annotation", "filename", "size", "width", "height", "object", "name", "difficult", "bndbox", "xmin", "ymax"]
XML_TEXT = st.one_of(NUMBER.map(str), st.text(max_size=5), st.sampled_from(["car", "tram", "", "&x;", "<a/>", "]]>"]))
PROLOGS = [
    '<!DOCTYPE a [<!ENTITY x "y">]>',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">',
    '<?xml version="1.0" encoding="gb2312"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="no-such"?>',
]


@st.composite
def edited_voc(draw: st.DrawFn) -> Files:
    """Texts of elements replaced, elements renamed, left out or repeated; prologs; a list with any lines."""
    xml = VOC_XML
    for tag, text, how in draw(st.lists(st.tuples(st.sampled_from(TAGS), XML_TEXT, st.integers(0, 4)), max_size=4)):
        start, end = xml.find(f"<{tag}>"), xml.find(f"</{tag}>")
        if start < 0 or end < start:
            continue
        body, after = xml[start + len(tag) + 2 : end], end + len(tag) + 3
        whole = xml[start:after]
        changed = [f"<{tag}>{text}</{tag}>", "", whole * 3, f"<other>{body}</other>", f"<{tag}>{body}{body}</{tag}>"]
        xml = xml[:start] + changed[how] + xml[after:]
    if draw(st.integers(0, 4)) == 0:
        xml = draw(st.sampled_from(PROLOGS)) + xml.split("?>", 1)[-1]
    names = st.sampled_from(["1", "2 -1", "none", "0.png", "../0", "0 1"])
    listed = draw(st.lists(st.one_of(names, st.text(max_size=5)), max_size=4))
    return {"Annotations/0.xml": encoded(xml), "ImageSets/Main/train.txt": encoded("\n".join(["0", *listed]))}


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


ALL = {
    "coco": Format(
        {"format": "coco", "train": {"images": "images", "annotations": "train.json"}},
        {"train.json": json.dumps(coco_document()).encode()},
        edited_json(coco_document, COCO_KEYS),
    ),
    "lvis": Format(
        {"format": "lvis", "train": {"images": ".", "annotations": "train.json"}},
        {"train.json": json.dumps(lvis_document()).encode()},
        edited_json(lvis_document, LVIS_KEYS),
    ),
    "yolo": Format(
        {"train": ["images", "list.txt"], "names": ["car", "bus", "tram"]},
        {"labels/0.txt": YOLO_ROWS.encode(), "labels/1.txt": b"", "list.txt": b"./images/0.png\nimages/1.png\n"},
        edited_yolo(),
    ),
    "voc": Format(
        {"format": "voc", "train": {"images": "images"}},
        {
            "Annotations/0.xml": VOC_XML.encode(),
            "Annotations/1.xml": VOC_XML.replace("0.png", "1.png").encode(),
            "ImageSets/Main/train.txt": b"0\n1\n",
        },
        edited_voc(),
    ),
}
FORMATS = [name for name in ALL if name in READERS]

# -- breaking bytes ----------------------------------------------------------------------------------------------------


DEEP = [b"[[" * 40, b"<a>" * 40]
SPECIAL = [b"\0", b"\xff", b"NaN", b"1e999", b"-", b"9" * 30, b"[", b"}", b"<", b"&", b"\n", b'"', *DEEP]


@st.composite
def broken_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Good bytes with pieces left out, repeated, overwritten or put in between; or any bytes at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=60))
    data = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        piece = data[start : start + draw(st.integers(0, 12))]
        after = data[start + len(piece) :]
        new = draw(st.one_of(st.just(b""), st.binary(max_size=4), st.just(piece * 2), st.sampled_from(SPECIAL)))
        data = data[:start] + new + after
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 5)) == 0 else data


@st.composite
def broken_files(draw: st.DrawFn, format_: Format) -> Files:
    """Some of a data set's files, broken one way or the other."""
    if draw(st.booleans()):
        return draw(format_.edited)
    name = draw(st.sampled_from(sorted(format_.files)))
    return {name: draw(broken_bytes(format_.files[name]))}


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "images").mkdir()
    for n, (height, width) in enumerate(SIZES):
        cv2.imwrite(str(root / "images" / f"{n}.png"), np.full((height, width, 3), 40 * n, np.uint8))
    return root


def read(root: Path, format_: Format, files: Files) -> Any:
    for name, data in {**format_.files, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return load_index({**format_.description, "path": str(root)}, max_bad=1.0, cache_index=False)


@pytest.mark.parametrize("name", FORMATS)
def test_the_unbroken_files_are_read_without_problems(folder: Path, name: str) -> None:
    index = read(folder, ALL[name], {})
    assert_sound(index)
    assert index.problems == [] and len(index.labels) >= 3 and len(index) >= 2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("examples", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_broken_files_give_a_sound_index_or_an_input_error(
    folder: Path,
    record_property: Callable[[str, object], None],
    caplog: pytest.LogCaptureFixture,
    name: str,
    examples: int,
) -> None:
    caplog.set_level(logging.ERROR, "iifdet")
    tried: Counter[str] = Counter()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(files=broken_files(ALL[name]))
    def check(files: Files) -> None:
        tried["all"] += 1
        with contextlib.suppress(InputError):
            assert_sound(read(folder, ALL[name], files))
            tried["read"] += 1

    check()
    record_property("fuzzed files", tried["all"])
    assert tried["all"] >= examples
    assert tried["read"] > examples / 10  # or the mutations would only ever try the first check
