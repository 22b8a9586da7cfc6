"""torchvision's detection models as files: their columns become classes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from iifdet.detectors import ssd
from iifdet.detectors.base import Detector
from iifdet.errors import InputError

#: The biases that tell one of torchvision's detectors: (kind, of how many boxes of a cell, columns of background).
CLASS_BIASES = {
    "roi_heads.box_predictor.cls_score.bias": ("R-CNN", 1, 1),
    "head.classification_head.cls_logits.bias": ("RetinaNet", 9, 0),
    "head.classification_head.module_list.0.bias": ("SSD", 4, 1),
}

#: Options of our R-CNNs that torchvision's have not, and what makes them as theirs.
OWN_OPTIONS: dict[str, Any] = {"head": "linear", "scale": None} | dict.fromkeys(
    ("normalized_mask", "cascade", "augment_features"), False
)


def is_detection(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of torchvision's Faster R-CNN, Mask R-CNN, RetinaNet or SSD."""
    return any(name in state for name in CLASS_BIASES)


def coco_categories() -> list[str]:
    """COCO's 91 columns as torchvision's models have them: background first, ``N/A`` where an id is unused."""
    return list(FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])


@torch.no_grad()
def from_torchvision(
    state: Mapping[str, Tensor], build: Callable[[int], Detector], names: Sequence[str], published_eps: bool = False
) -> Detector:
    """A detector of ours with torchvision's weights, whose class rows carry names; strict.

    Files of 91 columns are taken for COCO's, unless the data have as many and none of COCO's classes; others must have
    a column for each of ``names``, in order.

    Args:
        build: number of classes -> the same architecture.
        names: of the classes that the user's data have.
        published_eps: torchvision runs its published ResNet50-FPN (v1) with a batch norm eps of 0; then the running
            variances are lowered by our eps, which comes to the same.

    Raises:
        InputError: another architecture, or other columns.
    """
    bias, (kind, boxes, background) = next((b, k) for b, k in CLASS_BIASES.items() if b in state)
    columns, categories = len(state[bias]) // boxes, coco_categories()
    ours = len(names) + background
    coco = columns == len(categories) and (columns != ours or not set(names).isdisjoint(categories))
    if not coco and columns != ours:
        raise InputError(f"weights: expected 91 columns (COCO) or {ours}, got {columns}; pass another file")
    classes = categories[background:] if coco else list(names)
    donor = build(len(classes))
    net: Any = getattr(donor, "net", None)
    if not (isinstance(donor, ssd.SSD) if kind == "SSD" else net is not None):
        raise InputError(f"weights: a file of torchvision's {kind} does not fit {type(donor).__name__}")
    try:
        if isinstance(donor, ssd.SSD):
            donor.load_state_dict(ssd.from_torchvision(state))
        else:
            net.load_state_dict(dict(state))
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"weights: expected torchvision's model of this backbone; {said[:400]}") from error
    if published_eps and coco and kind != "SSD":
        for module in net.backbone.body.modules():
            if hasattr(module, "running_var"):
                module.running_var -= module.eps
    donor.names = classes
    return donor
