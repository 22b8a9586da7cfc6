"""Transforms: geometry that boxes and pixels share, and randomness that hangs on the seed alone."""

from __future__ import annotations

import colorsys
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from dataset_helpers import extent, painted
from hypothesis import given, settings
from hypothesis import strategies as st

from iifdet.datasets import EvalTransform, TrainTransform, letterbox, sample_seed, squash
from iifdet.datasets.affine import (
    about_middle,
    fit_matrix,
    is_upright,
    mirror,
    scaling,
    translation,
    warp,
    warp_boxes,
    warp_upright,
)
from iifdet.datasets.photometric import apply_hsv, hsv_change
from iifdet.datasets.pieces import clip_boxes, still_count
from iifdet.datasets.resizing import letterbox_shape
from iifdet.errors import InputError
from iifdet.types import ImageInfo

STRONG = {"degrees": 15.0, "translate": 0.2, "scale": 0.4, "shear": 5.0}
ARGUMENTS = st.tuples(st.integers(0, 2**32 - 1), st.integers(60, 200), st.integers(60, 200))


@settings(max_examples=60, deadline=None)
@given(arguments=ARGUMENTS, turned=st.booleans(), resize=st.sampled_from(["letterbox", "square"]))
def test_a_painted_rectangle_stays_under_its_box(arguments: tuple[int, int, int], turned: bool, resize: str) -> None:
    seed, height, width = arguments
    affine = STRONG if turned else {"translate": 0.2, "scale": 0.4}
    transform = TrainTransform(160, resize, hsv=(0, 0, 0), affine=affine)
    image, boxes, masks = painted(height, width, seed)
    out = transform(image, boxes, np.arange(3), masks, seed=seed)
    assert out.masks is not None
    assert len(out.boxes) == len(out.labels) == len(out.masks)
    assert ((out.boxes >= 0) & (out.boxes <= 160)).all()
    assert ((out.boxes[:, 2:] - out.boxes[:, :2]) >= 2).all()
    for box, label, mask in zip(out.boxes, out.labels.tolist(), out.masks, strict=True):
        colour = out.image.astype(int)[..., label] - out.image.astype(int).sum(-1) / 3 > 100
        near = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        assert not (colour & (near == 0)).any()  # pixels and mask moved together
        if not colour.any():
            continue
        seen = extent(colour)
        assert (seen[:2] >= box[:2] - 2).all() and (seen[2:] <= box[2:] + 2).all()
        if not turned:  # without turning and shearing the box is tight as well
            assert np.abs(seen - box).max() <= 3


def test_boxes_of_which_little_is_left_are_dropped() -> None:
    transform = TrainTransform(100, flip=0, hsv=(0, 0, 0), affine={"translate": 0.5})
    image, labels = np.zeros((100, 100, 3), np.uint8), np.zeros(1, np.int64)
    kept, shares = [], []
    for seed in range(60):
        full = transform(image, np.array([[0, 0, 100, 100]], np.float32), labels, seed=seed).boxes[0]
        moved = transform(image, np.array([[0, 0, 20, 20]], np.float32), labels, seed=seed).boxes
        dx, dy = (full[0] or full[2] - 100), (full[1] or full[3] - 100)
        shares.append(max(0, 20 + min(dx, 0)) * max(0, 20 + min(dy, 0)) / 400)
        kept.append(len(moved))
    assert all(n == 0 for n, share in zip(kept, shares, strict=True) if share < 0.09)
    assert all(n == 1 for n, share in zip(kept, shares, strict=True) if share > 0.11)
    assert 0 < sum(kept) < 60


def test_a_box_counts_by_its_visible_share_and_its_shorter_side() -> None:
    whole = np.array([[0, 0, 40, 40]] * 4, np.float32)
    seen = np.array([[0, 0, 40, 4.1], [0, 0, 40, 3.9], [0, 0, 40, 1.9], [0, 0, 13, 13]], np.float32)
    assert still_count(whole, seen).tolist() == [True, False, False, True]
    assert still_count(seen[2:3], seen[2:3]).tolist() == [False]


def test_equal_seeds_give_equal_samples_and_others_differ() -> None:
    image, boxes, masks = painted(90, 120, 0)
    first, second = TrainTransform(96, affine=STRONG), TrainTransform(96, affine=STRONG)
    second(image, boxes, np.arange(3), masks, seed=99)
    torch.rand(3)
    np.random.rand(3)
    a, b, c = (t(image, boxes, np.arange(3), masks, seed=s) for t, s in ((first, 5), (second, 5), (first, 6)))
    assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)
    assert not np.array_equal(a.image, c.image)


def test_the_draws_of_one_sample_are_not_tied_to_one_another() -> None:
    image = np.full((60, 60, 3), 100, np.uint8)
    transform = TrainTransform(60, flip=0, hsv=(0, 0, 0.4), affine={"scale": 0.4})
    box = np.array([[20, 20, 40, 40]], np.float32)
    outs = [transform(image, box, np.zeros(1, np.int64), seed=s) for s in range(150)]
    sizes = [float(o.boxes[0, 2] - o.boxes[0, 0]) for o in outs]
    light = [float(o.image[30, 30, 0]) for o in outs]
    assert min(sizes) < 14 and max(sizes) > 26 and min(light) < 70 and max(light) > 130
    assert abs(np.corrcoef(sizes, light)[0, 1]) < 0.25


def test_sample_seeds_differ_by_run_epoch_and_row() -> None:
    seeds = {sample_seed(s, e, r) for s in range(4) for e in range(5) for r in range(50)}
    assert len(seeds) == 1000
    assert isinstance(sample_seed(-1, 0, 2**40), int)


def test_flip_mirrors_boxes_and_pixels() -> None:
    image, boxes, masks = painted(80, 80, 1)
    out = TrainTransform(80, flip=1.0, hsv=(0, 0, 0), affine={})(image, boxes, np.arange(3), masks, seed=0)
    assert np.array_equal(out.image, image[:, ::-1])
    assert np.array_equal(out.masks, masks[..., ::-1])
    assert np.allclose(out.boxes[:, [0, 2]], 80 - boxes[:, [2, 0]], atol=1e-3)


def test_images_without_boxes_pass() -> None:
    image, none = np.zeros((30, 50, 3), np.uint8), np.zeros((0, 4), np.float32)
    masks = np.zeros((0, 30, 50), np.uint8)
    out = TrainTransform(64, affine=STRONG)(image, none, np.zeros(0, np.int64), masks, seed=1)
    assert out.boxes.shape == (0, 4) and out.masks is not None and out.masks.shape == (0, 64, 64)


def test_boxes_that_reach_outside_are_clipped_and_do_not_raise() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    box = np.array([[-3, -3, 20, 60]], np.float32)
    out = TrainTransform(50, flip=0, hsv=(0, 0.1, 0), affine={})(image, box, np.zeros(1, np.int64), seed=1)
    assert out.boxes.tolist() == [[0, 0, 20, 50]]


@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 640))
def test_letterbox_keeps_the_aspect_and_fills_one_side(height: int, width: int, size: int) -> None:
    h, w = letterbox_shape(height, width, size)
    assert max(h, w) == size
    exact = size / max(height, width)
    assert abs(h - max(1, height * exact)) <= 0.5 + 1e-6 and abs(w - max(1, width * exact)) <= 0.5 + 1e-6
    assert letterbox_shape(h, w, size) == (h, w)  # what a cache relies on


@pytest.mark.parametrize("resize", [letterbox, squash])
@pytest.mark.parametrize("size", [64, 200, (96, 160)])
def test_scale_and_offset_lead_back_to_the_original(resize, size) -> None:
    image, boxes, masks = painted(75, 130, 3)
    out = resize(image, boxes, size, masks=masks)
    shape = (size, size) if isinstance(size, int) else size
    assert out.image.shape == (*shape, 3) and out.masks.shape == (3, *shape)
    info = ImageInfo(0, 0, "", (75, 130), out.scale, out.offset)
    assert np.allclose(info.to_original(torch.from_numpy(out.boxes)).numpy(), boxes, atol=1e-3)
    for k in range(3):
        assert np.abs(extent(out.masks[k]) - out.boxes[k]).max() <= 1
        assert out.image[tuple(out.boxes[k].reshape(2, 2).mean(0)[::-1].astype(int))].argmax() == k


def test_a_box_becomes_its_turned_mask() -> None:
    image, boxes = np.zeros((100, 100, 3), np.uint8), np.array([[20, 20, 80, 80]], np.float32)
    disc = cv2.circle(np.zeros((100, 100), np.uint8), (50, 50), 30, 1, -1)[None]
    transform = TrainTransform(100, flip=0, hsv=(0, 0, 0), affine={"degrees": 45})
    for seed in range(5):
        out = transform(image, boxes, np.zeros(1, np.int64), disc, seed=seed)
        assert np.abs(out.boxes[0] - boxes[0]).max() <= 1.5  # a disc stays as wide, whatever the turn
        bare = transform(image, boxes, np.zeros(1, np.int64), seed=seed)
        assert (bare.boxes[0, :2] <= out.boxes[0, :2] + 1.5).all()


@pytest.mark.parametrize("seed", range(4))
def test_one_warp_shows_what_resize_and_move_in_two_steps_would(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 200, (90, 130, 3)).astype(np.uint8), (0, 0), 4)
    move = about_middle((160, 160), degrees=10, factor=1.1, shear=(3, 0), move=(0.05, -0.1))
    once = warp(image, move @ fit_matrix(90, 130, (160, 160), "letterbox"), (160, 160))
    twice = warp(letterbox(image, np.zeros((0, 4), np.float32), 160).image, move, (160, 160))
    inside = cv2.erode((twice < 120).all(-1).astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.mean() > 0.4
    assert np.abs(once.astype(int) - twice)[inside].max() <= 6


def test_thin_lines_survive_a_large_reduction() -> None:
    image = np.zeros((800, 800, 3), np.uint8)
    image[:, ::8] = 255  # one column in eight
    out = TrainTransform(100, flip=0, hsv=(0, 0, 0), affine={"translate": 0.001})(
        image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), seed=0
    )
    assert np.abs(out.image[10:90, 10:90].astype(int) - 255 / 8).max() < 8


def test_turning_agrees_with_opencv() -> None:
    matrix = about_middle((60, 80), degrees=30, factor=0.7)
    assert np.allclose(matrix[:2], cv2.getRotationMatrix2D((40, 30), 30, 0.7))


def test_hsv_tables_agree_with_the_standard_library() -> None:
    colours = np.array([[[200, 30, 60], [10, 90, 200], [120, 220, 40], [99, 99, 99]]], np.uint8)
    got = apply_hsv(colours, hsv_change(hue=0.1, saturation=0.6, value=1.2))[0]
    for before, after in zip(colours[0] / 255, got, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        expected = np.array(colorsys.hsv_to_rgb((h + 0.1) % 1, min(1, s * 0.6), min(1, v * 1.2))) * 255
        assert np.abs(expected - after).max() <= 4  # hue has 180 steps


def test_the_margin_keeps_the_grey_of_validation_where_the_picture_is_smaller_than_the_tensor() -> None:
    image, none = np.full((30, 60, 3), 200, np.uint8), np.zeros((0, 4), np.float32)
    for seed in range(5):
        out = TrainTransform(64, affine={}, hsv=(0.1, 0.5, 0.5))(image, none, np.zeros(0, np.int64), seed=seed)
        assert (out.image[0] == 128).all()


def test_mistakes_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'letterbox'"):
        EvalTransform(64, "leterbox")
    with pytest.raises(InputError, match="did you mean 'degrees'"):
        TrainTransform(64, affine={"degree": 3})


def test_importing_datasets_does_not_import_albumentations() -> None:
    code = "import sys, iifdet.datasets; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(
    shape=st.tuples(st.integers(16, 120), st.integers(16, 120)),
    size=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    factors=st.tuples(st.floats(0.05, 4), st.floats(0.05, 4)),
    move=st.tuples(st.floats(-150, 150), st.floats(-150, 150)),
    flipped=st.booleans(),
)
def test_an_upright_warp_is_the_warp_of_the_matrix_that_it_gives_back(shape, size, factors, move, flipped) -> None:
    wanted = translation(*move) @ scaling(*factors)
    wanted = mirror(size[1]) @ wanted if flipped else wanted
    # A slope: bilinear sampling anywhere gives the place itself, save within a pixel of the border.
    across = np.broadcast_to(np.linspace(0, 120, shape[1] + 1)[:-1], shape)
    down = np.broadcast_to(np.linspace(0, 120, shape[0] + 1)[:-1, None], shape)
    image = np.stack([across, down, np.full(shape, 60)], axis=-1).astype(np.uint8)
    got, used = warp_upright(image, wanted, size)
    assert got.shape == (*size, 3) and is_upright(used)
    corners = np.array([[0, 0, shape[1], shape[0]]], np.float32)
    seen, meant = (clip_boxes(warp_boxes(corners, m), *size)[0] for m in (used, wanted))
    if min(meant[2] - meant[0], meant[3] - meant[1]) >= 0.5:
        assert np.abs(seen - meant).max() <= 0.51 * max(1, *factors), "less than a pixel of the coarser of the two"
    expected, inside = warp(image, used, size), warp(np.full((*shape, 3), 255, np.uint8), used, size, pad=0)
    margin = int(np.ceil(2 * max(1, *factors)))
    core = cv2.erode((inside.min(axis=-1) == 255).astype(np.uint8), np.ones((2 * margin + 1,) * 2)) > 0
    assert np.abs(got.astype(int) - expected)[core].max(initial=0) <= 3 + 120 / min(shape)


def test_an_upright_warp_without_a_move_is_the_letterbox_to_the_last_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3)).astype(np.uint8)
    for size in ((160, 160), (200, 140)):  # larger: a letterbox averages where it shrinks, a warp only below one half
        got, used = warp_upright(image, fit_matrix(90, 130, size, "letterbox"), size)
        np.testing.assert_array_equal(got, letterbox(image, np.zeros((0, 4), np.float32), size).image)
        np.testing.assert_allclose(used, fit_matrix(90, 130, size, "letterbox"))
        flipped, _ = warp_upright(image, mirror(size[1]) @ fit_matrix(90, 130, size, "letterbox"), size)
        np.testing.assert_array_equal(flipped, got[:, ::-1])


def test_a_picture_that_is_moved_out_of_sight_leaves_grey() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    for move in ((-20, 0), (64, 0), (0, 100)):
        got, _ = warp_upright(image, translation(*move), (64, 64))
        assert (got == 128).all()
