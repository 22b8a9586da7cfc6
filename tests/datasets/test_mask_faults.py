"""Masks that do not fit are named with their reason; masks that fit within the allowance are none."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import HEIGHT, WIDTH, Planted, box, square
from pycocotools import mask as coco_mask

from iifdet.datasets.mask_faults import run_lengths
from iifdet.errors import InputError
from iifdet.inspection import find_faults, read_splits

FULL = np.asfortranarray(np.pad(np.ones((30, 20), np.uint8), ((6, 24), (5, 55))))
COMPRESSED = {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(FULL)["counts"].decode()}
UNUSABLE = "unusable mask, box kept"
MASK_FAULTS: dict[str, tuple[Any, str, str]] = {
    "no mask": ([], "box without a mask among boxes with masks", "notice"),
    "two points": ([[5, 6, 25, 36]], "unusable mask, box kept", "warning"),
    "not a mask": ("5 6 25 36", "unusable mask, box kept", "warning"),
    "counts that do not add up": (
        {"size": [HEIGHT, WIDTH], "counts": [4, 5]},
        "unusable mask, box kept",
        "warning",
    ),
    "other size": (
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        "mask of another size than its image, box kept",
        "warning",
    ),
    "all zero": ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "empty mask", "warning"),
    "all zero, compressed": (
        {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(FULL * 0))["counts"].decode()},
        "empty mask",
        "warning",
    ),
    "rubbish": ({"size": [HEIGHT, WIDTH], "counts": "zzzzzzzz"}, UNUSABLE, "warning"),
    "not ASCII": ({"size": [HEIGHT, WIDTH], "counts": "é"}, UNUSABLE, "warning"),
    "cut short": ({**COMPRESSED, "counts": COMPRESSED["counts"][:-1]}, UNUSABLE, "warning"),
    "on a line": ([[5, 6, 15, 6, 25, 6]], "empty mask", "warning"),
    "far away": (square(1e9, 1e9, 20, 30), "unusable mask, box kept", "warning"),
    "outside": (square(100, 100, 20, 30), "mask outside the image", "warning"),
    "beside": (square(45, 6, 20, 30), "mask does not fit its box", "warning"),
    "half": (square(5, 6, 10, 30), "mask does not fit its box", "warning"),
    "half, run lengths": (
        {"size": [HEIGHT, WIDTH], "counts": [5 * HEIGHT, 10 * HEIGHT, 65 * HEIGHT]},
        "mask does not fit its box",
        "warning",
    ),
}


@pytest.mark.parametrize("name", MASK_FAULTS)
def test_faults_of_masks_are_found(planted: Planted, name: str) -> None:
    segmentation, reason, severity = MASK_FAULTS[name]
    planted.boxes[2]["segmentation"] = segmentation
    assert planted.found() == box(1010, reason, severity)


def test_a_mask_that_reaches_beyond_the_image_with_its_box_is_one_notice_each(planted: Planted) -> None:
    planted.boxes[2].update(bbox=[-5, 6, 30, 30], segmentation=square(-5, 6, 30, 30))
    assert planted.found() == [
        *box(1010, "box reaches beyond the image, clipped", "notice"),
        *box(1010, "mask reaches beyond the image", "notice"),
    ]


@pytest.mark.parametrize(
    "segmentation",
    [
        COMPRESSED,
        [[5, 6, 25, 36, 25, 6, 5, 36]],  # a bow tie: no shoelace area, but pixels
        square(5, 6, 8, 30) + square(20, 6, 5, 30),
        square(6.5, 7, 18, 28),
        square(4.5, 5.5, 21, 31),
    ],
)
def test_masks_that_fit_within_the_allowance_are_no_fault(planted: Planted, segmentation: Any) -> None:
    planted.boxes[2]["segmentation"] = segmentation
    assert planted.found() == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]))
def test_run_lengths_are_unpacked_as_counted_on_the_mask(seed: int, height: int, width: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(np.diff(flat, prepend=0))
    expected = np.diff(np.concatenate([[0], turns, [flat.size]])).tolist()
    assert run_lengths(coco_mask.encode(np.asfortranarray(mask))["counts"]).tolist() == expected


def test_data_without_any_masks_are_not_asked_for_them(planted: Planted) -> None:
    for document in planted.documents.values():
        for annotation in document["annotations"]:
            del annotation["segmentation"]
    assert planted.found() == []


# -- anything at all ---------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.floats(), st.integers(-9, 99)), max_size=8),
    st.just({"size": [HEIGHT, WIDTH], "counts": "0"}),
    st.builds(lambda counts: {"size": [HEIGHT, WIDTH], "counts": counts}, st.text(max_size=6)),
    st.builds(lambda ring: [ring], st.lists(st.floats(-1e9, 1e9), min_size=6, max_size=8)),
)
FIELDS = [
    *(("images", key) for key in ("id", "file_name", "height", "width")),
    *(("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.sampled_from(FIELDS), st.integers(0, 3), VALUES), min_size=1, max_size=4))
def test_whatever_the_annotations_hold_the_check_ends_in_findings_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[Any]
) -> None:
    planted = Planted(tmp_path_factory.mktemp("any"))
    for (table, key), row, drawn in edits:
        planted.documents["train"][table][row][key] = copy.deepcopy(drawn)
    with contextlib.suppress(InputError):
        for finding in find_faults(read_splits(planted.description())):
            json.dumps([finding.file, finding.reason, finding.detail, finding.box], allow_nan=False)
