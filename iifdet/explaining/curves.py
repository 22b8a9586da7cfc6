"""Does a score rest where a map says? Deletion and insertion (Petsiuk et al., RISE, BMVC 2018) for detections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from iifdet.boxes import iou
from iifdet.classifiers import Classifier
from iifdet.detectors import Detector
from iifdet.explaining.choosing import class_boxes


@dataclass(frozen=True)
class Curves:
    """Scores while pixels go or come, the most important first.

    Attributes:
        share: (S + 1,) of the pixels that are gone, or there, from 0 to 1.
        deletion: (S + 1,) scores; a good map makes them fall at once.
        insertion: (S + 1,) scores; a good map makes them rise at once.
    """

    share: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve; the lower, the better."""
        return _area(self.deletion, self.share)

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve; the higher, the better."""
        return _area(self.insertion, self.share)


def _area(values: NDArray[np.float64], at: NDArray[np.float64]) -> float:
    return float((np.diff(at) * (values[1:] + values[:-1])).sum() / 2)  # numpy 1 and 2 call it differently


def deletion_and_insertion(
    score: Callable[[Tensor], float], image: Tensor, cam: Tensor, steps: int = 20, baseline: Tensor | None = None
) -> Curves:
    """Take pixels out of the image in the order of the map, and put them into an empty one.

    Args:
        score: of an image (3, H, W).
        image: (3, H, W).
        cam: (H, W), on the pixels of ``image``; ties go in reading order.
        steps: how many scores beside the first; each step moves the same number of pixels.
        baseline: (3, H, W) what stands where a pixel is missing; the blurred image by default, which adds no edges.
    """
    if cam.shape != image.shape[-2:]:
        raise ValueError(f"cam: expected shape {tuple(image.shape[-2:])}, got {tuple(cam.shape)}")
    empty = blurred(image) if baseline is None else baseline
    order = cam.flatten().argsort(descending=True, stable=True)
    share = np.linspace(0, 1, steps + 1)
    deletion, insertion = np.empty(steps + 1), np.empty(steps + 1)
    for step, part in enumerate(share):
        moved = torch.zeros(cam.numel(), dtype=torch.bool, device=image.device)
        moved[order[: round(part * cam.numel())]] = True
        here = moved.view(cam.shape)
        deletion[step] = score(torch.where(here, empty, image))
        insertion[step] = score(torch.where(here, image, empty))
    return Curves(share, deletion, insertion)


def curves_of(
    score: Callable[[Tensor], float], image: Tensor, cam: NDArray[np.float32], steps: int
) -> tuple[Curves, Curves]:
    """The curves of a map, and those of pixels in random order.

    Args:
        score: of an image (3, H, W).
        image: (3, H, W).
        cam: (H, W) at its pixels.
    """
    by_map = torch.from_numpy(np.ascontiguousarray(cam)).to(image.device)
    random = torch.rand(cam.shape, generator=torch.Generator().manual_seed(0)).to(image.device)
    random[by_map < 0] = -1  # what comes last by the map does so here
    return deletion_and_insertion(score, image, by_map, steps), deletion_and_insertion(score, image, random, steps)


def areas(mine: Curves, chance: Curves) -> str:
    """The areas under the curves of a map and of chance, in words."""
    return (
        f"deletion {mine.deletion_area:.2f} (chance {chance.deletion_area:.2f})"
        f", insertion {mine.insertion_area:.2f} (chance {chance.insertion_area:.2f})"
    )


def curve_arrays(curves: tuple[Curves, Curves] | None, steps: int) -> dict[str, NDArray[np.float64]]:
    """The curves of :func:`curves_of` as (steps + 1,) arrays by name; NaN where there are none."""
    nothing = np.full(steps + 1, np.nan)
    mine, chance = (None, None) if curves is None else curves
    return {
        f"{prefix}{kind}": nothing if found is None else getattr(found, kind)
        for prefix, found in (("", mine), ("chance_", chance))
        for kind in ("deletion", "insertion")
    }


def blurred(image: Tensor) -> Tensor:
    """(3, H, W) averaged over a fifth of the shorter side, twice: shapes are gone, the light is not."""
    half = max(1, min(image.shape[-2:]) // 10)
    for _ in range(2):
        padded = F.pad(image[None], (half, half, half, half), mode="replicate")
        image = F.avg_pool2d(padded, 2 * half + 1, stride=1)[0]
    return image


def detection_score(model: Detector, box: Tensor, label: int) -> Callable[[Tensor], float]:
    """Score of an image: how surely the model still finds this box of this class.

    The largest product of class score and IoU with the box over all rows, as in D-RISE (Petsiuk et al., CVPR 2021): a
    row's number means nothing once proposals change.

    Args:
        box: (4,) xyxy in pixels of the image.
    """

    def score(image: Tensor) -> float:
        with torch.inference_mode():
            raw = model.adjusted(model.raw(image[None]))[0]
            if not len(raw.class_logits):
                return 0.0
            overlap = iou(class_boxes(raw, label), box.to(image)[None])
            return float((model.scores(raw)[:, label] * overlap).max())

    return score


def class_score(model: Classifier, label: int) -> Callable[[Tensor], float]:
    """Score of an image: how likely a classifier finds this class."""

    def score(image: Tensor) -> float:
        with torch.inference_mode():
            return float(model.scores(model(image[None]))[0, label])

    return score
