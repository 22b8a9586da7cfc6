"""Pictures of a batch: masks, and what is kept of a batch until it is drawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from iifdet.detectors import PostprocessOptions
from iifdet.pictures import PICTURES, draw_batch
from iifdet.types import Batch, Detection, Target

SIDE = 400


def scene() -> tuple[Batch, list[Detection]]:
    """Two grey images; in the first an L found with score .9 and a square with .1, in the second nothing."""
    boxes = torch.tensor([[100.0, 100, 300, 300], [320, 320, 390, 390]])
    masks = torch.zeros(2, SIDE, SIDE)
    masks[0, 100:300, 100:150], masks[0, 250:300, 100:300], masks[1, 320:390, 320:390] = 0.6, 0.6, 0.6
    labels = torch.tensor([0, 1])
    none = Target(boxes=torch.zeros(0, 4), labels=labels[:0], masks=torch.zeros(0, SIDE, SIDE, dtype=torch.uint8))
    target = Target(boxes=boxes, labels=labels, masks=(masks > 0.5).byte())
    found = Detection(boxes=boxes, labels=labels, scores=torch.tensor([0.9, 0.1]), masks=masks)
    nothing = Detection(boxes=none["boxes"], labels=none["labels"], scores=torch.zeros(0), masks=torch.zeros(0, 1, 1))
    return Batch(torch.full((2, 3, SIDE, SIDE), 100, dtype=torch.uint8), [target, none]), [found, nothing]


def using(**options: Any) -> Any:
    """A model as far as pictures look at it."""
    return SimpleNamespace(options=PostprocessOptions(**options))


def kept_of(batch: Batch, found: Any, **options: Any) -> Any:
    """What is kept of the detections of a split's first batch."""
    choice = PICTURES["detect"].choose(using(**options))
    for _ in range(2):
        choice.add(batch, found)
    first, kept = choice.shown()
    assert first is batch
    return kept


def coloured(path: Path) -> tuple[bool, bool, bool]:
    """Whether the L, the corner that it leaves out of its box, and the square are tinted."""
    picture = cv2.imread(str(path)).astype(int)
    return tuple(bool(np.ptp(picture[y, x]) > 10) for y, x in ((200, 120), (180, 230), (370, 370)))  # type: ignore[return-value]


def test_masks_of_targets_and_of_sure_detections_are_drawn(tmp_path: Path) -> None:
    batch, found = scene()
    detect = PICTURES["detect"]
    detect.batch(batch, ["a", "b"], tmp_path / "truth.png")
    assert coloured(tmp_path / "truth.png") == (True, False, True)
    kept = kept_of(batch, found)
    detect.batch(batch, ["a", "b"], tmp_path / "found.png", kept)
    assert coloured(tmp_path / "found.png") == (True, False, False)
    detect.batch(batch, ["a", "b"], tmp_path / "strict.png", kept_of(batch, found, mask_threshold=0.7))
    assert coloured(tmp_path / "strict.png") == (False, False, False)


def test_little_is_kept_of_a_batch_until_it_is_drawn(tmp_path: Path) -> None:
    batch, found = scene()
    many = Batch(batch.images.repeat(20, 1, 1, 1), batch.targets * 20)
    kept = kept_of(many, found * 20)
    assert len(kept) == 16 and kept[0]["masks"].dtype == torch.uint8 and len(kept[0]["masks"]) == 1
    draw_batch(many, ["a", "b"], tmp_path / "many.png", kept)
    assert (tmp_path / "many.png").is_file()
