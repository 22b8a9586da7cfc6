"""Put cut-out objects onto a picture: their size and place, and what is left of the objects beneath."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from iifdet.datasets.affine import mirror, warp_boxes
from iifdet.datasets.pieces import MIN_SIDE, MIN_VISIBLE, Piece, clip_boxes, mask_extents, short_sides
from iifdet.datasets.resizing import Boxes, Masks, resize_masks, smooth

#: Change of an object's size, beside that of its image to the new one.
SCALES = (0.6, 1.4)
#: An object is pasted no larger than this share of the image's sides.
LARGEST = 0.6


class Patch(NamedTuple):
    """What is pasted, at its final size, and where.

    Attributes:
        piece: picture and objects, in its own pixels.
        alpha: (h, w) bool, which of its pixels are pasted.
        top, left: of its corner.
    """

    piece: Piece
    alpha: NDArray[np.bool_]
    top: int
    left: int


def place(cut: Piece, to_shape: float, shape: tuple[int, int], draws: NDArray[np.float64]) -> Patch | None:
    """Resize, perhaps flip, and place a cut on a picture of (H, W) ``shape`` by four draws from [0, 1)."""
    height, width = cut.image.shape[:2]
    factor = to_shape * (SCALES[0] + (SCALES[1] - SCALES[0]) * float(draws[0]))
    factor = min(factor, LARGEST * shape[0] / height, LARGEST * shape[1] / width)
    new = round(height * factor), round(width * factor)
    if min(new) < MIN_SIDE:
        return None
    image = np.asarray(cv2.resize(cut.image, new[::-1], interpolation=smooth(cut.image, *new)), dtype=np.uint8)
    boxes = cut.boxes * np.array([new[1] / width, new[0] / height] * 2, dtype=np.float32)
    masks = None if cut.masks is None else resize_masks(cut.masks, new)
    if draws[1] < 0.5:
        image, boxes = image[:, ::-1], warp_boxes(boxes, mirror(new[1]))
        masks = None if masks is None else masks[:, :, ::-1]
    boxes = clip_boxes(boxes, *new)  # rounding may have put an edge beyond
    piece = Piece(image, boxes, cut.labels, masks).keep(short_sides(boxes) >= MIN_SIDE)
    alone = piece.masks is not None and len(piece.masks) == 1
    alpha = piece.masks[0] > 0 if alone and piece.masks is not None else np.ones(new, dtype=bool)
    top, left = int(draws[2] * (shape[0] - new[0] + 1)), int(draws[3] * (shape[1] - new[1] + 1))
    return Patch(piece, alpha, top, left) if len(piece.boxes) and alpha.any() else None


def paste(piece: Piece, patches: Sequence[Patch]) -> Piece:
    """Paint the patches one over the other and settle what each object, beneath or between, still shows."""
    image, shape = piece.image.copy(), piece.image.shape[:2]
    for patch in patches:
        image[_window(patch)][patch.alpha] = patch.piece.image[patch.alpha]
    # From the top down: an object is covered by what was pasted after it.
    cover = np.zeros(shape, dtype=bool)
    layers = []
    for patch in reversed(patches):
        layers.append(_uncovered(_on_canvas(patch, shape, piece.masks is not None), cover))
        cover[_window(patch)] |= patch.alpha
    layers.append(_uncovered(piece, cover))
    boxes, labels = (np.concatenate([getattr(layer, name) for layer in layers[::-1]]) for name in ("boxes", "labels"))
    masks = None
    if piece.masks is not None:
        masks = np.concatenate([layer.masks for layer in layers[::-1] if layer.masks is not None])
    return Piece(image, boxes, labels, masks)


def _window(patch: Patch) -> tuple[slice, slice]:
    height, width = patch.alpha.shape
    return slice(patch.top, patch.top + height), slice(patch.left, patch.left + width)


def _on_canvas(patch: Patch, shape: tuple[int, int], masks: bool) -> Piece:
    """A patch's objects in the pixels of the picture."""
    boxes = patch.piece.boxes + np.array([patch.left, patch.top] * 2, dtype=np.float32)
    full = None
    if masks or patch.piece.masks is not None:
        full = np.zeros((len(boxes), *shape), dtype=np.uint8)
        own = patch.piece.masks
        full[:, *_window(patch)] = _rectangles(patch.piece.boxes, patch.alpha.shape) if own is None else own
    return Piece(patch.piece.image, boxes, patch.piece.labels, full)


def _rectangles(boxes: Boxes, shape: tuple[int, ...]) -> Masks:
    masks = np.zeros((len(boxes), *shape), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, np.round(boxes).astype(int).tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def _uncovered(piece: Piece, cover: NDArray[np.bool_]) -> Piece:
    """A piece whose objects keep what ``cover`` (H, W) leaves of them: box around it, mask without the rest.

    Objects of which less than MIN_VISIBLE, or less than MIN_SIDE pixels, is left are dropped.
    """
    boxes, good = piece.boxes.copy(), np.ones(len(piece.boxes), dtype=bool)
    for k, box in enumerate(piece.boxes):
        x1, y1 = np.floor(box[:2]).astype(int).tolist()
        x2, y2 = np.ceil(box[2:]).astype(int).tolist()
        hidden = cover[y1:y2, x1:x2]
        if not hidden.any():
            continue
        whole = np.ones_like(hidden) if piece.masks is None else piece.masks[k, y1:y2, x1:x2] > 0
        left = whole & ~hidden
        extent, _ = mask_extents(left[None].astype(np.uint8))
        extent += np.array([x1, y1] * 2, dtype=np.float32)
        boxes[k] = *np.maximum(box[:2], extent[0, :2]), *np.minimum(box[2:], extent[0, 2:])
        good[k] = left.sum() >= MIN_VISIBLE * max(1, whole.sum()) and left.any()
    masks = None if piece.masks is None else piece.masks * ~cover
    good &= short_sides(boxes) >= MIN_SIDE
    return Piece(piece.image, boxes, piece.labels, masks).keep(good)
