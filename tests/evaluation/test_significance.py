"""McNemar's test against scipy, and which boxes count as found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from iifdet.evaluation.matching import match_records
from iifdet.evaluation.significance import found_boxes, mcnemar


def paired(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    cells = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return tuple(np.array(cells, bool).reshape(-1, 2).T)  # type: ignore[return-value]


@pytest.mark.parametrize("cells", [(9, 0, 0, 4), (0, 3, 9, 0), (5, 24, 0, 1), (50, 12, 12, 7), (3, 1, 23, 0)])
def test_few_discordant_boxes_get_the_exact_binomial_test(cells: tuple[int, int, int, int]) -> None:
    from scipy.stats import binomtest

    found = mcnemar(*paired(*cells))
    assert (found.both, found.first, found.second, found.neither) == cells and found.exact
    n = cells[1] + cells[2]
    assert found.p == pytest.approx(binomtest(cells[1], n).pvalue if n else 1.0)


@pytest.mark.parametrize("cells", [(0, 25, 0, 0), (100, 40, 62, 9), (5, 30, 30, 5)])
def test_many_get_chi_squared_with_continuity_correction(cells: tuple[int, int, int, int]) -> None:
    from scipy.stats import chi2

    found, (_, b, c, _) = mcnemar(*paired(*cells)), cells
    assert not found.exact
    assert found.p == pytest.approx(chi2.sf(max(abs(b - c) - 1, 0) ** 2 / (b + c), 1))


def test_boxes_of_one_image_are_not_taken_for_independent() -> None:
    a, b = paired(4, 20, 60, 6)
    alone = mcnemar(a, b)
    assert alone.p_clustered == pytest.approx(math.erfc(40 / math.sqrt(80) / math.sqrt(2)))
    fourfold = mcnemar(np.repeat(a, 4), np.repeat(b, 4), np.repeat(np.arange(len(a)), 4))
    assert fourfold.p < alone.p / 1e6  # four copies of each box in its image tell nothing new
    assert fourfold.p_clustered == pytest.approx(alone.p_clustered)
    assert mcnemar(a, a).p_clustered == 1


def test_a_box_is_found_by_one_sure_detection_of_its_class_and_images_without_any_count() -> None:
    truth: dict[str, Any] = {"images": [{"id": i} for i in (1, 2, 3)], "categories": [{"id": 5}, {"id": 6}]}
    boxes = [(1, 5, [0, 0, 10, 10]), (1, 5, [0, 1, 10, 10]), (2, 6, [0, 0, 10, 10]), (3, 5, [0, 0, 10, 10])]
    truth["annotations"] = [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in boxes]
    found = np.array(
        [
            [1, 0, 0, 10, 10, 0.9, 5],  # on the first box; the second one stays without
            [2, 0, 0, 10, 10, 0.9, 5],  # wrong class
            [2, 0, 0, 10, 10, 0.1, 6],  # right class, not sure
        ]
    )  # nothing in image 3
    records = match_records(truth, found, [5, 6])
    assert records.truth_image.tolist() == [0, 0, 2, 1]
    assert found_boxes(records, score=0.25).tolist() == [True, False, False, False]
    assert found_boxes(records, score=0.05).tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match="same boxes"):
        mcnemar(found_boxes(records), np.array([True]))
