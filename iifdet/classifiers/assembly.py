"""A classifier of one network, of experts, of two branches, or with a loss on features."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iifdet.classifiers.base import Classifier
from iifdet.classifiers.branches import BilateralNetwork, ExpertNetwork
from iifdet.classifiers.network import Network
from iifdet.classifiers.rivals import (
    BilateralClassifier,
    ContrastiveClassifier,
    ExpertClassifier,
    GeneratingClassifier,
    MemoryClassifier,
    RobustClassifier,
)


@dataclass(frozen=True)
class Shapes:
    """What makes a network in each of its shapes.

    Attributes:
        whole: as it is.
        experts: number -> that many, which share its first stages.
        bilateral: two branches, which share all but its last block.
    """

    whole: Callable[[], Network]
    experts: Callable[[int], ExpertNetwork]
    bilateral: Callable[[], BilateralNetwork]


def assemble(
    shapes: Shapes,
    num_classes: int,
    *,
    experts: int = 1,
    diversity: float | None = None,
    bilateral: bool = False,
    contrast: str | None = None,
    contrast_temperature: float | None = None,
    robust: bool = False,
    memory: bool = False,
    generator: bool = False,
    **keywords: Any,
) -> Classifier:
    """A classifier of the shape that is asked for.

    Args:
        experts, diversity: more than one make an :class:`ExpertClassifier`.
        bilateral: make a :class:`BilateralClassifier`.
        contrast, contrast_temperature: make a :class:`ContrastiveClassifier`.
        robust: make a :class:`RobustClassifier`.
        memory: make a :class:`MemoryClassifier`.
        generator: make a :class:`GeneratingClassifier`.
        keywords: of :class:`Classifier`.

    Raises:
        ValueError: an option is out of its range, or goes with another shape.
    """
    if type(experts) is not int or not 1 <= experts <= 16:
        raise ValueError(f"experts: expected a whole number from 1 to 16, got {experts!r}")
    switches = {"bilateral": bilateral, "robust": robust, "memory": memory, "generator": generator}
    for name, value in switches.items():
        if type(value) is not bool:
            raise ValueError(f"{name}: expected true or false, got {value!r}")
    asked = {"experts": experts > 1, "contrast": contrast is not None, **switches}
    shaped = [name for name, wanted in asked.items() if wanted]
    if len(shaped) > 1:
        raise ValueError(f"{shaped[0]}: expected one of {', '.join(asked)}, got {' and '.join(shaped)}; drop one")
    if diversity is not None and not asked["experts"]:
        raise ValueError(f"diversity: expected none with one expert, got {diversity}; give experts=2 or more")
    if contrast_temperature is not None and not asked["contrast"]:
        raise ValueError(f"contrast_temperature: expected none without contrast, got {contrast_temperature}; drop it")
    if asked["experts"]:
        return ExpertClassifier(shapes.experts(experts), num_classes, **keywords, **_given(diversity=diversity))
    if asked["bilateral"]:
        return BilateralClassifier(shapes.bilateral(), num_classes, **keywords)
    if asked["contrast"]:
        keywords |= _given(contrast=contrast, contrast_temperature=contrast_temperature)
        return ContrastiveClassifier(shapes.whole(), num_classes, **keywords)
    plain = {"robust": RobustClassifier, "memory": MemoryClassifier, "generator": GeneratingClassifier}
    made = next((plain[name] for name in plain if asked[name]), Classifier)
    return made(shapes.whole(), num_classes, **keywords)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _keywords(function: Callable[..., Any]) -> set[str]:
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


#: Options that all classifiers take.
OPTIONS = frozenset(_keywords(assemble) | _keywords(Classifier.__init__))
