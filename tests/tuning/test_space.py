"""Search spaces: what the file may say, and that proposals keep to it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.build.study_keys import read_space
from iifdet.config import read_yaml
from iifdet.errors import InputError
from iifdet.resources import resource_names, resource_path
from iifdet.tuning import SAMPLERS, SeededByTrial, Space, parse_space

CONDITIONAL = """
optimizer: [sgd, adamw]
momentum: {type: float, low: 0.5, high: 0.9, when: {optimizer: sgd}}
nesterov: {choices: [a, b], when: {optimizer: sgd}}
depth: {type: int, low: 1, high: 9, step: 2, when: {nesterov: b}}
lr: {type: float, low: 1e-4, high: 1e-1, log: true}
epochs: 7
"""


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text))


def propose(space: Space, number: int, sampler: str = "random", seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=SeededByTrial(SAMPLERS[sampler], seed, space))
    return [space.suggest(study.ask()) for _ in range(number)]


def test_proposals_keep_to_ranges_steps_conditions_and_fixed_values() -> None:
    found = propose(space_of(CONDITIONAL), 200)
    for values in found:
        assert values["epochs"] == 7 and 1e-4 <= values["lr"] <= 1e-1
        assert ("momentum" in values) == ("nesterov" in values) == (values["optimizer"] == "sgd")
        assert ("depth" in values) == (values.get("nesterov") == "b")
        assert 0.5 <= values.get("momentum", 0.5) <= 0.9 and values.get("depth", 1) in (1, 3, 5, 7, 9)
    assert {v["depth"] for v in found if "depth" in v} == {1, 3, 5, 7, 9}


def test_a_log_range_is_drawn_evenly_by_its_logarithm() -> None:
    values = [v["lr"] for v in propose(space_of("lr: {type: float, low: 1e-4, high: 1e-2, log: true}"), 400)]
    assert sum(v < 1e-3 for v in values) / 400 == pytest.approx(0.5, abs=0.1)


def test_a_condition_may_stand_before_what_it_hangs_on() -> None:
    space = space_of("a: {choices: [1, 2], when: {b: x}}\nb: [x, y]")
    assert [p.name for p in space.parameters] == ["b", "a"]


def test_the_start_has_those_keys_that_are_in_play() -> None:
    space = space_of(
        "o: {choices: [sgd, adam], start: sgd}\nm: {low: 0, high: 1, start: 0.5, when: {o: sgd}}\n"
        "b: {low: 0, high: 1, start: 0.5, when: {o: adam}}\nfree: {low: 0, high: 1}"
    )
    assert space.start() == {"o": "sgd", "m": 0.5}


def test_a_grid_has_every_combination_once() -> None:
    grid = space_of(CONDITIONAL).grid(3)
    assert len({repr(sorted(p.items())) for p in grid}) == len(grid) == 3 * (3 * (1 + 3) + 1)
    assert sorted({round(p["lr"], 9) for p in grid}) == pytest.approx([1e-4, 10**-2.5, 1e-1])


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(-100, 100),
    width=st.floats(0.01, 100),
    points=st.integers(2, 9),
    step=st.one_of(st.none(), st.floats(0.01, 1)),
)
def test_grid_values_lie_in_the_range_and_on_its_steps(low: float, width: float, points: int, step: float) -> None:
    description: dict[str, Any] = {"type": "float", "low": low, "high": low + width}
    if step is not None and step <= 0.9 * width:
        description["step"] = step
    parameter = parse_space({"x": description}).parameters[0]
    values = parameter.grid(points)
    assert len(values) <= points and len(set(values)) == len(values)
    assert all(low - 1e-9 <= v <= low + width + 1e-9 for v in values) and values[0] == pytest.approx(low)
    if "step" in description:
        assert all(math.isclose((v - low) / step, round((v - low) / step), abs_tol=1e-6) for v in values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: {type: flaot, low: 0, high: 1}", "lr: expected type float, int or categorical.*did you mean 'float'"),
        ("lr: {type: float, low: 0, hihg: 1}", "lr: unknown word 'hihg'; did you mean 'high'"),
        ("lr: {type: float, low: 1, high: 0}", "lr: expected numbers low < high"),
        ("lr: {type: float, low: a, high: 1}", "lr: expected numbers low < high"),
        ("lr: {type: float, low: 0, high: 1, log: true}", "lr: expected log: true with low above 0"),
        ("lr: {type: float, low: 0, high: 1, step: 2}", "lr: expected a step between"),
        ("n: {type: int, low: 0.5, high: 3}", "n: expected whole numbers"),
        ("n: {type: int, low: 1, high: 3, start: 4}", "n: expected a start inside"),
        ("o: {choices: []}", "o: expected choices"),
        ("o: [a, a]", "o: expected plain values, each once"),
        ("o: [[1], [2]]", "o: expected plain values"),
        ("o: {choices: [a], start: b}", "o: expected a start inside"),
        ("o: [a, b]\nm: {low: 0, high: 1, when: {p: a}}", "m: 'when' names p, which is not here"),
        ("o: [a, b]\nm: {low: 0, high: 1, when: {o: c}}", "m: 'when' wants o=c, which it never is"),
        ("o: {low: 0, high: 1}\nm: {low: 0, high: 1, when: {o: 1}}", "expected 'when' on a key with choices"),
        ("a: {choices: [1], when: {b: 1}}\nb: {choices: [1], when: {a: 1}}", "without a circle"),
        ("lr: 0.1", "expected a key to search, got none"),
    ],
)
def test_what_makes_no_space_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        space_of(text)
    assert str(caught.value).startswith("space: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [n for n in resource_names("cfg") if n.startswith("tune/")])
def test_spaces_that_come_along_can_be_read(name: str) -> None:
    path = resource_path("cfg", name)
    assert path is not None
    assert propose(parse_space(read_yaml(path)), 5)


def test_the_papers_space_starts_with_the_papers_coefficients() -> None:
    recipe, space = (read_yaml(str(resource_path("cfg", n))) for n in ("yolov3", "tune/yolov3"))
    start = parse_space(space).start()
    assert start == {f"model_args.{k}": v for k, v in recipe["model_args"].items() if k != "class_loss"}


def test_keys_without_a_meaning_leave_with_what_hangs_on_them() -> None:
    space = space_of(
        "o: [a, b]\nm: {low: 0, high: 1, when: {o: a}}\nx: {low: 0, high: 1}\nc: {choices: [p, q], start: q}"
    )
    assert [p.name for p in space.without({"o"}, "").parameters] == ["x", "c"]
    with pytest.raises(InputError, match="expected a key to search beside"):
        space_of("o: [a, b]").without({"o"}, "it means nothing")
    last = next(p for p in space.without_choice("c", "q").parameters if p.name == "c")
    assert (last.choices, last.start) == (("p",), None)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "space: expected YAML"), ("- 1", "space: expected a mapping")])
def test_a_file_that_holds_no_space_is_called_a_space(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_space(str(tmp_path / "space.yaml"))
