"""The one place where class logits are adjusted, before the loss and before softmax or sigmoid alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

WHEN = ("both", "train", "infer")
CENTER = ("none", "mean", "bg")
PHASES = ("train", "infer")


def adjust_logits(
    logits: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    center: str = "none",
    background: Tensor | None = None,
) -> Tensor:
    """Affine adjustment per class: ``z'_c = scale_c * (z_c - reference) + shift_c``; in float32 at the least.

    IIF is ``scale = w, shift = 0`` (Eq. 13); Logit Adjustment is ``scale = 1, shift = ±τ ln p``. Unlike softmax,
    multiplication depends on where zero lies, hence the reference.

    Args:
        logits: (..., C), background excluded.
        scale: (C,).
        shift: (C,).
        center: ``none`` (the paper), ``mean`` (the mean class logit becomes zero) or ``bg`` (the background logit).
        background: (...,) background logits, needed for ``center="bg"``.

    Example:
        >>> adjust_logits(torch.tensor([[1., 2.]]), torch.tensor([3., 1.]), torch.zeros(2)).tolist()
        [[3.0, 2.0]]
    """
    if logits.shape[-1] != len(scale):
        raise ValueError(f"logits: expected (..., {len(scale)}), one of each class, got {tuple(logits.shape)}")
    logits = widened(logits)
    reference = _reference(logits, center, background)
    return (logits if reference is None else logits - reference) * scale + shift


def _reference(logits: Tensor, center: str, background: Tensor | None) -> Tensor | None:
    if center == "none":
        return None
    if center == "mean":
        return logits.mean(dim=-1, keepdim=True)
    if background is None:
        raise ValueError("center: 'bg' needs a background logit and this model has none; use 'none' or 'mean'")
    return widened(background).unsqueeze(-1)


def widened(values: Tensor) -> Tensor:
    """float32 of values in half precision, of any shape; what is wider stays.

    Example:
        >>> widened(torch.ones(1, dtype=torch.bfloat16)).dtype, widened(torch.ones(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class LogitAdjustment(nn.Module):
    """``z' = scale * z + shift`` per class, in the phases it is meant for. A fresh one is the identity.

    Args:
        num_classes: C, background excluded.

    Buffers ``scale`` and ``shift`` are (C,) float32; ``bg_scale`` and ``bg_shift`` are scalars for detectors that have
    a background logit; ``mode`` holds ``when``, ``center`` and ``folded`` as numbers, so that a ``state_dict`` brings
    them along. ``when`` says in which phases it acts: ``both`` (end-to-end IIF), ``train`` (Balanced Softmax,
    the Logit Adjustment loss) or ``infer`` (post-process). The caller names the phase: ``module.training`` is not the
    phase, because frozen and eval-mode stages exist.

    Example:
        >>> adjust = LogitAdjustment(2)
        >>> adjust.set(torch.tensor([2., 1.]), when="infer")
        >>> adjust(torch.ones(1, 2), phase="train").tolist(), adjust(torch.ones(1, 2), phase="infer").tolist()
        ([[1.0, 1.0]], [[2.0, 1.0]])
    """

    scale: Tensor
    shift: Tensor
    bg_scale: Tensor
    bg_shift: Tensor
    mode: Tensor
    #: Learned, instance-gated adjustments cannot be folded into a layer's rows and say so here.
    foldable = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("scale", torch.ones(num_classes))
        self.register_buffer("shift", torch.zeros(num_classes))
        self.register_buffer("bg_scale", torch.tensor(1.0))
        self.register_buffer("bg_shift", torch.tensor(0.0))
        self.register_buffer("mode", torch.zeros(3, dtype=torch.uint8))
        self.when, self.center, self.folded = WHEN[0], CENTER[0], False
        #: Scale of the coming training step in place of the stored one; neither inference nor a checkpoint sees it.
        self.batch_scale: Tensor | None = None

    def set(
        self,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        when: str = "both",
        center: str = "none",
        bg_scale: float = 1.0,
        bg_shift: float = 0.0,
    ) -> None:
        """Replace the adjustment. None means the identity (scale 1, shift 0).

        Raises:
            ValueError: wrong shape, a value that is not finite, or an unknown ``when`` or ``center``.
        """
        if when not in WHEN:
            raise ValueError(f"when: expected one of {', '.join(WHEN)}, got '{when}'")
        if center not in CENTER:
            raise ValueError(f"center: expected one of {', '.join(CENTER)}, got '{center}'")
        for name, number in (("bg_scale", bg_scale), ("bg_shift", bg_shift)):
            if not math.isfinite(number):
                raise ValueError(f"{name}: expected a finite number, got {number}")
        checked = []
        for name, value, neutral in (("scale", scale, 1.0), ("shift", shift, 0.0)):
            buffer = getattr(self, name)
            new = torch.full_like(buffer, neutral) if value is None else torch.as_tensor(value)
            if new.shape != buffer.shape:
                raise ValueError(f"{name}: expected shape ({self.num_classes},), got {tuple(new.shape)}")
            if not new.isfinite().all():
                raise ValueError(f"{name}: expected finite values, got {new.tolist()}")
            checked.append((buffer, new))
        with torch.no_grad():
            for buffer, new in checked:  # nothing changes unless everything is right
                buffer.copy_(new)
        self.bg_scale.fill_(bg_scale)
        self.bg_shift.fill_(bg_shift)
        self._set_mode(when, center, folded=False)
        self.batch_scale = None

    def _set_mode(self, when: str, center: str, folded: bool) -> None:
        self.when, self.center, self.folded = when, center, folded
        self.mode.copy_(torch.tensor([WHEN.index(when), CENTER.index(center), folded]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also what was saved before there was a ``mode``: it leaves when, center and folded as they are."""
        name = f"{prefix}mode"
        when, center, folded = state_dict.setdefault(name, self.mode).tolist()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.when, self.center, self.folded = WHEN[when], CENTER[center], bool(folded)

    def learn_scale(self) -> None:
        """Make ``scale`` a parameter that begins where it stands, under the same name in the ``state_dict``.

        Learnable weight scaling trains it and nothing else (Kang et al., ICLR 2020, Section 4.2).
        """
        start = self.scale.detach().clone()
        del self.scale
        self.scale = nn.Parameter(start)

    def set_batch_scale(self, scale: Tensor | None) -> None:
        """Use this (C,) scale in training steps until told otherwise; None goes back to the stored one."""
        if scale is not None and scale.shape != self.scale.shape:
            raise ValueError(f"scale: expected shape ({self.num_classes},), got {tuple(scale.shape)}")
        self.batch_scale = None if scale is None else scale.to(self.scale, non_blocking=True)

    def acts_in(self, phase: str) -> bool:
        """Whether this adjustment acts in ``"train"`` or ``"infer"``."""
        if phase not in PHASES:
            raise ValueError(f"phase: expected 'train' or 'infer', got '{phase}'")
        if phase == "train" and self.folded:
            raise RuntimeError("a folded model cannot train: load the unfolded checkpoint instead")
        return self.when in ("both", phase)

    @property
    def is_identity(self) -> bool:
        """True when neither phase changes anything."""
        plain = (self.scale == 1).all() and (self.shift == 0).all() and self.bg_scale == 1 and self.bg_shift == 0
        return bool(plain) and self.center == "none"

    def forward(self, logits: Tensor, *, phase: str, background: Tensor | None = None) -> Tensor:
        """Adjust (..., C) class logits; returns them untouched in a phase this adjustment does not act in."""
        if not self.acts_in(phase):
            return logits
        scale = self.scale if phase == "infer" or self.batch_scale is None else self.batch_scale
        return adjust_logits(logits, scale, self.shift, center=self.center, background=background)

    def adjust_background(self, background: Tensor, logits: Tensor, *, phase: str) -> Tensor:
        """Adjust (...,) background logits by the same rule, with (bg_scale, bg_shift) in place of a class's."""
        if not self.acts_in(phase):
            return background
        background = widened(background)
        reference = _reference(widened(logits), self.center, background)
        centred = background if reference is None else background - reference.squeeze(-1)
        return centred * self.bg_scale + self.bg_shift

    @torch.no_grad()
    def fold_rows(self, weight: Tensor, bias: Tensor, background: tuple[Tensor, Tensor] | None = None) -> None:
        """Bake the adjustment into a linear classifier, in place: ``W_i <- s_i (W_i - W_ref)``, the bias alike.

        Args:
            weight: (C, ...) class rows (a view into the layer).
            bias: (C,) class biases (a view).
            background: ((...,) row, () bias) views of the background, where there is one.
        """
        if not self.foldable:
            raise ValueError(f"{type(self).__name__} depends on the input and cannot be folded; keep it as it is")
        if not self.acts_in("infer"):
            return
        ref_w: Tensor | float = 0.0
        ref_b: Tensor | float = 0.0
        if self.center == "mean":
            ref_w, ref_b = weight.mean(dim=0, keepdim=True), bias.mean()
        elif self.center == "bg":
            if background is None:
                raise ValueError("center: 'bg' needs a background row and this layer has none")
            ref_w, ref_b = background[0].clone().unsqueeze(0), background[1].clone()
        scale = self.scale.to(weight.dtype)
        weight.copy_((weight - ref_w) * scale.view(-1, *[1] * (weight.ndim - 1)))
        bias.copy_((bias - ref_b) * scale + self.shift.to(bias.dtype))
        if background is not None:
            row, row_bias = background
            row_ref = ref_w[0] if isinstance(ref_w, Tensor) else ref_w
            row.copy_((row - row_ref) * self.bg_scale)
            row_bias.copy_((row_bias - ref_b) * self.bg_scale + self.bg_shift)

    def mark_folded(self) -> None:
        """Become the identity that refuses to train; called once the rows carry the adjustment."""
        self.set()
        self._set_mode(self.when, self.center, folded=True)

    def to_dict(self) -> dict[str, Any]:
        """Everything about this adjustment as plain values and tensors, for a checkpoint."""
        return {
            "scale": self.scale.detach().cpu().clone(),
            "shift": self.shift.detach().cpu().clone(),
            "when": self.when,
            "center": self.center,
            "bg_scale": float(self.bg_scale),
            "bg_shift": float(self.bg_shift),
            "folded": self.folded,
        }

    def load_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`to_dict` gave."""
        values = dict(state)
        folded = values.pop("folded")
        self.set(**values)
        self._set_mode(self.when, self.center, folded)

    def extra_repr(self) -> str:
        low, high = self.scale.min().item(), self.scale.max().item()
        return f"{self.num_classes}, scale={low:.3g}…{high:.3g}, when={self.when}, center={self.center}"
