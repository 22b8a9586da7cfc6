"""From class logits to scores: softmax, or a distribution function for each class."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Limits of a Gumbel logit in the loss, as published: beyond them there is no gradient.
GUMBEL_RANGE = (-4.0, 10.0)


def gumbel(logits: Tensor) -> Tensor:
    """``exp(-exp(-z))``, the Gumbel distribution function; any shape, same shape out, in [0, 1].

    Source: Alexandridis et al., Long-tailed Instance Segmentation using Gumbel Optimized Loss, ECCV 2022, Eq. 5.

    Example:
        >>> [round(p, 4) for p in gumbel(torch.tensor([-2.0, 0.0, 2.0])).tolist()]
        [0.0006, 0.3679, 0.8734]
    """
    return torch.exp(-torch.exp(-logits.clamp(min=-80)))  # below, the score has long been 0, and exp() has no gradient


def _sigmoid_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    return F.logsigmoid(logits), F.logsigmoid(-logits)


def _gumbel_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    exponent = torch.exp(-logits.clamp(*GUMBEL_RANGE))
    return -exponent, torch.log(-torch.expm1(-exponent))


#: Activations that decide each class for itself -> logits to scores.
ONE_VS_REST: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "gumbel": gumbel}

#: The same -> logits to (log p, log (1 - p)).
LOG_PARTS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"sigmoid": _sigmoid_parts, "gumbel": _gumbel_parts}

#: The same -> the probability p to its logit.
LOGITS: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda p: -math.log((1 - p) / p),
    "gumbel": lambda p: -math.log(-math.log(p)),
}


def class_scores(logits: Tensor, activation: str, background: Tensor | None = None) -> Tensor:
    """(..., C) scores in [0, 1] of adjusted class logits, in float32.

    Args:
        activation: ``softmax``, or one of ONE_VS_REST.
        background: (...,) logits that softmax puts beside the classes, where there are some.

    Example:
        >>> class_scores(torch.zeros(1, 3), "softmax", torch.zeros(1)).tolist()
        [[0.25, 0.25, 0.25]]
    """
    logits = logits.float()
    if activation in ONE_VS_REST:
        return ONE_VS_REST[activation](logits)
    if background is None:
        return logits.softmax(dim=-1)
    return torch.cat((background.float().unsqueeze(-1), logits), dim=-1).softmax(dim=-1)[..., 1:]
