"""Objectives: their little language, and which metrics there are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iifdet.errors import InputError
from iifdet.tuning import check_objectives, flatten, parse_objective

FIGURES = {"AP": 0.5, "tail10": 0.25, "APs": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("AP", 0.5),
        ("tail10.image", None),
        ("mean(AP, tail10)", 0.375),
        ("0.8*AP + 0.2*tail10", 0.45),
        ("AP - tail10", 0.25),
        ("-1*AP", -0.5),
        ("AP+AP", 1.0),
        ("1e-1*AP", 0.05),
        ("APs", None),
    ],
)
def test_value(text: str, value: float | None) -> None:
    found = parse_objective(text).value(FIGURES)
    assert found == (None if value is None else pytest.approx(value))


@given(weights=st.lists(st.floats(0.01, 9, allow_nan=False), min_size=1, max_size=3))
def test_a_weighted_sum_is_that(weights: list[float]) -> None:
    names = ["AP", "tail10", "AP50"][: len(weights)]
    objective = parse_objective(" + ".join(f"{w:.3f}*{n}" for w, n in zip(weights, names, strict=True)))
    figures = {"AP": 0.3, "tail10": 0.2, "AP50": 0.7}
    wanted = sum(round(w, 3) * figures[n] for w, n in zip(weights, names, strict=True))
    assert objective.value(figures) == pytest.approx(wanted)


def test_what_is_not_finite_is_no_value() -> None:
    assert parse_objective("AP").value({"AP": math.nan}) is None


@pytest.mark.parametrize("text", ["", "AP tail10", "AP*0.5", "mean()", "mean(AP", "AP +", "0.5", "AP,tail10", "f(AP)"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^objective: expected metrics"):
        parse_objective(text)


def test_metrics_that_are_not_there_or_null_are_refused_by_name() -> None:
    check_objectives([parse_objective("mean(AP, tail10)")], FIGURES)
    with pytest.raises(InputError, match="unknown metric 'tail11'; did you mean 'tail10'"):
        check_objectives([parse_objective("AP"), parse_objective("tail11")], FIGURES)
    with pytest.raises(InputError, match="got APs, which is null on it"):
        check_objectives([parse_objective("APs")], FIGURES)


def test_metrics_json_by_dotted_names() -> None:
    found = flatten({"AP": 0.5, "tail5": {"image": 0.1, "instance": 0.2}, "groups": {"rare": None}, "names": ["a"]})
    assert found == {
        **{"AP": 0.5, "tail5": 0.1, "tail5.image": 0.1, "tail5.instance": 0.2},
        **{"groups.rare": None, "rare": None},
    }
