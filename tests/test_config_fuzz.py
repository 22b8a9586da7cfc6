"""Any key with any value, for every verb, through the command line: a configuration, or one line and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iifdet import api
from iifdet.cli import VERBS, main
from iifdet.config import CONFIGS, resolve

#: What people type, and what they should not.
WORDS = (
    "true no null ~ auto none 0 -1 1e400 .nan -.inf 0x1f 1_000 0.5 [] [1,2] [2,1] [1,a] {} {a:1} [[ { ' !!x "
    "&a 2026-01-31 12:30 cuda:99 ../.. / coco yolov3 ssd300.yaml missing.yaml"
)
TYPED = st.one_of(
    st.sampled_from(["", "{a: {b: []}}", "- a", "a: b: c", "!!x 1", "&a [*a]", "[1, 2]", "{a: 1}", *WORDS.split()]),
    st.integers(-(10**25), 10**25).map(str),
    st.floats().map(repr),
    st.text(max_size=12),
    st.lists(st.one_of(st.integers(-9, 9), st.floats(width=16), st.text(max_size=3)), max_size=4).map(repr),
)
tried = {"configurations": 0, "refused": 0}


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A verb and some keys of its own, a few misspelt, dotted or given twice."""
    verb = draw(st.sampled_from(sorted(CONFIGS)))
    known = sorted(CONFIGS[verb].model_fields)
    key = st.one_of(
        st.sampled_from(known),
        st.sampled_from(known).map(lambda k: f"model_args.{k}"),
        st.sampled_from(known).map(lambda k: k[:-1]),
        st.text(max_size=6),
    )
    fields = sorted(CONFIGS[verb].model_fields.items())
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields}
    usual = [f"{key}={value}" for key, value in defaults.items() if value is not None]
    words = [f"{draw(key)}={draw(TYPED)}" for _ in range(draw(st.integers(0, 2)))]
    words += draw(st.lists(st.sampled_from(usual), max_size=3, unique=True))
    return [verb, *(draw(st.sampled_from(["", "--"])) + word for word in words)]


class Accepted(SystemExit):
    """A configuration came about; what it asks for is not done here."""


@pytest.fixture(scope="module", autouse=True)
def only_configurations() -> Iterator[None]:
    def stop(verb: str) -> Any:
        def run(*_: object, **keys: Any) -> None:
            resolve(CONFIGS[verb], keys)
            raise Accepted(0)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "VERBS", {verb: stop(verb) for verb in CONFIGS})
        patch.setattr(api, "compare", stop("compare"))
        yield
        print(f"tried {tried['configurations']} command lines, {tried['refused']} refused")


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=300)
@given(lines())
def test_every_command_line_is_a_configuration_or_refused_in_one_line(words: list[str]) -> None:
    _try(words)


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=10_000)
@given(lines())
def test_every_command_line_is_a_configuration_or_refused_in_one_line_many_times(words: list[str]) -> None:
    _try(words)


def _try(words: list[str]) -> None:
    if any(word in ("-h", "--help", "--traceback") for word in words):
        return
    code = main(words)
    tried["configurations"] += 1
    tried["refused"] += code == 2
    assert code in (0, 2), f"{words}: exit code {code}"


def test_every_verb_has_a_configuration_to_try() -> None:
    assert set(CONFIGS) == set(VERBS)
