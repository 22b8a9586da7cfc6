"""From defaults, recipe and ``key=value`` to a checked configuration."""

from __future__ import annotations

from datetime import date
from os import PathLike
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from iifdet.config.recipes import read_recipe
from iifdet.errors import InputError, brief, suggest

C = TypeVar("C", bound=BaseModel)


def resolve(kind: type[C], overrides: dict[str, Any]) -> C:
    """Merge defaults, the recipe that ``model`` names, and overrides (dotted keys reach into dictionaries).

    Raises:
        InputError: unknown key (with the nearest known one), bad value, unreadable recipe.
    """
    values = _nest(overrides)
    recipe = read_recipe(kind, values.get("model")) if "model" in kind.model_fields else {}
    merged = {**recipe, **values}
    if isinstance(recipe.get("model_args"), dict) and isinstance(values.get("model_args"), dict):
        merged["model_args"] = _overlaid(recipe["model_args"], values["model_args"])
    if recipe:
        merged["model"] = recipe["model"]
    if merged.get("batch") == "auto" and "auto_batch" in kind.model_fields:
        own, default = recipe.get("batch"), kind.model_fields["batch"].default
        merged |= {"batch": default if own in (None, "auto") else own, "auto_batch": True}
    return validate(kind, merged)


def _overlaid(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options of a model; those of a class loss are kept where it is the same loss."""
    first, second = recipe.get("class_loss"), given.get("class_loss")
    both = {**recipe, **given}
    for name, options in second.items() if isinstance(second, dict) else ():
        own = first.get(name) if isinstance(first, dict) else None
        if isinstance(own, dict) and isinstance(options, dict):
            both["class_loss"] = {name: {**own, **options}}
    return both


def validate(kind: type[C], values: dict[str, Any]) -> C:
    """Values as they are, no recipe looked up, to a configuration.

    Raises:
        InputError: unknown key (with the nearest known one), or bad value.
    """
    unknown = [key for key in values if key not in kind.model_fields]
    if unknown:
        raise InputError(f"{unknown[0]}: unknown key{suggest(unknown[0], kind.model_fields)}")
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        raise InputError(f"{key}: {_expected(kind, key, _said(first))}, got {brief(first['input'])}") from error


#: How pydantic's kinds of errors are said here.
_SAID = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list such as [a, b]",
    "tuple_type": "expected a list such as [a, b]",
    "dict_type": "expected a mapping such as {{a: 1}}",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge:g}",
    "less_than": "expected less than {lt:g}",
    "less_than_equal": "expected at most {le:g}",
}


def _said(error: Any) -> str:
    if error["type"] in _SAID:
        return _SAID[error["type"]].format(**error.get("ctx", {}))
    message = error["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _expected(kind: type[BaseModel], key: str, message: str) -> str:
    annotation = kind.model_fields[key].annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = tuple(get_args(k)[0] if get_origin(k) is Annotated else k for k in kinds if k is not NoneType)
    choices = [choice for k in kinds if get_origin(k) is Literal for choice in get_args(k) if isinstance(choice, str)]
    if not choices:
        return message
    others = any(get_origin(k) is not Literal for k in kinds)  # such as a number
    return f"{message}, or one of {', '.join(choices)}" if others else f"expected one of {', '.join(choices)}"


def path_as_text(value: Any) -> Any:
    """A value as keys have it."""
    return str(value) if isinstance(value, PathLike) else value


def _nest(overrides: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        value = path_as_text(value)
        head, dot, rest = key.partition(".")
        if dot:
            nested[head] = _merged(key, nested.get(head, {}), _nest({rest: value}))
        else:
            nested[key] = _merged(key, value, nested[key]) if key in nested else value
    return nested


def _merged(key: str, first: Any, second: Any) -> dict[str, Any]:
    """One dictionary in another, as deep as both go."""
    plain = next((value for value in (first, second) if not isinstance(value, dict)), None)
    if plain is not None:
        raise InputError(f"{key}: expected it to be given once, got {brief(plain)} as well; drop one")
    deep = {k for k in first.keys() & second.keys() if isinstance(first[k], dict) or isinstance(second[k], dict)}
    return {**first, **second, **{k: _merged(key, first[k], second[k]) for k in deep}}


def parse_value(text: str) -> Any:
    """One command-line value, read as YAML: ``[35, 55]``, ``true``, ``0.1``, ``name``.

    A name may look like a date, an octal number or a time of day (2026-01-31, 007, 12:30): those stay text.
    """
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError):  # ValueError: 2026-13-01
        return text
    odd = isinstance(value, date) or (type(value) is int and str(value) != text)
    return text if odd else value
