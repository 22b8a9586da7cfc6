"""YAML recipes: which one a model's name stands for, and what of it a verb takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from iifdet.config.training import TrainConfig
from iifdet.errors import InputError, suggest
from iifdet.resources import resource_names, resource_path

#: Names of classifiers -> the recipe whose image size, augmentation and schedule suit them.
FAMILIES = {
    r"(se_)?resnet(20|32|44|56)": "classify/cifar10-lt-softmax",
    r"(se_)?(resnet(50|152)|resnext50_32x4d)": "classify/imagenet-lt-softmax",
}


def read_recipe(kind: type[BaseModel], model: Any) -> dict[str, Any]:
    """The recipe that ``model`` names: a YAML file, or a name in cfg/. Other verbs take only the keys they know."""
    name = kind.model_fields["model"].default if model is None else model
    if not isinstance(name, str):
        return {}
    path = Path(name) if name.endswith((".yaml", ".yml")) else resource_path("cfg", name)
    if path is None:
        return _family_recipe(kind, name)
    recipe = read_yaml(path)
    if "model" not in recipe:
        raise InputError(f"model: expected a recipe with a 'model' key, got none in {path}")
    known = TrainConfig.model_fields
    for key in recipe:
        if key not in known:
            raise InputError(f"{path}: unknown key '{key}'{suggest(key, known)}")
    return {k: v for k, v in recipe.items() if k in kind.model_fields}


def _family_recipe(kind: type[BaseModel], name: str) -> dict[str, Any]:
    """What a classifier that has no recipe under its own name needs: those keys of its family's that are not the data's
    or the method's. Nothing for other names.
    """
    family = next((recipe for pattern, recipe in FAMILIES.items() if re.fullmatch(pattern, name)), None)
    path = None if family is None else resource_path("cfg", family)
    if path is None:
        return {}
    own = {k: v for k, v in read_yaml(path).items() if k not in ("data", "adjust", "model_args")}
    return {k: v for k, v in {**own, "model": name}.items() if k in kind.model_fields}


def read_yaml(path: str | Path, what: str = "recipe") -> dict[str, Any]:
    """Read a YAML mapping, safely.

    Args:
        what: what errors call it.

    Raises:
        InputError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(resource_names("cfg"))
        raise InputError(f"{what}: expected a YAML file, got {path} ({error}); known recipes: {known}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{what}: expected YAML, got {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{what}: expected a mapping of keys, got {type(content).__name__} in {path}")
    return content
