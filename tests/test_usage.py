"""What --help and docs/keys.md are made of: a key's value as it is typed, its choices, its group."""

from __future__ import annotations

from typing import Any

import pytest

from iifdet.config import CONFIGS, TrainConfig, parse_value, validate
from iifdet.config.usage import as_written, describe_keys, key_groups


@pytest.mark.parametrize("verb", sorted(CONFIGS))
def test_a_default_is_shown_as_it_can_be_typed(verb: str) -> None:
    kind = CONFIGS[verb]
    plain: Any = validate(kind, {})
    typed = {key.name: parse_value(key.default) for _, keys in key_groups(kind) for key in keys if key.default}
    assert len(typed) > 5
    assert validate(kind, typed) == plain


@pytest.mark.parametrize("verb", sorted(CONFIGS))
def test_every_key_stands_in_one_group(verb: str) -> None:
    groups = list(key_groups(CONFIGS[verb]))
    names = [key.name for _, keys in groups for key in keys]
    assert sorted(names) == sorted(CONFIGS[verb].model_fields)
    assert len({title for title, _ in groups}) == len(groups) and all(title[0].isupper() for title, _ in groups)


def test_a_choice_among_other_values_is_listed_too() -> None:
    keys = {key.name: key for _, keys in key_groups(TrainConfig) for key in keys}
    assert keys["optimizer"].choices == ("sgd", "adamw")
    assert keys["cache"].choices == ("false", "ram", "disk", "device")
    assert keys["temperature"].choices == ("mean",) and not keys["lr"].choices


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (True, "true"), ((0.5, 1.5), "[0.5, 1.5]"), ({"a": 1}, "{a: 1}"), ("a", "a")]
)
def test_values_as_written(value: Any, text: str) -> None:
    assert as_written(value) == text


@pytest.mark.parametrize("width", [10, 60, 100, 200])
def test_lines_fit_the_terminal_and_lose_no_word(width: int) -> None:
    text = describe_keys(TrainConfig, width=width)
    lines = text.split("\n")
    assert max(map(len, lines)) <= max(width, 34 + 30 + 10)
    words = text.split()
    for field in TrainConfig.model_fields.values():
        assert set((field.description or "").split()) <= set(words)
