"""The presets of the two papers: their geometry, their ranges, and torchvision's versions as oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dataset_helpers import COLOURS, assert_objects_follow, painted, painted_piece
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from iifdet.datasets import TRANSFORMS, paper, ssd
from iifdet.datasets.photometric import distort

SEEDS = st.integers(0, 2**32 - 1)
NO_OBJECTS = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


# -- paper -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, masks=st.booleans(), resize=st.sampled_from(["letterbox", "square"]))
def test_objects_of_the_papers_chains_stay_where_their_pixels_are(seed: int, masks: bool, resize: str) -> None:
    piece = painted_piece(seed, masks)
    out = TRANSFORMS["paper"](128, resize)(piece.image, piece.boxes, piece.labels, piece.masks, seed)
    # Shears make an upright box wider than its object, and grey squares and noise hide some of it.
    assert_objects_follow(out, tight=4, share=0.45, strength=8)
    assert len(out.boxes) > 0


def draws_of(chain, image: np.ndarray, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    outs = [chain(image, image.shape[:2], np.random.default_rng(seed)) for seed in range(count)]
    return np.stack([o[0] for o in outs]), np.stack([o[1] for o in outs])


def test_there_are_eight_chains_and_each_is_drawn() -> None:
    assert len(paper.CHAINS) == 8
    drawn = {int(np.random.default_rng(seed).integers(8)) for seed in range(100)}
    assert drawn == set(range(8))


@pytest.mark.parametrize(
    ("chain", "entry", "low", "high"),
    [
        (paper.contrast_flip, (0, 0), -1, 1),
        (paper.grey_move_y, (1, 2), -12, 12),
        (paper.contrast_shear_x, (0, 1), -np.tan(np.pi / 18), np.tan(np.pi / 18)),
        (paper.blur_shear_y, (1, 0), -np.tan(np.pi / 18), np.tan(np.pi / 18)),
        (paper.contrast_move_x, (0, 2), -25, 25),
        (paper.cutout_noise_scale, (0, 0), 0.9, 1.1),
        (paper.dropout_blur_scale, (1, 1), 0.8, 1.2),
    ],
)
def test_moves_fill_their_ranges_and_keep_to_them(chain, entry: tuple[int, int], low: float, high: float) -> None:
    _, matrices = draws_of(chain, np.full((80, 100, 3), 100, np.uint8))
    values = matrices[:, *entry]
    assert low - 1e-9 <= values.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < values.max() <= high + 1e-9


def test_pixels_change_within_their_ranges() -> None:
    flat = np.full((80, 100, 3), 200, np.uint8)
    contrast = draws_of(paper.contrast_flip, flat)[0][:, 0, 0, 0].astype(float)
    assert 128 + 0.75 * 72 - 1 <= contrast.min() < 190 and 225 < contrast.max() <= 128 + 1.5 * 72 + 1
    grey = draws_of(paper.grey_move_y, np.full((8, 8, 3), (250, 0, 0), np.uint8), 100)[0][:, 0, 0].astype(float)
    shares = 1 - (grey[:, 0] - grey[:, 1]) / 250
    assert 0.09 <= shares.min() < 0.2 and 0.8 < shares.max() <= 0.91
    cut = (draws_of(paper.cutout_multiply_flip, flat)[0].max(-1).astype(int) == 0).mean((1, 2))
    assert (cut == 0).all()  # the squares are grey, not black
    noisy = draws_of(paper.cutout_noise_scale, flat, 60)[0].astype(float)
    spread = np.median(np.abs(noisy - np.median(noisy, axis=(1, 2), keepdims=True)), axis=(1, 2, 3)) / 0.6745
    assert spread.max() <= 17 and spread.max() > 10 and spread.min() < 3
    black = (draws_of(paper.dropout_blur_scale, flat, 100)[0].mean(-1) < 60).mean((1, 2))
    assert black.max() < 0.12 and black.max() > 0.02


def test_an_image_whose_objects_always_leave_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image, boxes, masks = painted(90, 90, 0)
    away = np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]])
    tries = []
    monkeypatch.setattr(paper, "CHAINS", (lambda image, size, rng: (tries.append(1) or image, away),))
    out = TRANSFORMS["paper"](90)(image, boxes, np.arange(3), masks, seed=0)
    assert len(tries) == paper.TRIES
    assert np.array_equal(out.image, image) and np.array_equal(out.boxes, boxes)
    assert len(TRANSFORMS["paper"](90)(image, *NO_OBJECTS, seed=0).boxes) == 0
    assert len(tries) == paper.TRIES + 1


# -- ssd ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, masks=st.booleans(), resize=st.sampled_from(["letterbox", "square"]))
def test_objects_of_the_ssd_chain_stay_where_their_pixels_are(seed: int, masks: bool, resize: str) -> None:
    piece = painted_piece(seed, masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd, "distort", lambda image, rng: image)  # it may swap the channels that tell labels apart
        out = TRANSFORMS["ssd"](128, resize)(piece.image, piece.boxes, piece.labels, piece.masks, seed)
    assert_objects_follow(out)


def test_the_crop_holds_what_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.array([[10, 20, 60, 90], [100, 40, 180, 110], [30, 100, 50, 120]], np.float32)
    for overlap in (0.0, 0.3, 0.7):
        monkeypatch.setattr(ssd, "OVERLAPS", (overlap,))
        for seed in range(40):
            crop, rows = ssd.iou_crop(boxes, (0, 0, 200, 140), np.random.default_rng(seed))
            x1, y1, x2, y2 = crop
            assert x1 >= 0 and y1 >= 0 and x2 <= 200 and y2 <= 140
            if rows.all() and crop == (0, 0, 200, 140):
                continue  # nothing of this overlap was found
            assert 0.5 <= (x2 - x1) / (y2 - y1) <= 2 and x2 - x1 >= 59 and y2 - y1 >= 41
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            assert np.array_equal(rows, ((centres > crop[:2]) & (centres < crop[2:])).all(1)) and rows.any()
            ious = box_iou(torch.from_numpy(boxes[rows]), torch.tensor([crop], dtype=torch.float32))
            assert ious.max() >= overlap


@pytest.mark.parametrize("overlap", [0.0, 0.5, None])
def test_crops_are_distributed_like_torchvisions(overlap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.array([[10, 20, 130, 120], [100, 40, 180, 110]], np.float32)
    monkeypatch.setattr(ssd, "OVERLAPS", (overlap,))
    ours = [ssd.iou_crop(boxes, (0, 0, 200, 140), np.random.default_rng(seed)) for seed in range(400)]
    theirs = v2.RandomIoUCrop(sampler_options=[1.0 if overlap is None else overlap])
    image = tv_tensors.Image(torch.zeros(1, 140, 200, dtype=torch.uint8))
    target = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(140, 200))
    torch.manual_seed(0)
    outs = [theirs(image, target) for _ in range(400)]
    areas = [np.mean([(x2 - x1) * (y2 - y1) for (x1, y1, x2, y2), _ in ours]) / 28000]
    areas.append(np.mean([o[0].shape[-1] * o[0].shape[-2] for o in outs]) / 28000)
    kept = [np.mean([rows.sum() for _, rows in ours])]
    kept.append(np.mean([int((o[1][:, 2] > o[1][:, 0]).sum()) for o in outs]))
    assert abs(areas[0] - areas[1]) < 0.05
    assert abs(kept[0] - kept[1]) < 0.2


def test_zooming_out_is_distributed_like_torchvisions() -> None:
    ours = np.array([ssd.zoom_out(100, 60, np.random.default_rng(seed)) for seed in range(500)])
    image = tv_tensors.Image(torch.ones(1, 60, 100, dtype=torch.uint8))
    torch.manual_seed(0)
    theirs = []
    for _ in range(300):
        canvas = v2.RandomZoomOut(p=1.0)(image)[0]
        top, left = (int(v) for v in canvas.nonzero()[0])
        theirs.append((-left, -top, canvas.shape[1] - left, canvas.shape[0] - top))
    assert (ours[:, :2] <= 0).all() and (ours[:, 2:] >= [100, 60]).all()
    assert ours.max() <= 400
    for middle in (np.mean, np.std):
        assert np.abs(middle(ours, axis=0) - middle(np.array(theirs), axis=0)).max() < 15


def test_the_window_is_what_padding_cropping_and_resizing_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image, boxes, _ = painted(80, 120, 2)
    monkeypatch.setattr(ssd, "distort", lambda image, rng: image)
    monkeypatch.setattr(ssd, "zoom_out", lambda w, h, rng: (-40, -20, 200, 140))
    monkeypatch.setattr(ssd, "OVERLAPS", (None,))
    plain = np.full((160, 240, 3), 128, np.uint8)
    plain[20:100, 40:160] = image
    shown = set()
    for seed in range(12):
        out = TRANSFORMS["ssd"]((160, 240), "square")(image, boxes, np.arange(3), seed=seed)
        flipped = out.image[:, ::-1]
        shown |= {
            name
            for name, seen in (("zoomed", out.image), ("flipped", flipped))
            if np.abs(seen.astype(int) - plain).max() <= 2
        }
        if np.array_equal(out.image, plain):
            assert np.allclose(out.boxes, boxes + np.array([40, 20, 40, 20]))
    assert shown == {"zoomed", "flipped"}


def test_colours_change_like_torchvisions() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (24, 24, 3)).astype(np.uint8)
    image[..., 0] //= 2
    theirs = v2.RandomPhotometricDistort()
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    torch.manual_seed(0)
    ours = np.stack([distort(image, np.random.default_rng(seed)) for seed in range(400)]).astype(float)
    others = np.stack([theirs(tensor).numpy().transpose(1, 2, 0) for _ in range(400)]).astype(float)
    for measure in (lambda x: x.mean((1, 2)), lambda x: x.std((1, 2))):
        assert np.abs(measure(ours).mean(0) - measure(others).mean(0)).max() < 4
        assert np.abs(measure(ours).std(0) - measure(others).std(0)).max() < 4
    unchanged = [(x == image).all((1, 2, 3)).mean() for x in (ours, others)]
    assert abs(unchanged[0] - unchanged[1]) < 0.05


@pytest.mark.parametrize("name", ["paper", "ssd"])
def test_presets_give_equal_samples_for_equal_seeds_and_pass_images_without_objects(name: str) -> None:
    image, boxes, masks = painted(90, 130, 1)
    first, second = TRANSFORMS[name](96), TRANSFORMS[name](96)
    for seed in range(16):
        a = first(image, boxes, np.arange(3), masks, seed=seed)
        b = second(image, boxes, np.arange(3), masks, seed=seed)
        assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)
        empty = first(image, *NO_OBJECTS, np.zeros((0, 90, 130), np.uint8), seed=seed)
        assert empty.image.shape == (96, 96, 3) and empty.masks is not None and empty.masks.shape == (0, 96, 96)
    assert first.training and COLOURS.shape == (3, 3)
