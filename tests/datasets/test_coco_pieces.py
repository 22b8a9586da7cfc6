"""A COCO file read in pieces against the same file loaded whole by the standard json module."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_helpers import Document, MakeCoco, document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iifdet.datasets import DatasetIndex, coco_json, load_index, mask_store, segments
from iifdet.datasets.box_columns import BoxTable
from iifdet.datasets.coco_json import CocoFile, load_json, read_coco_json, whole_document
from iifdet.datasets.mask_store import MaskStore
from iifdet.datasets.segments import pack, pack_decoded
from iifdet.errors import InputError

POLYGON = [[1.25, 2, 30.5, 4, 9.99, 17.01], [3, 3, 8, 3, 8, 8.125]]
RLE = {"size": [60, 80], "counts": [7, 20, 4773]}


def assert_same_file(a: CocoFile, b: CocoFile) -> None:
    for ours, theirs in zip((*a.images, *a.boxes[:7]), (*b.images, *b.boxes[:7]), strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True) if isinstance(ours, np.ndarray) else ours == theirs
    assert a.categories == b.categories
    assert (a.boxes.bad_masks, a.boxes.strangers) == (b.boxes.bad_masks, b.boxes.strangers)
    masks, others = a.boxes.segments, b.boxes.segments
    assert (masks is None) == (others is None)
    if masks is not None and others is not None:
        assert [masks.coco(m) for m in range(len(masks))] == [others.coco(m) for m in range(len(others))]


def whole(file: Path, **options: Any) -> CocoFile | str:
    try:
        return whole_document(load_json(file), **options)
    except InputError as error:
        return str(error)


@pytest.fixture
def both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CocoFile | str]:
    """Write text, read it both ways with pieces of this size, compare; returns the file or the error's message."""

    def read(text: str | bytes, piece: int = 300, **options: Any) -> CocoFile | str:
        file = tmp_path / "x.json"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        monkeypatch.setattr(coco_json, "PIECE", piece)
        expected = whole(file, **options)
        if isinstance(expected, str):
            with pytest.raises(InputError) as caught:
                read_coco_json(file, **options)
            assert str(caught.value) == expected
        else:
            assert_same_file(read_coco_json(file, **options), expected)
        return expected

    return read


def many(number: int = 40) -> Document:
    """A document with enough rows for several pieces, masks of all kinds among them."""
    content, kinds = document(), [POLYGON, RLE, {"size": [60, 80], "counts": "abc"}, [], None]
    rows = content["annotations"]
    for n in range(number):
        rows.append({**rows[n % 3], "id": 100 + n, "segmentation": kinds[n % len(kinds)]})
    return content


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("piece", [1, 64, 500, 1 << 20])
def test_pieces_of_any_size_and_layout_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, piece: int
) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(many(), indent=indent))
    expected = whole_document(load_json(file))
    monkeypatch.setattr(coco_json, "PIECE", piece)
    monkeypatch.setattr(coco_json, "load_json", None)  # none of these needs to be loaded whole
    assert_same_file(read_coco_json(file), expected)


@pytest.mark.parametrize(
    "odd",
    [
        {"area": float("nan")},
        {"bbox": [1, 1, float("inf"), 5]},
        {"bbox": [10**400, 1, 5, 5]},
        {"id": "7"},
        {"id": 2**70},
        {"id": 7.0},
        {"id": True},
        {"segmentation": "x"},
        {"segmentation": [[1, 2, 3]]},
        {"segmentation": [["1", "2", "3", "4", "5", "6"]]},
        {"iscrowd": True},
        {"area": 1e305},
        {"caption": "}, {"},
        {"caption": "a}]"},
        {"parts": [{"id": 1}, {"id": 2}]},
        {"parts": [[{"id": 1}]]},
        {"caption": "\ud800"},
    ],
)
def test_odd_rows_and_misleading_braces_change_nothing(both_ways: Callable[..., Any], odd: dict[str, Any]) -> None:
    content = many()
    content["annotations"][20] |= odd
    for piece in (64, 200, 333, 1 << 20):
        assert not isinstance(both_ways(json.dumps(content), piece), str)


def test_an_odd_row_costs_the_fast_way_only_its_own_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = many(400)
    content["annotations"][200]["id"] = "x"
    (tmp_path / "x.json").write_text(json.dumps(content))
    slow, add = [], BoxTable.add_objects
    monkeypatch.setattr(BoxTable, "add_objects", lambda self, rows: (slow.append(len(rows)), add(self, rows))[1])
    monkeypatch.setattr(coco_json, "PIECE", 2000)
    assert len(read_coco_json(tmp_path / "x.json").boxes.ids) == 403
    assert len(slow) == 1 and slow[0] < 40


@pytest.mark.parametrize(
    "text",
    [
        '{"annotations": [], "images": [], "categories": []}',
        '{"images": [], "annotations": [ ] , "categories": [5]}',
        '{"info": {"annotations": [{"id": 1}]}, "images": [], "categories": [], "annotations": []}',
        '{"info": {"annotations": []}, "images": [], "categories": []}',
        '{"annotations": [{"id": 1}], "images": [], "categories": [], "annotations": [{"id": 2}, {"id": 3}]}',
        '{"annotations": [{"id": 1}, {"id": 2}, 5], "images": [7], "categories": []}',
        '{"annotations": [null, {"id": 1}, 3, {"id": 2}], "images": [{"id": 1}, {"id": 2}], "categories": []}',
        '{"annotations": [1, 2], "images": [], "categories": []}',
        '{"annotations": [{"id": 1}, {"id": 2}], "images": {}, "categories": []}',
        '{"annotations": [{"id": 1}, {"id": 2}], "images": []}',
        '{"annotations": [{"id": 1}, {"id": 2}], "images": [], "categories": []',
        '{"annotations": [{"id": 1}, {"id": 2}',
        '{"annotations": [{"id": 1}, {"id": 2}] "images": []}',
        '{"annotations": [{"id": 1},, {"id": 2}], "images": [], "categories": []}',
        '{"annotations": [{"id": 1}, {"id": 2},], "images": [], "categories": []}',
        '{"annotations": [{"id": 1} {"id": 2}], "images": [], "categories": []}',
        '[{"annotations": [{"id": 1}]}]',
        '{"annotations": 5, "images": [], "categories": []}',
        '{"annotations": [{"id": 1}, {"id": 2}], "images": [{"id": NaN}], "categories": []}',
        '\ufeff{"annotations": [{"id": 1}], "images": [], "categories": []}',
        "[" * 100_000,
        '{"annotations": [{"a": ' + "[" * 100_000,
    ],
)
def test_unusual_and_broken_files_end_as_if_loaded_whole(both_ways: Callable[..., Any], text: str) -> None:
    for piece in (1, 16, 40, 1 << 20):
        both_ways(text, piece)


def test_other_encodings_are_loaded_whole(both_ways: Callable[..., Any]) -> None:
    assert not isinstance(both_ways(json.dumps(many()).encode("utf-16")), str)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text('ab{}[], "\\', max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=6,
)
NUMBERS = st.one_of(st.integers(-9, 99), st.floats(-9, 99), st.decimals(0, 99, places=2).map(float))
USUAL = st.fixed_dictionaries(
    {"id": st.integers(), "image_id": st.integers(0, 9), "category_id": st.integers(0, 9)},
    optional={
        "bbox": st.lists(NUMBERS, min_size=4, max_size=4),
        "area": st.one_of(NUMBERS, st.none()),
        "iscrowd": st.integers(0, 1),
        "segmentation": st.one_of(
            st.lists(st.lists(NUMBERS, min_size=6, max_size=8), max_size=2), st.just(RLE), st.none()
        ),
        "caption": st.text('ab{}[], "\\', max_size=6),
    },
)
ODD = st.dictionaries(
    st.sampled_from(["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "x"]), VALUES
)
IMAGE = st.fixed_dictionaries(
    {"id": st.one_of(st.integers(0, 99), VALUES), "height": st.integers(-1, 99), "width": st.integers(0, 99)},
    optional={
        "file_name": st.one_of(st.text(max_size=4), VALUES),
        "coco_url": st.text(max_size=4),
        "neg_category_ids": st.one_of(st.lists(st.integers(), max_size=3), VALUES),
        "not_exhaustive_category_ids": st.lists(st.integers(0, 9), max_size=3),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.one_of(USUAL, USUAL, USUAL, ODD, VALUES), max_size=8),
    images=st.lists(st.one_of(IMAGE, VALUES), max_size=3),
    order=st.permutations(["annotations", "images", "categories", "info"]),
    piece=st.integers(1, 400),
    indent=st.sampled_from([None, 0, 1]),
    masks=st.booleans(),
    cut=st.one_of(st.none(), st.integers(1, 60)),
)
def test_any_document_reads_the_same_both_ways(
    both_ways: Callable[..., Any],
    rows: list[Any],
    images: list[Any],
    order: list[str],
    piece: int,
    indent: int | None,
    masks: bool,
    cut: int | None,
) -> None:
    tables = {"annotations": rows, "images": images, "categories": [{"id": 1, "name": "a"}], "info": {}}
    text = json.dumps({key: tables[key] for key in order}, indent=indent)
    both_ways(text if cut is None else text[:-cut], piece, segments=masks)


RINGS = st.lists(st.one_of(NUMBERS, st.floats(-1e4, 1e4), st.just(-0.0)), min_size=6, max_size=8)
ITEMS = st.lists(st.one_of(st.lists(RINGS, max_size=3), st.just(RLE), st.none()), max_size=6)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(ITEMS, max_size=4), few=st.booleans())
def test_masks_in_pieces_are_the_masks_at_once(pieces: list[list[Any]], few: bool) -> None:
    items = [item for piece in pieces for item in piece]
    with pytest.MonkeyPatch.context() as patch:
        for module in (segments, mask_store):
            patch.setattr(module, "SHARED_FROM", 1 << 22 if few else 0)
        store = MaskStore()
        for piece in pieces:
            store.add(pack_decoded(copy.deepcopy(piece)))
        once, bad = pack(items), store.bad
        masks = store.segments()
        assert bad == once.bad
        back = np.arange(len(items))[::-1]
        for chosen, expected in (
            (masks, items),
            (masks.select(back), items[::-1]),
            (masks.select(back[:1]), items[-1:]),
        ):
            found = [chosen.coco(m) for m in range(len(chosen))]
            assert repr(found) == repr([_even(item) for item in expected])  # repr: -0.0 is not 0.0


def _even(item: Any) -> Any:
    if not isinstance(item, list):
        return item
    whole = all(len(ring) % 2 == 0 for ring in item)
    return [[float(v) for v in ring] for ring in item] or None if whole else None


def test_a_big_file_says_what_a_small_one_says(make_coco: MakeCoco, monkeypatch: pytest.MonkeyPatch) -> None:
    content = many()
    for row in content["annotations"]:
        if row.get("segmentation") == POLYGON:
            row["segmentation"] = [[row["id"] + 0.07, 2, 30.5, 4, 9.99, 17.01], [3, 3, 8, 3, 8, 8.12]]
    data = make_coco(content)
    small = load_index(data, cache_index=False)
    for module in (segments, mask_store):
        monkeypatch.setattr(module, "SHARED_FROM", 1)
    big = load_index(data, cache_index=False)
    assert small.segments is not None and big.segments is not None
    assert (small.segments.points.dtype, small.segments.order) == (np.float64, None)
    assert big.segments.points.dtype == np.int32 and big.segments.order is not None
    for rows in (None, [2, 0], [1]):
        a, b = (index if rows is None else index.select(rows) for index in (small, big))
        assert a.digest() == b.digest()
        assert a.to_coco() == b.to_coco()
    assert isinstance(big, DatasetIndex) and big.problems == small.problems
    half = big.select([2, 0]).segments
    assert half is not None
    plain = half.plain()
    assert plain.order is None and plain.points.dtype == np.float64
    assert [plain.coco(m) for m in range(len(plain))] == [half.coco(m) for m in range(len(half))]
