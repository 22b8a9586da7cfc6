"""torchvision's detection models as files: their columns become classes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from iifdet.detectors.base import Detector
from iifdet.errors import InputError

RCNN_ROWS = "roi_heads.box_predictor.cls_score.weight"
RETINA_ROWS = "head.classification_head.cls_logits.weight"
#: Anchors of a cell in torchvision's RetinaNet: three shapes in three sizes.
RETINA_ANCHORS = 9


def is_detection(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of torchvision's Faster R-CNN, Mask R-CNN or RetinaNet."""
    return RCNN_ROWS in state or RETINA_ROWS in state


def coco_categories() -> list[str]:
    """COCO's 91 columns as torchvision's models have them: background first, ``N/A`` where an id is unused."""
    return list(FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])


@torch.no_grad()
def from_torchvision(
    state: Mapping[str, Tensor], build: Callable[[int], Detector], names: Sequence[str], published_eps: bool = False
) -> Detector:
    """A detector of ours with torchvision's weights, whose class rows carry names; strict.

    Files of 91 columns are taken for COCO's, others must have a column for each of ``names``, in order.

    Args:
        build: number of classes -> the same architecture.
        names: of the classes that the user's data have.
        published_eps: torchvision runs its published ResNet50-FPN (v1) with a batch norm eps of 0; then the running
            variances are lowered by our eps, which comes to the same.

    Raises:
        InputError: another architecture, or other columns.
    """
    first = 1 if RCNN_ROWS in state else 0
    rows = state[RCNN_ROWS].shape[0] if first else state[RETINA_ROWS].shape[0] // RETINA_ANCHORS
    categories = coco_categories()
    if rows == len(categories):
        classes = categories[first:]
    elif rows == len(names) + first:
        classes = list(names)
    else:
        raise InputError(f"weights: expected 91 columns (COCO) or {len(names) + first}, got {rows}; pass another file")
    donor = build(len(classes))
    net = getattr(donor, "net", None)
    if net is None:
        raise InputError(f"weights: a file of torchvision's R-CNN or RetinaNet does not fit {type(donor).__name__}")
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise InputError(f"weights: expected torchvision's model of this backbone; {said[:400]}") from error
    if published_eps and rows == len(categories):
        for module in net.backbone.body.modules():
            if hasattr(module, "running_var"):
                module.running_var -= module.eps
    donor.names = classes
    return donor
