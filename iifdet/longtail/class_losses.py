"""Which classification losses there are, which scores go with them, and what they have to know of the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from iifdet.longtail import rivals, statistics
from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.losses import binary_cross_entropy, cross_entropy, focal, gumbel_cross_entropy
from iifdet.longtail.priors import log_prior

#: (logits (N, C), labels (N,), class_weight (C,) or None) -> (N,), and ``statistic=`` for those in CLASS_STATISTICS.
ClassLoss = Callable[..., Tensor]

#: A loss by its name, or with options: ``{"focal": {"gamma": 1.5}}``.
ClassLossChoice = str | Mapping[str, Mapping[str, float]]

#: name -> loss.
CLASS_LOSSES: dict[str, ClassLoss] = {
    "ce": cross_entropy,
    "bce": binary_cross_entropy,
    "focal": focal,
    "gumbel": gumbel_cross_entropy,
    "seesaw": rivals.seesaw,
    "ldam": rivals.ldam,
    "lade": rivals.lade,
    "las": rivals.label_aware_smoothing,
    "eql": rivals.equalized,
    "eqlv2": rivals.equalized_v2,
    "efl": rivals.equalized_focal,
    "droploss": rivals.drop,
    "acsl": rivals.adaptive_suppression,
    "ecm": rivals.effective_margins,
    "federated": rivals.federated,
}

#: The activation that turns logits into scores under each loss.
ACTIVATIONS = {
    **dict.fromkeys(["ce", "seesaw", "ldam", "lade", "las"], "softmax"),
    **dict.fromkeys(["bce", "focal", "eql", "eqlv2", "efl", "droploss", "acsl", "ecm", "federated"], "sigmoid"),
    "gumbel": "gumbel",
}

#: Losses that leave some classes hardly a negative but background, or count on a lot of it.
NEED_BACKGROUND = frozenset({"eql", "droploss", "acsl", "ecm"})
#: Losses of classes alone, which have no place for a background logit.
REFUSE_BACKGROUND = frozenset({"lade", "las"})
#: Losses that count the gradients of all that they are asked for.
COUNT_GRADIENTS = frozenset({"eqlv2", "efl"})
#: Losses that count, or draw lots for, a batch once and so take no mixed labels.
REFUSE_MIXED = COUNT_GRADIENTS | {"federated"}


def _margins(counts: ClassCounts, cosine_scale: float | None, **options: float) -> Tensor:
    if cosine_scale is None:
        raise ValueError(
            "class_loss: ldam's margins are cosines, and these logits are not; use a classifier with "
            "model_args.head=cosine model_args.scale=30"
        )
    return statistics.ldam_margins(counts, cosine_scale, **options)


def _of_counts(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What takes counts alone, beside its options."""
    return lambda counts, cosine_scale, **options: make(counts, **options)


#: loss -> (counts, cosine scale or None, options) -> its ``statistic``, (C,) or (2, C). Others need none.
CLASS_STATISTICS: dict[str, Callable[..., Tensor]] = {
    "seesaw": _of_counts(lambda counts: counts.instances.float()),
    "ldam": _margins,
    "lade": _of_counts(lambda counts: log_prior(counts).exp().float()),
    "las": _of_counts(statistics.label_smoothing),
    "eql": _of_counts(statistics.tail_classes),
    "eqlv2": _of_counts(lambda counts: torch.zeros(2, len(counts))),
    "efl": _of_counts(lambda counts: torch.zeros(2, len(counts))),
    "droploss": _of_counts(statistics.tail_classes),
    "acsl": _of_counts(statistics.background_share),
    "ecm": _of_counts(statistics.sample_share),
    "federated": _of_counts(lambda counts: counts.images.float().sqrt()),
}

#: loss -> options of its function.
LOSS_OPTIONS: dict[str, tuple[str, ...]] = {
    "focal": ("alpha", "gamma"),
    "seesaw": ("p", "q", "eps"),
    "lade": ("strength", "penalty"),
    "eqlv2": ("alpha", "gamma", "mu"),
    "efl": ("alpha", "gamma", "scale"),
    "acsl": ("confident",),
    "federated": ("classes",),
}
#: loss -> options of its statistic.
STATISTIC_OPTIONS: dict[str, tuple[str, ...]] = {
    "ldam": ("largest",),
    "las": ("head", "tail"),
    "eql": ("tail_ratio",),
    "droploss": ("tail_ratio",),
    "acsl": ("rare", "common"),
    "ecm": ("background",),
}


def read_choice(choice: ClassLossChoice) -> tuple[str, dict[str, float]]:
    """Name and options of a loss.

    Raises:
        ValueError: no loss of that name, an option that it does not have, or a value that is no number from 0.

    Example:
        >>> read_choice("ce"), read_choice({"focal": {"gamma": 1.5}})
        (('ce', {}), ('focal', {'gamma': 1.5}))
    """
    wanted: Mapping[str, Any] = {choice: {}} if isinstance(choice, str) else choice
    if not isinstance(wanted, Mapping) or len(wanted) != 1:
        raise ValueError(f"class_loss: expected one loss, such as focal or {{focal: {{gamma: 1.5}}}}, got {choice}")
    ((name, options),) = wanted.items()
    if name not in CLASS_LOSSES:
        raise ValueError(f"class_loss: expected one of {', '.join(CLASS_LOSSES)}, got '{name}'")
    if not isinstance(options, Mapping):
        raise ValueError(f"class_loss.{name}: expected options, such as {{gamma: 1.5}}, got {options!r}")
    known = (*LOSS_OPTIONS.get(name, ()), *STATISTIC_OPTIONS.get(name, ()))
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"class_loss.{name}: expected {' or '.join(known) or 'no options'}, got '{key}'")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"class_loss.{name}.{key}: expected a finite number from 0, got {value!r}")
    return name, dict(options)


def spell_choice(choice: ClassLossChoice) -> str:
    """A loss and its options in one word.

    Example:
        >>> spell_choice("ce"), spell_choice({"las": {"head": 0.4, "tail": 0.1}})
        ('ce', 'las(head=0.4,tail=0.1)')
    """
    if isinstance(choice, str):
        return choice
    return ",".join(f"{name}({','.join(f'{k}={v}' for k, v in options.items())})" for name, options in choice.items())
