"""``augment=ssd``: photometric distortion, zoom-out, IoU crop and flip (Liu et al. 2016, section 2.2)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from iifdet.boxes import iou
from iifdet.datasets.affine import Matrix, mirror, scaling, translation, warp_piece
from iifdet.datasets.photometric import distort
from iifdet.datasets.pieces import Piece, clip_boxes
from iifdet.datasets.resizing import RESIZES, Boxes
from iifdet.datasets.transforms import EvalTransform, Transformed, as_sample

#: Smallest IoU that some box must have with the crop; None leaves the picture whole.
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
#: Tries of the crop for each overlap, and overlaps tried before the picture stays whole.
TRIES, ROUNDS = 40, 20
#: Sides of the crop as a share of the picture's, and limits of its aspect (width / height).
SIDES, ASPECTS = (0.3, 1.0), (0.5, 2.0)
#: The zoomed-out canvas has up to so many times the picture's sides.
ZOOM = 4.0

Rng = np.random.Generator
#: x1, y1, x2, y2 in whole pixels of the picture; may reach beyond it.
Window = tuple[int, int, int, int]


class SSDTransform(EvalTransform):
    """Photometric distortion, zoom-out by one half, IoU crop, flip by one half, resize; torchvision's ranges.

    Zoom-out and crop only choose a window, and the pixels are sampled once. The canvas around the picture is grey.
    """

    training = True

    def transform(self, piece: Piece, size: tuple[int, int], rng: Rng, centre: bool) -> Transformed:
        if centre:
            piece = self.fit(piece, size, centre)
        height, width = piece.image.shape[:2]
        window = zoom_out(width, height, rng) if rng.random() < 0.5 else (0, 0, width, height)
        window, rows = iou_crop(piece.boxes, window, rng)
        flipped = rng.random() < 0.5
        piece, corner = cut(piece.keep(rows), window)
        piece.image = distort(piece.image, rng)
        fit = self._fit(window, size) @ translation(*corner)
        matrix = mirror(size[1]) @ fit if flipped else fit
        return as_sample(warp_piece(piece, matrix, size, cubic=self.resize == "square"), fit @ translation(*-corner))

    def _fit(self, window: Window, size: tuple[int, int]) -> Matrix:
        """From the picture's pixels to the tensor's, so that the window fills what the resize gives it."""
        x1, y1, x2, y2 = window
        height, width = RESIZES[self.resize][1](y2 - y1, x2 - x1, size)
        left, top = (size[1] - width) // 2, (size[0] - height) // 2
        return translation(left, top) @ scaling(width / (x2 - x1), height / (y2 - y1)) @ translation(-x1, -y1)


def zoom_out(width: int, height: int, rng: Rng) -> Window:
    """A canvas of 1 to ZOOM times the picture's sides, with the picture anywhere on it, as seen from the picture."""
    factor, across, down = rng.uniform(1, ZOOM), rng.random(), rng.random()
    canvas_width, canvas_height = int(width * factor), int(height * factor)
    left, top = int((canvas_width - width) * across), int((canvas_height - height) * down)
    return -left, -top, canvas_width - left, canvas_height - top


def iou_crop(boxes: Boxes, window: Window, rng: Rng) -> tuple[Window, NDArray[np.bool_]]:
    """A crop of the window that holds the centre of a box and overlaps one such box as much as drawn from OVERLAPS.

    Returns:
        The crop, or the window itself, and (n,) bool, the boxes whose centres lie in it. Without boxes the window
        stays whole.
    """
    everything = np.ones(len(boxes), dtype=bool)
    for _ in range(ROUNDS if len(boxes) else 0):
        overlap = OVERLAPS[int(rng.integers(len(OVERLAPS)))]
        if overlap is None:
            break
        for _ in range(TRIES):
            crop = _draw_crop(window, rng)
            inside = None if crop is None else _centres_inside(boxes, crop)
            if crop is None or inside is None or not inside.any():
                continue
            if _best_iou(boxes[inside], crop) >= overlap:
                return crop, inside
    return window, everything


def _draw_crop(window: Window, rng: Rng) -> Window | None:
    x1, y1, x2, y2 = window
    shares, place = rng.uniform(*SIDES, 2), rng.random(2)
    width, height = int((x2 - x1) * shares[0]), int((y2 - y1) * shares[1])
    if not (width and height and ASPECTS[0] <= width / height <= ASPECTS[1]):
        return None
    left, top = x1 + int((x2 - x1 - width) * place[0]), y1 + int((y2 - y1 - height) * place[1])
    return left, top, left + width, top + height


def _centres_inside(boxes: Boxes, window: Window) -> NDArray[np.bool_]:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(((centres > window[:2]) & (centres < window[2:])).all(axis=1))


def _best_iou(boxes: Boxes, window: Window) -> float:
    return float(iou(torch.from_numpy(boxes), torch.tensor([window], dtype=torch.float32)).max())


def cut(piece: Piece, window: Window) -> tuple[Piece, NDArray[np.int64]]:
    """What of a picture lies in the window, and its (x, y) corner in the picture.

    Without the cut, a letterbox would show what the crop left out in its margins.
    """
    height, width = piece.image.shape[:2]
    x1, y1, x2, y2 = max(window[0], 0), max(window[1], 0), min(window[2], width), min(window[3], height)
    boxes = clip_boxes(piece.boxes - np.array([x1, y1, x1, y1], dtype=np.float32), y2 - y1, x2 - x1)
    masks = None if piece.masks is None else piece.masks[:, y1:y2, x1:x2]
    return Piece(piece.image[y1:y2, x1:x2], boxes, piece.labels, masks), np.array([x1, y1])
