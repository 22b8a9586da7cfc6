"""Which classification losses there are, which scores go with them, and what they have to know of the classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iifdet.longtail.counts import ClassCounts
from iifdet.longtail.losses import binary_cross_entropy, cross_entropy, focal
from iifdet.longtail.rivals import equalized, equalized_focal, equalized_v2, federated, ldam, seesaw
from iifdet.longtail.statistics import ldam_margins, tail_classes

#: (logits (N, C), labels (N,), class_weight (C,) or None) -> (N,), and ``statistic=`` for those in CLASS_STATISTICS.
ClassLoss = Callable[..., Tensor]

#: name -> loss.
CLASS_LOSSES: dict[str, ClassLoss] = {
    "ce": cross_entropy,
    "bce": binary_cross_entropy,
    "focal": focal,
    "seesaw": seesaw,
    "ldam": ldam,
    "eql": equalized,
    "eqlv2": equalized_v2,
    "efl": equalized_focal,
    "federated": federated,
}

#: The activation that turns logits into scores under each loss.
ACTIVATIONS = {
    "ce": "softmax",
    "bce": "sigmoid",
    "focal": "sigmoid",
    "seesaw": "softmax",
    "ldam": "softmax",
    "eql": "sigmoid",
    "eqlv2": "sigmoid",
    "efl": "sigmoid",
    "federated": "sigmoid",
}

#: Losses that leave some classes no negative but background.
NEED_BACKGROUND = frozenset({"eql"})
#: Losses that count the gradients of all that they are asked for.
COUNT_GRADIENTS = frozenset({"eqlv2", "efl"})
#: Losses in which a sample's loss depends on the other samples, or on a lot drawn for all of them.
OF_WHOLE_BATCH = COUNT_GRADIENTS | {"federated"}


def _margins(counts: ClassCounts, cosine_scale: float | None) -> Tensor:
    if cosine_scale is None:
        raise ValueError(
            "class_loss: ldam's margins are cosines, and these logits are not; use a classifier with "
            "model_args.head=cosine model_args.scale=30"
        )
    return ldam_margins(counts, cosine_scale)


def _no_gradients(counts: ClassCounts, cosine_scale: float | None) -> Tensor:
    return torch.zeros(2, len(counts))


#: loss -> (counts, cosine scale or None) -> its ``statistic``, (C,) or (2, C). Losses that are not here need none.
CLASS_STATISTICS: dict[str, Callable[[ClassCounts, float | None], Tensor]] = {
    "seesaw": lambda counts, _: counts.instances.float(),
    "ldam": _margins,
    "eql": lambda counts, _: tail_classes(counts),
    "eqlv2": _no_gradients,
    "efl": _no_gradients,
    "federated": lambda counts, _: counts.images.float().sqrt(),
}
