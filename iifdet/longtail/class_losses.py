"""Which classification losses there are, which scores go with them, and what they have to know of the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from iifdet.longtail import rivals, statistics
from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.losses import binary_cross_entropy, cross_entropy, focal, gumbel_cross_entropy

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
    "seql": rivals.softmax_equalized,
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
    **dict.fromkeys(["ce", "seesaw", "seql", "ldam", "lade", "las"], "softmax"),
    **dict.fromkeys(["bce", "focal", "eql", "eqlv2", "efl", "droploss", "acsl", "ecm", "federated"], "sigmoid"),
    "gumbel": "gumbel",
}

#: Losses that leave some classes hardly a negative but background, or count on a lot of it.
NEED_BACKGROUND = frozenset({"eql", "droploss", "acsl", "ecm"})
#: Losses of classes alone, which have no place for a background logit.
REFUSE_BACKGROUND = frozenset({"lade", "las", "ldam", "seql"})
#: Losses that count the gradients of all that they are asked for.
COUNT_GRADIENTS = frozenset({"eqlv2", "efl"})
#: Losses that draw lots for samples of background, of which hard-negative mining would choose those that were drawn.
DRAW_LOTS = frozenset({"droploss", "acsl"})
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
    "seql": _of_counts(statistics.rare_classes),
    "ldam": _margins,
    "lade": _of_counts(statistics.class_share),
    "las": _of_counts(statistics.label_smoothing),
    "eql": _of_counts(statistics.tail_classes),
    "eqlv2": _of_counts(lambda counts: torch.zeros(2, len(counts))),
    "efl": _of_counts(lambda counts: torch.zeros(2, len(counts))),
    "droploss": _of_counts(statistics.tail_classes),
    "acsl": _of_counts(statistics.background_share),
    "ecm": _of_counts(statistics.sample_share),
    "federated": _of_counts(lambda counts: counts.images.float().sqrt()),
}

#: From and to, both allowed.
Range = tuple[float, float]
ANY: Range = (0.0, 1e9)
ABOVE_ZERO: Range = (1e-9, 1e9)
SHARE: Range = (0.0, 1.0)
#: Options that count something.
WHOLE = frozenset({"classes", "rare", "common"})

#: loss -> options of its function, and what they may be.
LOSS_OPTIONS: dict[str, dict[str, Range]] = {
    "focal": {"alpha": SHARE, "gamma": ANY},
    "seesaw": {"p": ANY, "q": ANY, "eps": (1e-9, 1.0)},
    "seql": {"kept": SHARE},
    "lade": {"strength": ANY, "penalty": ANY},
    "eqlv2": {"alpha": ANY, "gamma": ABOVE_ZERO, "mu": ANY},
    "efl": {"alpha": SHARE, "gamma": ABOVE_ZERO, "scale": ANY},
    "acsl": {"confident": SHARE},
    "federated": {"classes": ANY},
}
#: loss -> options of its statistic, and what they may be.
STATISTIC_OPTIONS: dict[str, dict[str, Range]] = {
    "seql": {"share": SHARE},
    "ldam": {"largest": SHARE},
    "las": {"head": SHARE, "tail": SHARE},
    "eql": {"tail_ratio": SHARE},
    "droploss": {"tail_ratio": SHARE},
    "acsl": {"rare": ANY, "common": ANY},
    "ecm": {"background": ABOVE_ZERO},
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
    known = {**LOSS_OPTIONS.get(name, {}), **STATISTIC_OPTIONS.get(name, {})}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"class_loss.{name}: expected {' or '.join(known) or 'no options'}, got '{key}'")
        _check(f"class_loss.{name}.{key}", value, *known[key], whole=key in WHOLE)
    return name, dict(options)


def _check(name: str, value: Any, low: float, high: float, whole: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high and not (whole and value % 1)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name}: expected {kind} from {low:g} to {high:g}, got {value!r:.60}")


def spell_choice(choice: ClassLossChoice) -> str:
    """A loss and its options in one word.

    Example:
        >>> spell_choice("ce"), spell_choice({"las": {"head": 0.4, "tail": 0.1}})
        ('ce', 'las(head=0.4,tail=0.1)')
    """
    if isinstance(choice, str):
        return choice
    return ",".join(_called(name, options) for name, options in choice.items())


def _called(name: str, options: Any) -> str:
    return f"{name}({','.join(f'{k}={v}' for k, v in options.items())})" if options else name
