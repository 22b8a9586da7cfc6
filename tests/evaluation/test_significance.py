"""McNemar's test against scipy, and which boxes count as found."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iifdet.evaluation.matching import match_records
from iifdet.evaluation.significance import false_alarms, found_boxes, mcnemar, score_of_alarms


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


def scored(scores: list[float], hits: list[bool]) -> Any:
    """Records of one class: a box an image, and a detection that hits it or misses."""
    images = range(1, len(scores) + 1)
    truth = {
        "images": [{"id": i} for i in images],
        "categories": [{"id": 1}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 10, 10]} for i in images],
    }
    boxes = [[i, 0 if hit else 50, 0, 10, 10, s, 1] for i, s, hit in zip(images, scores, hits, strict=True)]
    return match_records(truth, np.array(boxes, float), [1])


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=30), st.integers(0, 100))
def test_a_run_with_other_scores_in_the_same_order_finds_the_same_boxes(
    found: list[tuple[int, bool]], percent: int
) -> None:
    """At one threshold for both, the root of each score would find more, with more false alarms."""
    scores, hits = [s / 100 for s, _ in found], [hit for _, hit in found]
    first, second = scored(scores, hits), scored([math.sqrt(s) for s in scores], hits)
    alarms, others = false_alarms(first), false_alarms(second)
    allowed = int((alarms >= percent / 100).sum())
    same = score_of_alarms(alarms, allowed)
    mine, theirs = found_boxes(first, same), found_boxes(second, score_of_alarms(others, allowed))
    assert mine.tolist() == theirs.tolist()
    assert (alarms >= same).sum() == (others >= score_of_alarms(others, allowed)).sum() == allowed


def test_equal_scores_are_on_one_side_of_the_threshold() -> None:
    alarms = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    assert [(alarms >= score_of_alarms(alarms, n)).sum() for n in range(6)] == [0, 1, 1, 1, 4, 5]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_the_exact_test_of_images_counts_every_choice_of_signs(differences: list[int]) -> None:
    a = np.concatenate([[True] * max(-d, 0) + [False] * max(d, 0) for d in differences]).astype(bool)
    image = np.repeat(np.arange(len(differences)), np.abs(differences))
    sizes = [abs(d) for d in differences if d]
    sums = [abs(sum(s * d for s, d in zip(signs, sizes, strict=True))) for signs in product((1, -1), repeat=len(sizes))]
    expected = np.mean([s >= abs(sum(differences)) for s in sums])
    assert mcnemar(a, ~a, image).p_clustered == pytest.approx(expected)


@given(st.integers(0, 12), st.integers(0, 11))
def test_with_one_box_an_image_the_test_of_images_is_that_of_boxes(first: int, second: int) -> None:
    found = mcnemar(*paired(3, first, second, 2))
    assert found.exact and found.p_clustered == pytest.approx(found.p)


def test_false_alarms_of_some_classes() -> None:
    records = scored([0.9, 0.5, 0.4], [False, True, False])
    assert false_alarms(records, labels=np.array([0])).tolist() == [0.9, 0.4] == false_alarms(records).tolist()
    assert not len(false_alarms(records, labels=np.array([1])))


def test_negative_scores_are_scores_like_others() -> None:
    """Logits in place of probabilities: where all false alarms are allowed, no hit is too low."""
    alarms = np.array([-0.5, -2.0])
    assert score_of_alarms(alarms, 2) < -1e300
    assert -np.inf < score_of_alarms(alarms, 2)  # what nothing found has -inf, and is not found
