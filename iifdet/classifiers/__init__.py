"""Image classifiers by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from iifdet.classifiers.assembly import OPTIONS
from iifdet.classifiers.base import Classifier
from iifdet.classifiers.cifar import cifar_resnet
from iifdet.classifiers.distillation import Distillation
from iifdet.classifiers.heads import HEADS
from iifdet.classifiers.imagenet import imagenet_resnet
from iifdet.classifiers.rivals import RobustClassifier
from iifdet.classifiers.synthesis import Moments, Synthesis

#: name -> factory(num_classes, **keywords); random weights, no network. ``se_`` names squeeze-and-excitation, with a
#: reduction of 4 for 32 x 32 images and of 16 for photographs (the paper's Section V-A).
CLASSIFIERS: dict[str, Callable[..., Classifier]] = {
    "resnet20": cifar_resnet(20, reduction=0),
    "resnet32": cifar_resnet(32, reduction=0),
    "resnet44": cifar_resnet(44, reduction=0),
    "resnet56": cifar_resnet(56, reduction=0),
    "se_resnet20": cifar_resnet(20, reduction=4),
    "se_resnet32": cifar_resnet(32, reduction=4),
    "se_resnet44": cifar_resnet(44, reduction=4),
    "se_resnet56": cifar_resnet(56, reduction=4),
    "resnet50": imagenet_resnet((3, 4, 6, 3), reduction=0),
    "resnet152": imagenet_resnet((3, 8, 36, 3), reduction=0),
    "resnext50_32x4d": imagenet_resnet((3, 4, 6, 3), reduction=0, groups=32, width_per_group=4),
    "se_resnet50": imagenet_resnet((3, 4, 6, 3), reduction=16),
    "se_resnet152": imagenet_resnet((3, 8, 36, 3), reduction=16),
    "se_resnext50_32x4d": imagenet_resnet((3, 4, 6, 3), reduction=16, groups=32, width_per_group=4),
}

__all__ = ["CLASSIFIERS", "HEADS", "OPTIONS", "Classifier", "Distillation", "Moments", "RobustClassifier", "Synthesis"]
