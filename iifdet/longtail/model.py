"""What every model of the package has, whatever its task: class rows, one adjustment of their logits, one loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.longtail.activations import LOGITS
from iifdet.longtail.adjust import LogitAdjustment
from iifdet.longtail.alignment import Alignment
from iifdet.longtail.class_losses import (
    ACTIVATIONS,
    CLASS_LOSSES,
    CLASS_STATISTICS,
    COUNT_GRADIENTS,
    DRAW_LOTS,
    LOSS_OPTIONS,
    NEED_BACKGROUND,
    REFUSE_BACKGROUND,
    STATISTIC_OPTIONS,
    ClassLossChoice,
    read_choice,
)
from iifdet.longtail.counts import ClassCounts

#: Probability of each class that sigmoid class rows begin with where most of what they see is background.
PRIOR = 0.01


@dataclass(frozen=True)
class ClassifierRows:
    """Views into one classifier layer: what a fold rewrites and a decoupled second stage trains.

    Attributes:
        weight: (C, ...) class rows.
        bias: (C,) class biases.
        background: ((...,) row, () bias), where there is one.
        layer: which of the model's classifier layers they are in.
    """

    weight: Tensor
    bias: Tensor
    background: tuple[Tensor, Tensor] | None = None
    layer: int = 0


class AdjustedModel(nn.Module):
    """Base of detectors and classifiers: names, counts, the adjustment of class logits and the loss on them.

    A subclass defines :meth:`classifier_layers` and :meth:`classifier_rows`.

    Args:
        num_classes: C, background excluded.
        class_loss: name in CLASS_LOSSES, or ``{name: {option: value}}``; it also decides what makes scores of logits.
    """

    #: Whether the class logits come with a background logit.
    has_background = False
    #: Whether the class rows are trained on background too, of which there is a lot.
    sees_background = False
    #: Whether the class loss is asked for more samples than are trained on, to choose the hardest.
    mines_negatives = False
    #: Images of a batch that are trained on together.
    together = 1
    #: Of the weights with which the gate of an alignment begins; None for their usual start.
    alignment_spread: float | None = None
    #: Whether training needs masks beside the boxes; detections then have them too.
    wants_masks = False

    @property
    def cosine_scale(self) -> float | None:
        """What a cosine of 1 comes to in the class logits; None where they are no cosines of a fixed scale."""
        return None

    @property
    def alignment_width(self) -> int | None:
        """D of the features that a distribution alignment looks at; None where it has no place."""
        return None

    @property
    def rows_have_norms(self) -> bool:
        """Whether the lengths of the class rows act on the logits; not in a cosine classifier."""
        return True

    def __init__(self, num_classes: int, *, class_loss: ClassLossChoice = "ce") -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.adjust = LogitAdjustment(num_classes)
        #: Between class rows and adjustment, where a second stage has learned it.
        self.align: Alignment | None = None
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", None)
        self.class_statistic: Tensor | None
        self.register_buffer("class_statistic", None)
        self.class_loss = self.class_activation = ""
        self.class_loss_options: dict[str, float] = {}
        self.set_class_loss(class_loss)
        self.names: list[str] = [str(c) for c in range(num_classes)]
        self.counts: ClassCounts | None = None
        #: Factory name and keywords, so that a checkpoint can build this model again; set by create_model.
        self.spec: dict[str, Any] = {}
        #: The keys of the run that trained it, from its checkpoint: how it is used to seeing images.
        self.recipe: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is; an exported one has no parameters."""
        return next(chain(self.parameters(), self.buffers())).device

    # -- what a subclass provides ------------------------------------------------------------------------------------

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether shapes in the network follow from the batch's alone."""
        return True

    def classifier_layers(self) -> list[nn.Module]:
        """The layers that hold class rows and nothing else: all that the decoupled second stage trains."""
        raise NotImplementedError

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        """Views of (C, ...) class rows, one for each anchor of each layer."""
        raise NotImplementedError

    def class_tensors(self) -> dict[str, Tensor]:
        """What else has a part for each class, boxes or masks: name in the state dict -> (C, ...) view."""
        return {}

    def cam_layers(self) -> dict[str, nn.Module]:
        """The last feature layers before the prediction layers, by name."""
        raise NotImplementedError

    # -- shared --------------------------------------------------------------------------------------------------------

    def class_losses(self, logits: Tensor, labels: Tensor, background: Tensor | None = None) -> Tensor:
        """(..., C) raw class logits and (...) labels -> (...) adjusted classification losses.

        Args:
            labels: 0…C-1, or -1 for background where there is a background logit.
            background: (...) raw background logits. Softmax puts them beside the classes, with class weight 1; under
                other losses each class decides for itself and they play no part.
        """
        adjusted, weight = self.adjust(logits, phase="train", background=background), self.class_weight
        if background is not None and self.class_activation == "softmax":
            first = self.adjust.adjust_background(background, logits, phase="train")
            adjusted, labels = torch.cat((first.unsqueeze(-1), adjusted), dim=-1), labels + 1
            weight = None if weight is None else torch.cat((weight.new_ones(1), weight))
        told = {**self._statistic(), **self._options(LOSS_OPTIONS)}
        loss = CLASS_LOSSES[self.class_loss](adjusted.flatten(0, -2), labels.flatten(), weight, **told)
        return loss.view(labels.shape)

    def _statistic(self) -> dict[str, Tensor]:
        """What the loss has to know of each class beside logits and labels."""
        if self.class_loss not in CLASS_STATISTICS:
            return {}
        if self.class_statistic is None:
            raise ValueError(
                f"class_loss: {self.class_loss} has to know the training set's counts, got none; "
                "call set_class_statistic(counts) first"
            )
        return {"statistic": self.class_statistic}

    def _options(self, table: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Those of the loss's options that belong to its function, or to its statistic."""
        mine = table.get(self.class_loss, ())
        return {key: value for key, value in self.class_loss_options.items() if key in mine}

    @property
    def class_loss_choice(self) -> ClassLossChoice:
        """What :meth:`set_class_loss` was given."""
        return {self.class_loss: self.class_loss_options} if self.class_loss_options else self.class_loss

    def set_class_loss(self, choice: ClassLossChoice) -> None:
        """Choose the classification loss, and with it what makes scores of logits.

        Raises:
            ValueError: no such loss or option, or a loss that does not fit the model.
        """
        name, options = read_choice(choice)
        if name in NEED_BACKGROUND and not self.sees_background:
            raise ValueError(
                f"class_loss: {name} balances classes against background, which the class rows of "
                f"{type(self).__name__} do not see; use bce"
            )
        if name in REFUSE_BACKGROUND and self.sees_background:
            raise ValueError(
                f"class_loss: {name} has no place for background, which the class rows of {type(self).__name__} see; "
                "use ce or seesaw"
            )
        if name in COUNT_GRADIENTS and self.mines_negatives:
            raise ValueError(
                f"class_loss: {name} adds up the gradients of all samples, and {type(self).__name__} trains on the "
                "hardest negatives alone; use eql or seesaw"
            )
        if name in DRAW_LOTS and self.mines_negatives:
            raise ValueError(
                f"class_loss: {name} draws lots for negatives, and {type(self).__name__} trains on those alone that "
                "cost most, lots included; use eql or ecm"
            )
        if (name, options) != (self.class_loss, self.class_loss_options):
            self.class_statistic = None  # another loss wants to know something else
        self.class_loss, self.class_loss_options = name, options
        self.class_activation = ACTIVATIONS.get(name, "softmax")

    @torch.no_grad()
    def init_class_biases(self, untrained_only: bool = False) -> None:
        """Let one-vs-rest class rows that see background begin at PRIOR, or its many losses drown the first steps.

        It is the adjusted logit that begins there: with a weight of 8 and an unadjusted bias, a class would begin at
        a probability of 1e-16. With ``center``, which takes away what biases share, they are left unadjusted.

        Args:
            untrained_only: leave rows alone whose bias is no longer the unadjusted one.

        Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Section 4.1.
        """
        if not (self.sees_background and self.class_activation in LOGITS):
            return
        begin = torch.full_like(self.adjust.scale, LOGITS[self.class_activation](PRIOR))
        adjusted = begin
        if not self.adjust.folded and self.adjust.acts_in("train") and self.adjust.center == "none":
            positive = self.adjust.scale > 0
            adjusted = torch.where(positive, (begin - self.adjust.shift) / self.adjust.scale, begin)
        for rows in self.classifier_rows():
            untrained = (rows.bias == begin) | (rows.bias == LOGITS["sigmoid"](PRIOR))  # as RetinaNet's are built
            chosen = untrained if untrained_only else torch.ones_like(rows.bias, dtype=torch.bool)
            rows.bias.copy_(torch.where(chosen, adjusted, rows.bias))

    def set_class_weight(self, weight: Tensor | None) -> None:
        """Weigh each sample's classification loss by its true class (C,), background excluded; None weighs all alike.

        Raises:
            ValueError: wrong shape, or a value that is negative or not finite.
        """
        self.class_weight = None if weight is None else self._one_a_class("class_weight", weight)

    def _one_a_class(self, name: str, values: Tensor, rows: bool = False) -> Tensor:
        """Checked (C,) values, or with ``rows`` also (N, C), in float32, where the model is."""
        values = torch.as_tensor(values).float().to(self.device)
        if values.shape[-1:] != (self.num_classes,) or values.ndim > 1 + rows:
            raise ValueError(f"{name}: expected shape ({self.num_classes},), got {tuple(values.shape)}")
        if not (values.isfinite() & (values >= 0)).all():
            raise ValueError(f"{name}: expected finite values >= 0, got {values.tolist()}")
        return values

    def set_class_statistic(self, counts: ClassCounts | None) -> None:
        """Tell the loss what it has to know of the training set's classes; most losses want nothing.

        Raises:
            ValueError: other classes than the model's, or ones that the loss cannot be told of.
        """
        self.class_statistic = None
        if counts is not None and self.class_loss in CLASS_STATISTICS:
            make, options = CLASS_STATISTICS[self.class_loss], self._options(STATISTIC_OPTIONS)
            try:
                statistic = make(counts, self.cosine_scale, **options)
            except ValueError as error:
                raise ValueError(f"class_loss: {self.class_loss}: {error}" if options else str(error)) from error
            self.class_statistic = self._one_a_class("class_statistic", statistic, rows=True)

    def learn_alignment(self) -> None:
        """Put an alignment that changes nothing yet between class rows and adjustment.

        Raises:
            ValueError: it has no place here.
        """
        if self.alignment_width is None:
            raise ValueError(
                f"adjust: disalign aligns one classifier that looks at features of its own, got {type(self).__name__}; "
                "use adjust=lws"
            )
        self.align = Alignment(self.alignment_width, self.num_classes, self.alignment_spread).to(self.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also into a model without class weights, statistic or alignment, which then has those of the state dict."""
        if self.align is None and f"{prefix}align.gain" in state_dict:
            self.learn_alignment()
        for name in ("class_weight", "class_statistic"):
            values = state_dict.get(f"{prefix}{name}")
            if values is not None and getattr(self, name) is None:
                setattr(self, name, self._one_a_class(name, values, rows=name == "class_statistic").clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def set_adjustment(
        self,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        when: str = "both",
        center: str = "none",
        bg_scale: float = 1.0,
        bg_shift: float = 0.0,
    ) -> None:
        """Replace the adjustment; see :class:`iifdet.longtail.LogitAdjustment`. No arguments: the identity.

        Raises:
            ValueError: bad values; ``center="bg"`` on a model without a background logit, or one that no loss trains.
            RuntimeError: the model was folded.
        """
        if self.adjust.folded:
            raise RuntimeError("this model was folded: its rows carry an adjustment; load the unfolded checkpoint")
        missing = self.why_no_background()
        if center == "bg" and missing:
            raise ValueError(f"center: {missing}; use 'none' or 'mean'")
        if (bg_scale, bg_shift) != (1.0, 0.0) and missing:
            raise ValueError(f"bg_scale, bg_shift: {missing}; leave them at 1 and 0")
        self.adjust.set(scale, shift, when=when, center=center, bg_scale=bg_scale, bg_shift=bg_shift)

    @property
    def told_weights(self) -> Tensor:
        """(C,) float64, on the CPU: what classes are weighed by, in the loss or in the logits; for tables."""
        return (self.adjust.scale if self.class_weight is None else self.class_weight).detach().double().cpu()

    def row_norms(self) -> Tensor | None:
        """(C,) float64 length of each class's row, the mean over anchors and layers: no bias, and no adjustment of it.

        None where there are no rows, or their lengths act on nothing.
        """
        if not self.rows_have_norms:
            return None
        rows = [r.weight.detach().flatten(1).norm(dim=1).double().cpu() for r in self.classifier_rows()]
        return torch.stack(rows).mean(dim=0) if rows else None

    def why_no_background(self) -> str:
        """What to say about a background logit that means nothing; empty where there is one that does."""
        if not self.has_background:
            return f"{type(self).__name__} has no background logit"
        if self.class_activation != "softmax":  # its row keeps the values it was born with
            return f"class_loss={self.class_loss} decides each class for itself and trains no background logit"
        return ""

    def fold(self) -> None:
        """Bake what inference applies into the classifier's rows: the same output at no cost. No training after.

        Raises:
            ValueError: there is an alignment, which depends on the image.
        """
        if self.align is not None:
            raise ValueError("fold: an alignment (adjust=disalign) depends on the image and cannot be folded")
        self.fold_layers()
        self.adjust.mark_folded()

    def fold_layers(self) -> None:
        """Bake the adjustment into the class rows, where these are linear."""
        for rows in self.classifier_rows():
            self.adjust.fold_rows(rows.weight, rows.bias, rows.background)
