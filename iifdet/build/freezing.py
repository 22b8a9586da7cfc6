"""What a run leaves as it is: all but the class rows, all but what a second stage adds to them, or the first layers."""

from __future__ import annotations

from torch import nn

from iifdet.classifiers.causal import CausalHead
from iifdet.classifiers.cosine import CosineHead
from iifdet.detectors.cosine import CosineLinear
from iifdet.errors import InputError, as_input_error
from iifdet.longtail import AdjustedModel


def freeze_all_but_class_rows(model: AdjustedModel, reinit: bool = False) -> None:
    """The second stage of the decoupled strategy as the paper has it: only classifier layers keep a gradient."""
    model.requires_grad_(False)
    for layer in model.classifier_layers():
        layer.requires_grad_(True)
        if reinit and isinstance(layer, CosineHead | CausalHead | CosineLinear):
            layer.reset_parameters()
        elif reinit and isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if reinit:
        model.init_class_biases()


def freeze_all_but_scale(model: AdjustedModel) -> None:
    """The second stage of learnable weight scaling: one number for each class is all that learns."""
    model.requires_grad_(False)
    model.adjust.learn_scale()


def freeze_all_but_alignment(model: AdjustedModel) -> None:
    """The second stage of distribution alignment: class rows and features stay as they are."""
    model.requires_grad_(False)
    with as_input_error():
        model.learn_alignment()


def freeze_backbone(model: nn.Module, count: int) -> None:
    """Freeze the first ``count`` parametrised layers, in order of registration."""
    layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    if count >= len(layers):
        raise InputError(f"freeze: expected fewer than {len(layers)} layers, got {count}")
    for layer in layers[:count]:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
