"""YOLOv3's assignment and loss, against loops over images, boxes and slots."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from iifdet.boxes import IOU_KINDS
from iifdet.detectors.yolo_loss import Grid, YOLOLossOptions, assign, decode, yolo_losses

SIZE = 128
C = 5
SHAPES = ((4, 4, 32), (8, 8, 16))
#: Areas differ, so that no two anchors tie.
ANCHORS = torch.tensor([[[60.0, 44], [47, 71], [90, 93]], [[13, 14], [22, 19], [31, 28]]])
OVERLAPS = {
    "iou": ops.box_iou,
    "giou": ops.generalized_box_iou,
    "diou": ops.distance_box_iou,
    "ciou": ops.complete_box_iou,
}
#: The defaults of the paper, with no coefficient equal to another.
OPTIONS = YOLOLossOptions()


@pytest.fixture
def grid():
    return Grid.build(SHAPES, ANCHORS)


def slots():
    """(scale, row, column, anchor, stride, (w, h)) of every slot, in order."""
    for scale, (rows, columns, stride) in enumerate(SHAPES):
        for row in range(rows):
            for column in range(columns):
                for anchor in range(3):
                    yield scale, row, column, anchor, stride, ANCHORS[scale, anchor].tolist()


SLOTS = list(slots())


def anchor_box(slot):
    _, row, column, _, stride, (w, h) = SLOTS[slot]
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


ANCHOR_BOXES = torch.tensor([anchor_box(s) for s in range(len(SLOTS))], dtype=torch.float64)


def targets_of(seed, per_image=(3, 0, 5)):
    generator = torch.Generator().manual_seed(seed)
    out = []
    for n in per_image:
        size = 4 + torch.rand(n, 2, generator=generator) * 90
        low = torch.rand(n, 2, generator=generator) * (SIZE - size)
        labels = torch.randint(0, C, (n,), generator=generator)
        out.append({"boxes": torch.cat((low, low + size), 1), "labels": labels})
    return out


def predictions(seed, images=3, spread=1.0):
    generator = torch.Generator().manual_seed(seed + 999)
    t = spread * torch.randn(images, len(SLOTS), 5, generator=generator)
    logits = torch.randn(images, len(SLOTS), C, generator=generator)
    return t, logits


def cell_slots(box):
    """Slots of the cells that hold a box's centre, at any scale."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return [
        s
        for s, (_, row, column, _, stride, _) in enumerate(SLOTS)
        if column * stride <= x < (column + 1) * stride and row * stride <= y < (row + 1) * stride
    ]


def loop_slot(box, kind):
    candidates = cell_slots(box)
    overlap = OVERLAPS[kind](torch.tensor([box], dtype=torch.float64), ANCHOR_BOXES[candidates])[0].tolist()
    return candidates[overlap.index(max(overlap))], max(overlap)


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


# -- grid --------------------------------------------------------------------------------------------------------------


def test_slots_are_ordered_by_scale_row_column_anchor(grid):
    assert grid.cell.tolist() == [[column, row] for _, row, column, *_ in SLOTS]
    assert grid.anchor.tolist() == [s[-1] for s in SLOTS]
    assert grid.stride.flatten().tolist() == [s[-2] for s in SLOTS]
    torch.testing.assert_close(grid.anchor_boxes().double(), ANCHOR_BOXES)


def test_slots_of_a_grid_that_is_not_square_keep_row_before_column():
    grid = Grid.build(((2, 3, 32),), ANCHORS[:1])
    assert grid.cell[::3].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]


def test_decoding_zero_gives_a_cells_centre_and_its_anchor(grid):
    torch.testing.assert_close(grid.decode(torch.zeros(2, len(SLOTS), 5))[1].double(), ANCHOR_BOXES)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_decoding_is_the_inverse_of_the_targets(seed):
    grid = Grid.build(SHAPES, ANCHORS)
    targets = targets_of(seed, (6,))
    found = assign(targets, grid, OPTIONS)
    t = torch.zeros(len(SLOTS), 5, dtype=torch.float64)
    for box, slot in zip(found.boxes.double(), found.slot, strict=True):
        _, row, column, _, stride, (w, h) = SLOTS[slot]
        fx = ((box[0] + box[2]) / 2 / stride - column).clamp(1e-9, 1 - 1e-9)
        fy = ((box[1] + box[3]) / 2 / stride - row).clamp(1e-9, 1 - 1e-9)
        t[slot, :4] = torch.stack(
            (fx.logit(), fy.logit(), ((box[2] - box[0]) / w).log(), ((box[3] - box[1]) / h).log())
        )
        got = grid.decode(t)[slot]
        torch.testing.assert_close(got, box, rtol=0, atol=1e-3)


def test_decoding_caps_the_exponent_so_that_no_box_is_infinite(grid):
    boxes = grid.decode(torch.full((len(SLOTS), 5), 1e4))
    assert boxes.isfinite().all()


# -- assignment --------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(IOU_KINDS))
def test_assigned_cell_contains_the_centre_of_the_box(seed, kind):
    grid = Grid.build(SHAPES, ANCHORS)
    found = assign(targets_of(seed), grid, replace(OPTIONS, iou_type=kind))
    centre = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    low = grid.cell[found.slot] * grid.stride[found.slot]
    assert ((low <= centre) & (centre < low + grid.stride[found.slot])).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(IOU_KINDS))
def test_assigned_anchor_overlaps_best_among_those_of_the_cell(seed, kind):
    targets = targets_of(seed)
    found = assign(targets, Grid.build(SHAPES, ANCHORS), replace(OPTIONS, iou_type=kind))
    for box, slot in zip(found.boxes.tolist(), found.slot.tolist(), strict=True):
        candidates = cell_slots(box)
        assert len(candidates) == 3 * len(SHAPES) and slot in candidates
        truth = torch.tensor([box], dtype=torch.float64)
        own = OVERLAPS[kind](truth, ANCHOR_BOXES[slot : slot + 1]).item()
        assert own == pytest.approx(loop_slot(box, kind)[1], abs=1e-5)


def test_boxes_keep_their_image_label_and_order(grid):
    targets = targets_of(0)
    found = assign(targets, grid, OPTIONS)
    assert found.image.tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
    assert torch.equal(found.boxes, torch.cat([t["boxes"] for t in targets]))
    assert torch.equal(found.labels, torch.cat([t["labels"] for t in targets]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(IOU_KINDS), st.sampled_from([0.2, 0.49975, 0.7]))
def test_negatives_are_slots_that_no_box_of_the_image_covers_or_trains(seed, kind, threshold):
    targets = targets_of(seed)
    options = replace(OPTIONS, iou_type=kind, ignore_threshold=threshold)
    found = assign(targets, Grid.build(SHAPES, ANCHORS), options)
    trained = set(zip(found.image.tolist(), found.slot.tolist(), strict=True))
    for i, target in enumerate(targets):
        for slot in range(len(SLOTS)):
            best = -9.0
            if len(target["boxes"]):
                best = float(OVERLAPS[kind](target["boxes"].double(), ANCHOR_BOXES[slot : slot + 1]).max())
            if abs(best - threshold) < 1e-5:
                continue  # float32 may fall on either side
            expected = best < threshold and (i, slot) not in trained
            assert bool(found.negative[i, slot]) == expected


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_centres_on_and_beyond_the_border_fall_into_the_nearest_cell(grid, kind):
    boxes = torch.tensor(
        [[120.0, 120, 136, 136], [-8, -8, 8, 8], [126, 0, 130, 4], [-40, 10, -20, 30], [150, 10, 170, 30]]
    )
    found = assign([{"boxes": boxes, "labels": torch.zeros(5).long()}], grid, replace(OPTIONS, iou_type=kind))
    last = {32: 3, 16: 7}
    for slot, (x, y) in zip(found.slot.tolist(), [(1, 1), (0, 0), (1, 0), (0, None), (1, None)], strict=True):
        _, row, column, _, stride, _ = SLOTS[slot]
        assert column == x * last[stride]
        assert y is None or row == y * last[stride]


# -- loss --------------------------------------------------------------------------------------------------------------


def focal_number(z, target, options):
    z, y = torch.tensor(float(z), dtype=torch.float64), torch.tensor(float(target), dtype=torch.float64)
    return float(ops.sigmoid_focal_loss(z, y, alpha=options.focal_alpha, gamma=options.focal_gamma))


def slow_losses(t, logits, targets, options):
    """The loss as it is described, one image, one box, one slot at a time, in float64."""
    sums = dict.fromkeys(("xy", "wh", "iou", "conf", "no_conf", "cls"), 0.0)
    t, logits = t.double(), logits.double()
    overlap_of = OVERLAPS[options.iou_type]
    boxes_in_batch = 0
    for i, target in enumerate(targets):
        trained = set()
        for box, label in zip(target["boxes"].double(), target["labels"].tolist(), strict=True):
            boxes_in_batch += 1
            slot, _ = loop_slot(box.tolist(), options.iou_type)
            trained.add(slot)
            _, row, column, _, stride, (aw, ah) = SLOTS[slot]
            tx, ty, tw, th, _ = t[i, slot].tolist()
            x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
            w, h = float(box[2] - box[0]), float(box[3] - box[1])
            sx, sy = 1 / (1 + math.exp(-tx)), 1 / (1 + math.exp(-ty))
            for s, place in ((sx, x / stride - column), (sy, y / stride - row)):
                sums["xy"] += (s - min(max(place, 1e-4), 1 - 1e-4)) ** 2
            sums["wh"] += (tw - math.log(w / aw)) ** 2 + (th - math.log(h / ah)) ** 2
            px, py, pw, ph = (sx + column) * stride, (sy + row) * stride, aw * math.exp(tw), ah * math.exp(th)
            predicted = torch.tensor([[px - pw / 2, py - ph / 2, px + pw / 2, py + ph / 2]], dtype=torch.float64)
            sums["iou"] += 1 - float(overlap_of(predicted, box[None]))
            z = logits[i, slot].tolist()
            sums["cls"] += math.log(sum(math.exp(v) for v in z)) - z[label]
        for slot in range(len(SLOTS)):
            if slot in trained:
                sums["conf"] += focal_number(t[i, slot, 4], 1, options)
            elif all(
                float(overlap_of(box[None], ANCHOR_BOXES[slot : slot + 1])) < options.ignore_threshold
                for box in target["boxes"].double()
            ):
                sums["no_conf"] += focal_number(t[i, slot, 4], 0, options)
    factors = {
        "xy": options.lambda_xy,
        "wh": options.lambda_wh,
        "iou": options.lambda_iou,
        "conf": options.lambda_conf,
        "no_conf": options.lambda_no_conf,
        "cls": options.lambda_cls,
    }
    return {name: factors[name] * value / max(1, boxes_in_batch) for name, value in sums.items()}


@pytest.mark.parametrize("kind", IOU_KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_equal_the_slow_ones(grid, kind, seed):
    targets, (t, logits) = targets_of(seed), predictions(seed)
    options = replace(OPTIONS, iou_type=kind)
    got = yolo_losses(t, logits, targets, grid, options, cross_entropy)
    expected = slow_losses(t, logits, targets, options)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert float(got[name]) == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_each_coefficient_scales_its_own_term_alone(grid):
    targets, (t, logits) = targets_of(0), predictions(0)
    before = yolo_losses(t, logits, targets, grid, OPTIONS, cross_entropy)
    for name in before:
        key = f"lambda_{name}"
        doubled = replace(OPTIONS, **{key: 2 * getattr(OPTIONS, key)})
        after = yolo_losses(t, logits, targets, grid, doubled, cross_entropy)
        for other in before:
            factor = 2 if other == name else 1
            torch.testing.assert_close(after[other], factor * before[other])


def test_loss_of_a_batch_does_not_depend_on_the_order_of_images_or_boxes(grid):
    targets, (t, logits) = targets_of(4), predictions(4)
    before = yolo_losses(t, logits, targets, grid, OPTIONS, cross_entropy)
    order = [2, 0, 1]
    mixed = [{k: v.flip(0) for k, v in targets[i].items()} for i in order]
    after = yolo_losses(t[order], logits[order], mixed, grid, OPTIONS, cross_entropy)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)


def test_two_boxes_on_one_slot_both_train_it_and_its_objectness_counts_once(grid):
    pair = torch.tensor([[40.0, 40, 53, 54], [40.5, 40.5, 54, 54]])
    targets = [{"boxes": pair, "labels": torch.tensor([1, 3])}]
    found = assign(targets, grid, OPTIONS)
    assert found.slot[0] == found.slot[1]
    slot = int(found.slot[0])
    t, logits = (v.requires_grad_() for v in predictions(0, images=1))
    losses = yolo_losses(t, logits, targets, grid, OPTIONS, cross_entropy)
    once = OPTIONS.lambda_conf * focal_number(t[0, slot, 4].detach(), 1, OPTIONS) / 2  # over two boxes
    assert float(losses["conf"]) == pytest.approx(once, rel=1e-5)
    for name, value in slow_losses(t.detach(), logits.detach(), targets, OPTIONS).items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-4), name
    losses["cls"].backward()
    # p - mean of both one-hot labels: both boxes pull
    expected = logits.detach()[0, slot].softmax(0) - (F.one_hot(torch.tensor([1, 3]), C) / 2).sum(0)
    torch.testing.assert_close(logits.grad[0, slot], OPTIONS.lambda_cls * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_images_without_boxes_give_a_finite_loss_with_a_gradient(grid, kind):
    targets = targets_of(0, (0, 0))
    t, logits = (v.requires_grad_() for v in predictions(0, images=2))
    losses = yolo_losses(t, logits, targets, grid, replace(OPTIONS, iou_type=kind), cross_entropy)
    assert float(losses["no_conf"].detach()) > 0
    assert all(float(v.detach()) == 0 for name, v in losses.items() if name != "no_conf")
    sum(losses.values()).backward()
    assert t.grad.isfinite().all() and (t.grad[..., 4] > 0).all()
    assert (t.grad[..., :4] == 0).all()


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_perfect_prediction_costs_no_box_loss_and_has_a_finite_gradient(grid, kind):
    targets = targets_of(5, (4,))
    options = replace(OPTIONS, iou_type=kind)
    found = assign(targets, grid, options)
    assert len(set(found.slot.tolist())) == 4
    t, logits = torch.zeros(1, len(SLOTS), 5), torch.zeros(1, len(SLOTS), C)
    t[..., 4] = -30
    for box, label, slot in zip(found.boxes, found.labels, found.slot, strict=True):
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        t[0, slot, :2] = (centre / grid.stride[slot] - grid.cell[slot]).logit()
        t[0, slot, 2:4] = (size / grid.anchor[slot]).log()
        t[0, slot, 4] = 30
        logits[0, slot, label] = 60
    t, logits = t.requires_grad_(), logits.requires_grad_()
    losses = yolo_losses(t, logits, targets, grid, options, cross_entropy)
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(0, abs=1e-5), name
    sum(losses.values()).backward()
    assert t.grad.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", IOU_KINDS)
@pytest.mark.parametrize("box", [(50.0, 50, 50, 50), (50, 50, 90, 50), (0, 0, 128, 128), (64, 64, 64.001, 64.001)])
def test_degenerate_boxes_give_a_finite_loss_and_gradient(grid, kind, box):
    targets = [{"boxes": torch.tensor([box]), "labels": torch.tensor([0])}]
    t, logits = (v.requires_grad_() for v in predictions(0, images=1))
    losses = yolo_losses(t, logits, targets, grid, replace(OPTIONS, iou_type=kind), cross_entropy)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite() and t.grad.isfinite().all()


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_extreme_outputs_give_a_finite_loss_and_gradient(grid, size):
    t, logits = predictions(0)
    t, logits = (size * t).requires_grad_(), (size * logits).requires_grad_()
    losses = yolo_losses(t, logits, targets_of(0), grid, OPTIONS, cross_entropy)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite() and t.grad.isfinite().all() and logits.grad.isfinite().all()


def test_half_precision_outputs_give_the_loss_in_float32(grid):
    targets, (t, logits) = targets_of(0), predictions(0)
    t, logits = t.bfloat16(), logits.bfloat16()
    expected = yolo_losses(t.float(), logits.float(), targets, grid, OPTIONS, cross_entropy)
    for name, value in yolo_losses(t, logits, targets, grid, OPTIONS, cross_entropy).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])


def test_gradient_descent_on_the_outputs_finds_the_boxes(grid):
    """Following the loss alone must lead to the ground truth: every term pulls the right way."""
    targets = targets_of(5, (4,))
    found = assign(targets, grid, OPTIONS)
    t = torch.zeros(1, len(SLOTS), 5, requires_grad=True)
    logits = torch.zeros(1, len(SLOTS), C, requires_grad=True)
    optimizer = torch.optim.Adam([t, logits], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        sum(yolo_losses(t, logits, targets, grid, OPTIONS, cross_entropy).values()).backward()
        optimizer.step()
    own = t.detach()[0, found.slot]
    boxes = decode(own, grid.cell[found.slot], grid.anchor[found.slot], grid.stride[found.slot])
    assert (ops.box_iou(boxes, found.boxes).diagonal() > 0.9).all()
    assert torch.equal(logits.detach()[0, found.slot].argmax(1), found.labels)
    objectness = t.detach()[0, :, 4].sigmoid()
    assert objectness[found.slot].min() > 2 * objectness[found.negative[0]].max()


def test_unknown_overlap_is_refused():
    with pytest.raises(ValueError, match="iou_type: expected one of iou, giou, diou, ciou, got 'siou'"):
        YOLOLossOptions(iou_type="siou")
