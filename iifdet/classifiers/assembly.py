"""A classifier of one network, of experts, or of two branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iifdet.classifiers.base import Classifier
from iifdet.classifiers.bilateral import BilateralClassifier
from iifdet.classifiers.branches import BilateralNetwork, ExpertNetwork
from iifdet.classifiers.experts import ExpertClassifier
from iifdet.classifiers.network import Network


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
    **keywords: Any,
) -> Classifier:
    """A classifier of the shape that is asked for.

    Args:
        experts: more than one make an :class:`ExpertClassifier`.
        diversity: of several experts; None for its default.
        bilateral: make a :class:`BilateralClassifier`.
        keywords: of :class:`Classifier`.

    Raises:
        ValueError: an option is out of its range, or goes with another shape.
    """
    if type(experts) is not int or not 1 <= experts <= 16:
        raise ValueError(f"experts: expected a whole number from 1 to 16, got {experts!r}")
    if diversity is not None and experts == 1:
        raise ValueError(f"diversity: expected none with one expert, got {diversity}; give experts=2 or more")
    if type(bilateral) is not bool:
        raise ValueError(f"bilateral: expected true or false, got {bilateral!r}")
    if bilateral and experts > 1:
        raise ValueError(f"bilateral: expected false with experts={experts}, got true; give one of them")
    if bilateral:
        return BilateralClassifier(shapes.bilateral(), num_classes, **keywords)
    if experts == 1:
        return Classifier(shapes.whole(), num_classes, **keywords)
    options = {} if diversity is None else {"diversity": diversity}
    return ExpertClassifier(shapes.experts(experts), num_classes, **options, **keywords)
