"""Class rows on top of pooled features, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from iifdet.classifiers.causal import CausalHead
from iifdet.classifiers.cosine import CosineHead, LearnedCosineHead
from iifdet.longtail import LogitAdjustment, widened


class LinearHead(nn.Linear):
    """``z = W x + b``, (B, D) -> (B, C), in float32 at least."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(widened(features))

    def class_biases(self) -> Tensor:
        """(C,) what is added to the logits."""
        return self.bias

    def class_tensors(self) -> dict[str, Tensor]:
        """What else has a part for each class, by name."""
        return {}

    def fold(self, adjust: LogitAdjustment) -> None:
        """Bake what ``adjust`` does in inference into the rows."""
        adjust.fold_rows(self.weight, self.bias)


Head = LinearHead | CosineHead | CausalHead

#: ``head`` -> (features, classes, options) -> the layer.
HEADS: dict[str, Callable[..., Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "cosine_learned": LearnedCosineHead,
    "causal": CausalHead,
}
#: Options that only some heads have.
OPTIONS: dict[str, tuple[str, ...]] = {"cosine": ("scale",), "causal": ("scale", "effect")}


def build_head(name: str, features: int, num_classes: int, **options: float | None) -> Head:
    """One of HEADS; an option of None is the head's own default.

    Raises:
        ValueError: an unknown name, or an option that the head does not have.
    """
    if name not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, got '{name}'")
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in OPTIONS.get(name, ()):
            having = " or ".join(head for head, keys in OPTIONS.items() if key in keys)
            raise ValueError(f"{key}: expected none with head={name}, got {value}; use head={having}")
    return HEADS[name](features, num_classes, **given)
