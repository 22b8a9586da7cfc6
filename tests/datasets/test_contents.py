"""The same picture is found by bytes and by pixels, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import Planted, noise

from iifdet.datasets.contents import find_repetitions, find_repetitions_within, read_contents


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=6),
    second=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=6),
)
def test_repetitions_are_those_of_the_pictures_however_they_were_saved(
    tmp_path: Path, first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    """Each file is (which picture, how it was saved: PNG, PNG uncompressed, BMP)."""

    def save(name: str, picture: int, how: int) -> str:
        file = str(tmp_path / f"{name}{'.bmp' if how == 2 else '.png'}")
        cv2.imwrite(file, noise(picture, 8, 9), [cv2.IMWRITE_PNG_COMPRESSION, 0] if how == 1 else [])
        return file

    a = [save(f"a{n}", *each) for n, each in enumerate(first)]
    b = [save(f"b{n}", *each) for n, each in enumerate(second)]
    contents = read_contents([*a, *b])
    picture = dict(zip([*a, *b], (p for p, _ in [*first, *second]), strict=True))
    how = dict(zip([*a, *b], (h for _, h in [*first, *second]), strict=True))

    across = find_repetitions(a, b, contents)
    assert [r.file for r in across] == [f for f in b if picture[f] in {p for p, _ in first}]
    within = find_repetitions_within(a, contents)
    assert [r.file for r in within] == [f for n, f in enumerate(a) if picture[f] in {p for p, _ in first[:n]}]
    for r in [*across, *within]:
        assert picture[r.file] == picture[r.first]
        assert (r.how == "equal bytes") >= (how[r.file] == how[r.first])
    known = {(picture[f], how[f]) for f in a}
    assert all((r.how == "equal bytes") == ((picture[r.file], how[r.file]) in known) for r in across)


def test_a_picture_compressed_anew_with_loss_is_another_one(planted: Planted, tmp_path: Path) -> None:
    for quality in (80, 90):
        cv2.imwrite(str(tmp_path / f"{quality}.jpg"), noise(0), [cv2.IMWRITE_JPEG_QUALITY, quality])
    files = [str(tmp_path / f"{quality}.jpg") for quality in (80, 90)]
    assert find_repetitions_within(files, read_contents(files)) == []
