"""Batch norm into the convolution before it: the same outputs in eval mode, one pass over memory less."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from iifdet.detectors.darknet import ConvBNAct


def fuse_batch_norms(model: nn.Module) -> nn.Module:
    """Fuse every ConvBNAct of a model in eval mode, in place. It cannot train afterwards.

    Raises:
        ValueError: the model is in train mode, where batch norm depends on the batch.
    """
    if model.training:
        raise ValueError("fuse_batch_norms: expected a model in eval mode, got train mode; call eval() first")
    for module in model.modules():
        if isinstance(module, ConvBNAct) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()  # type: ignore[assignment]
    return model
