"""Keys of training that classifiers alone have: a teacher, and features that are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import Choice, Keys


class DistillKeys(Keys):
    """Classifiers: a teacher"""

    distill: Annotated[Literal["none", "cbd", "dive"], Choice] = "none"
    """learn from a finished classifier beside the labels: to make features like its own (cbd, class-balanced
    distillation), or scores like its softened ones (dive; with distill_power=1 plain knowledge distillation)"""
    teacher: str | None = None
    """that classifier's checkpoint; it has to stay there, as it is, until the run has ended"""
    distill_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """what the teacher counts; the labels count the rest"""
    distill_scale: Annotated[float, Field(ge=0)] = 100.0
    """distill=cbd: factor of the distance of features"""
    distill_temperature: Annotated[float, Field(gt=0)] = 3.0
    """distill=dive: what logits are divided by before scores are compared"""
    distill_power: Annotated[float, Field(gt=0, le=1)] = 0.5
    """distill=dive: power of the teacher's scores, which makes classes more even among them"""


class SynthesisKeys(Keys):
    """Classifiers: features of rare classes"""

    synthesis: Annotated[Literal["none", "tailcalib"], Choice] = "none"
    """strategy=decoupled: draw as many features for a class as it lacks to the largest, around its own, as near classes
    spread (tailcalib: TailCalibX)"""
    synthesis_neighbors: Annotated[int, Field(ge=1)] = 3
    """classes that lend their mean and spread"""
    synthesis_spread: Annotated[float, Field(ge=0)] = 0.0
    """added to every covariance"""
