"""Keys as text: what ``iifdet VERB --help`` and docs/keys.md say of them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel

from iifdet.config.keys import FinishedKeys, FolderKeys, TalkKeys

#: Without the first nothing goes; the last say nothing about the matter.
_PLACES = {FinishedKeys: 0, FolderKeys: 2, TalkKeys: 2}


class Key(NamedTuple):
    """One key: its value where nothing is given, what it may be if that is a choice, and its meaning."""

    name: str
    default: str
    choices: tuple[str, ...]
    meaning: str


def key_groups(kind: type[BaseModel], values: Mapping[str, Any] | None = None) -> Iterator[tuple[str, list[Key]]]:
    """Title and keys of each group: those of the class that defines them.

    Args:
        values: shown instead of the defaults.
    """
    classes = [c for c in kind.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]
    left = dict(kind.model_fields)
    groups: dict[type[BaseModel], list[Key]] = {}
    for group in classes:
        own = [name for name in inspect.get_annotations(group) if name in left]
        groups[group] = [_key(name, kind, values) for name in own]
        for name in own:
            del left[name]
    for group in sorted(groups, key=lambda c: _PLACES.get(c, 1)):
        if groups[group]:
            yield inspect.cleandoc(group.__doc__ or "").split("\n")[0], groups[group]


def _key(name: str, kind: type[BaseModel], values: Mapping[str, Any] | None) -> Key:
    field = kind.model_fields[name]
    default = field.get_default(call_default_factory=True)
    value = default if values is None else values.get(name, default)
    meaning = " ".join((field.description or "").split())
    return Key(name, as_written(value), tuple(_choices(field.annotation)), meaning)


def as_written(value: Any) -> str:
    """A value as it stands behind ``key=``; nothing for None, which is a key that is not given."""
    if value is None:
        return ""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _choices(annotation: Any) -> Iterator[str]:
    """What is written out in a Literal, be it one of several kinds of values."""
    if get_origin(annotation) is Literal:
        yield from (as_written(choice) for choice in get_args(annotation))
        return
    for part in get_args(annotation):
        yield from _choices(part)


def describe_keys(kind: type[BaseModel], values: Mapping[str, Any] | None = None, width: int = 100) -> str:
    """All keys of a verb for a terminal of so many columns."""
    blocks = []
    for title, keys in key_groups(kind, values):
        heads = [f"  {key.name}={key.default}" for key in keys]
        column = min(max(len(head) for head in heads) + 2, 34)
        lines = [_line(head, key, column, max(width, column + 30)) for head, key in zip(heads, keys, strict=True)]
        blocks.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(blocks)


def _line(head: str, key: Key, column: int, width: int) -> str:
    text = key.meaning + (f" ({' | '.join(key.choices)})" if key.choices else "")
    first = head.ljust(column) if len(head) < column - 1 else f"{head}\n{' ' * column}"
    wrapped = textwrap.wrap(text, width - column, break_long_words=False, break_on_hyphens=False)
    return first + f"\n{' ' * column}".join(wrapped)


def tabulate_keys(kind: type[BaseModel]) -> dict[str, str]:
    """Title -> the group's keys as a table in Markdown."""
    head = "| key | default | meaning |\n|---|---|---|\n"
    return {
        title: head + "\n".join(f"| `{key.name}` | {_code(key.default)} | {_cell(key)} |" for key in keys)
        for title, keys in key_groups(kind)
    }


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(key: Key) -> str:
    choices = ", ".join(_code(choice) for choice in key.choices)
    return (key.meaning + (f": {choices}" if choices else "")).replace("|", "\\|")
