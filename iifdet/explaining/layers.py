"""Which layers an explanation looks at, and one pass through the network that remembers what they said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iifdet.errors import InputError, suggest
from iifdet.longtail import AdjustedModel

#: Values of ``layer`` that are no names: the last layer that the explained row depends on, or all of them merged.
AUTO, ALL = "auto", "all"


def find_layers(model: AdjustedModel, layer: str = AUTO) -> dict[str, nn.Module]:
    """Layers by name: those of ``cam_layers()``, one of them, or any module by its dotted path.

    Raises:
        InputError: there is no such layer.
    """
    known = model.cam_layers()
    if layer in (AUTO, ALL):
        return known
    if layer in known:
        return {layer: known[layer]}
    modules = dict(model.named_modules())
    if layer and layer in modules:
        return {layer: modules[layer]}
    options = [AUTO, ALL, *known]
    raise InputError(
        f"layer: expected one of {', '.join(options)}, or a module's path such as {list(modules)[-1]}, "
        f"got '{layer}'{_near(layer, [*options, *modules])}"
    )


def _near(word: str, known: list[str]) -> str:
    hint = suggest(word, known)
    return hint if "did you mean" in hint else ""


@contextmanager
def _recording(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[list[tuple[str, Tensor]]]:
    """Keep what each layer gives, in order of execution, as something that gradients reach.

    Parameters ask for no gradient meanwhile: the graph starts at the first of the layers, and nothing in front of it
    is kept. What runs on is a copy, so that an in-place activation behind a layer does not change what was kept.
    """
    seen: list[tuple[str, Tensor]] = []

    def keep(name: str, output: object) -> Tensor:
        if not (isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point()):
            raise InputError(f"layer: expected one that gives a map (B, C, H, W), got '{name}'; choose one inside it")
        kept = output if output.requires_grad else output.detach().requires_grad_()
        seen.append((name, kept))
        return kept.clone()

    hooks = [m.register_forward_hook(lambda _, __, out, name=name: keep(name, out)) for name, m in layers.items()]
    asking = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield seen
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()


def look(model: Any, image: Tensor, layers: dict[str, nn.Module]) -> tuple[Any, list[tuple[str, Tensor]]]:
    """Adjusted predictions of one image (3, H, W), and (name, (1, c, h, w)) of each layer in order of execution.

    Of a classifier the predictions are its (C,) logits.

    The predictions carry the graph back to the layers: NMS comes later, so that every row has a gradient.
    """
    if model.training:
        raise ValueError("model: expected eval mode, got train mode; call eval() first")
    with torch.enable_grad(), _recording(model, layers) as seen:
        raw = model.adjusted(model.raw(image[None]))[0]
    return raw, seen
