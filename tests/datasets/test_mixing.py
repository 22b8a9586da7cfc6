"""Mosaic, mixup and copy-paste: objects stay where their pixels are, and everything hangs on (seed, epoch, row)."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_helpers import COLOURS, assert_objects_follow, index_of, painted_piece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iifdet.datasets import CopyPaste, EvalTransform, Mixing, Piece, TrainTransform, Transformed
from iifdet.datasets.copy_paste import class_probabilities
from iifdet.datasets.mosaic import mosaic
from iifdet.datasets.pasting import Patch, paste

SEEDS = st.integers(0, 2**32 - 1)
STILL = (0.0, 0.0, 0.0)


class Painted(list[Piece]):
    """Pieces as a data set hands them over."""

    def piece(self, row: int) -> tuple[int, Piece]:
        return row, self[row]

    tile = piece


def sample(mixing: Mixing, transform: EvalTransform, pieces: list[Piece], seed: int, epoch: int = 0) -> Transformed:
    return mixing(transform, 0, epoch, seed, Painted(pieces)).sample


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, masks=st.booleans(), turned=st.booleans())
def test_objects_of_a_mosaic_stay_where_their_pixels_are(seed: int, masks: bool, turned: bool) -> None:
    affine = {"degrees": 10.0, "scale": 0.3, "shear": 4.0} if turned and masks else {"translate": 0.1, "scale": 0.4}
    pieces = [painted_piece(seed + n, masks) for n in range(5)]
    out = sample(Mixing(mosaic=1), TrainTransform(128, hsv=STILL, affine=affine), pieces, seed)
    assert out.image.shape == (128, 128, 3)
    assert_objects_follow(out)


def test_a_mosaic_has_four_pictures_around_its_corner() -> None:
    pieces = [
        Piece(np.full((50, 50, 3), level, np.uint8), np.array([[0, 0, 50, 50]], np.float32), np.array([n]))
        for n, level in enumerate((10, 60, 110, 160))
    ]
    out = mosaic(pieces, (50, 50), np.random.default_rng(0))
    assert out.image.shape == (100, 100, 3)
    corner = out.boxes[3, :2]
    assert (corner == out.boxes[0, 2:]).all()
    assert out.labels.tolist() == [0, 1, 2, 3]
    for box, level in zip(out.boxes.astype(int).tolist(), (10, 60, 110, 160), strict=True):
        assert (out.image[box[1] : box[3], box[0] : box[2]] == level).all()


def test_mixup_blends_two_samples_and_keeps_the_objects_of_both() -> None:
    pieces = [painted_piece(n) for n in range(2)]
    transform = TrainTransform(96, flip=0, hsv=STILL, affine={})
    a, b = (transform(p.image, p.boxes, p.labels, p.masks) for p in pieces)
    out = sample(Mixing(mixup=1), transform, pieces, seed=4)
    assert np.array_equal(out.boxes, np.concatenate([a.boxes, b.boxes]))
    assert out.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert out.masks is not None and len(out.masks) == 6
    differs = a.image != b.image
    shares = (out.image.astype(float) - b.image)[differs] / (a.image.astype(float) - b.image)[differs]
    assert 0.2 < np.median(shares) < 0.8
    exact = np.median(shares) * a.image + (1 - np.median(shares)) * b.image
    assert np.abs(out.image - exact).max() < 3


@given(epochs=st.integers(1, 40), close=st.integers(0, 50), epoch=st.integers(0, 39))
def test_closing_is_a_function_of_the_epoch_alone(epochs: int, close: int, epoch: int) -> None:
    assert Mixing(mosaic=0.5, epochs=epochs, close=close).open(epoch) == (close == 0 or epoch < epochs - close)
    assert Mixing(mixup=0.5, epochs=epochs, close=close).open(epoch)  # without mosaic there is nothing to close


def test_closed_epochs_have_neither_mosaic_nor_mixup() -> None:
    pieces = [painted_piece(n) for n in range(6)]
    transform, mixing = TrainTransform(96), Mixing(mosaic=1, mixup=1, epochs=5, close=2)
    plain = transform(pieces[0].image, pieces[0].boxes, pieces[0].labels, pieces[0].masks, seed=3)
    for epoch in range(5):
        out = sample(mixing, transform, pieces, seed=3, epoch=epoch)
        assert np.array_equal(out.image, plain.image) == (epoch >= 3)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, masks=st.booleans(), segments=st.booleans())
@example(seed=134217727, masks=False, segments=False)  # mirrored, an edge was -2e-6
def test_pasted_and_covered_objects_stay_where_their_pixels_are(seed: int, masks: bool, segments: bool) -> None:
    pieces = [painted_piece(seed + n, masks) for n in range(4)]
    before = pieces[0].image.copy()
    rng = np.random.default_rng(seed)
    out = CopyPaste(index_of(pieces, segments))(pieces[0], rng, Painted(pieces).piece)
    assert np.array_equal(pieces[0].image, before)  # a cache may hold it
    sample = Transformed(out.image, out.boxes, out.labels, out.masks)
    if masks:
        assert_objects_follow(sample)
    else:  # a box that lost a corner shows other things in that corner too
        assert_objects_follow(sample, share=0)
        assert_something_shows(sample)


def assert_something_shows(out: Transformed) -> None:
    """Of each object that is not tiny, about MIN_VISIBLE of its box at least has the colour of its label."""
    for box, label in zip(np.round(out.boxes).astype(int).tolist(), out.labels.tolist(), strict=True):
        x1, y1, x2, y2 = box
        near = np.abs(out.image[y1:y2, x1:x2].astype(int) - COLOURS[label]).max(-1) < 60
        assert min(x2 - x1, y2 - y1) < 8 or near.mean() > 0.05


def patch_of(label: int, shape: tuple[int, int], top: int, left: int) -> Patch:
    height, width = shape
    image = np.full((height, width, 3), COLOURS[label], np.uint8)
    piece = Piece(image, np.array([[0, 0, width, height]], np.float32), np.array([label]))
    return Patch(piece, np.ones(shape, bool), top, left)


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_covered_shrinks_and_then_goes(masks: bool) -> None:
    box = np.array([[20, 20, 60, 60]], np.float32)
    mask = np.zeros((1, 100, 100), np.uint8)
    mask[0, 20:60, 20:60] = 1
    under = Piece(np.zeros((100, 100, 3), np.uint8), box, np.array([0]), mask if masks else None)
    half = paste(under, [patch_of(1, (50, 20), 15, 15)])
    assert half.boxes.tolist() == [[35, 20, 60, 60], [15, 15, 35, 65]]
    corner = paste(under, [patch_of(1, (20, 20), 10, 10)])
    assert corner.boxes[0].tolist() == [20, 20, 60, 60]
    # Nine tenths and more are gone, by one patch or by two of which neither alone would do it.
    one = paste(under, [patch_of(1, (45, 39), 18, 18)])
    two = paste(under, [patch_of(1, (45, 20), 18, 18), patch_of(2, (45, 19), 18, 38)])
    assert (one.labels.tolist(), two.labels.tolist()) == ([1], [1, 2])
    over = paste(under, [patch_of(1, (20, 20), 80, 80), patch_of(2, (20, 20), 80, 80)])
    assert over.labels.tolist() == [0, 2]  # the second patch hides the first
    if masks:
        assert half.masks is not None and half.masks.sum(axis=(1, 2)).tolist() == [25 * 40, 50 * 20]


def test_rare_classes_are_pasted_more_often_than_they_occur() -> None:
    pieces = [painted_piece(n) for n in range(20)]
    for n, piece in enumerate(pieces):  # label 0 in all images, 1 in four, 2 in one
        pieces[n] = piece.keep(np.array([True, n < 4, n < 1]))
    index = index_of(pieces, names=4)
    weights = np.array([20**-0.5, 0.5, 1.0, 0.0])
    assert np.allclose(class_probabilities(index), weights / weights.sum())
    paste_rare, rng = CopyPaste(index), np.random.default_rng(0)
    labels = index.labels[[paste_rare.draw(rng) for _ in range(600)]]
    shares = np.bincount(labels, minlength=4) / 600
    assert np.abs(shares - weights / weights.sum()).max() < 0.07


def test_crowds_and_images_that_cannot_be_read_are_not_pasted() -> None:
    pieces = [painted_piece(n) for n in range(3)]
    index = index_of(pieces)
    index.crowd[index.labels == 2] = True
    paste_rare = CopyPaste(index)
    assert paste_rare.probabilities[2] == 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        out = paste_rare(pieces[0].keep(np.zeros(3, bool)), rng, lambda row: ((row + 1) % 3, pieces[(row + 1) % 3]))
        assert len(out.boxes) == 0
    index.crowd[:] = True
    assert CopyPaste(index).draw(np.random.default_rng(0)) is None


def test_equal_seeds_give_equal_mixed_samples() -> None:
    pieces = [painted_piece(n) for n in range(6)]
    mixing = Mixing(mosaic=0.5, mixup=0.5, copy_paste=0.5, paste=CopyPaste(index_of(pieces)))
    outs = [[sample(mixing, TrainTransform(96), pieces, seed) for seed in range(12)] for _ in range(2)]
    for a, b in zip(*outs, strict=True):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)
    assert len({out.image.tobytes() for out in outs[0]}) == 12
    assert len({len(out.boxes) for out in outs[0]}) > 2


def test_a_mosaic_of_a_single_image_is_made_of_itself() -> None:
    out = sample(Mixing(mosaic=1, mixup=1), TrainTransform(96, hsv=STILL), [painted_piece(1)], seed=1)
    assert out.image.shape == (96, 96, 3)
