"""From scores to detections, against torchvision and straightforward loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, nms

from iifdet.detectors import PostprocessOptions
from iifdet.detectors.postprocess import NMS_KINDS, first_survivors, select

SIZE = (90, 120)


def make(seed=0, n=40, classes=4, per_class=False):
    """Boxes in clusters, so that NMS has something to do, and distinct scores."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    centres = rand(6, 2) * torch.tensor([SIZE[1], SIZE[0]])
    pick = torch.randint(0, 6, (n,), generator=generator)
    low = centres[pick] + rand(n, 2) * 10 - 20
    boxes = torch.cat((low, low + 20 + rand(n, 2) * 10), 1)
    if per_class:
        boxes = boxes[:, None] + rand(n, classes, 4) * 6
    scores = (torch.randperm(n * classes, generator=generator).float() + 1).view(n, classes) / (n * classes + 1)
    return boxes, scores


def expected_class_nms(boxes, scores, options):
    """One candidate for each score above the threshold, torchvision's batched NMS, cap."""
    candidates = [(r, c) for r in range(len(scores)) for c in range(scores.shape[1]) if scores[r, c] > options.conf]
    if not candidates:
        return torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0).long()
    rows, labels = (torch.tensor(v) for v in zip(*candidates, strict=True))
    picked = clip_boxes_to_image(boxes[rows] if boxes.ndim == 2 else boxes[rows, labels], SIZE)
    values = scores[rows, labels]
    solid = (picked[:, 2] > picked[:, 0]) & (picked[:, 3] > picked[:, 1])
    rows, labels, picked, values = rows[solid], labels[solid], picked[solid], values[solid]
    keep = batched_nms(picked, values, labels, options.iou)[: options.max_det]
    return picked[keep], labels[keep], values[keep], rows[keep]


def check(detection, rows, expected):
    boxes, labels, scores, expected_rows = expected
    assert torch.equal(detection["labels"], labels)
    assert torch.equal(detection["scores"], scores)
    assert torch.equal(detection["boxes"], boxes)
    assert torch.equal(rows, expected_rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.1, 0.45, 0.6]), st.booleans())
def test_class_wise_nms_equals_torchvisions(seed, conf, threshold, per_class):
    boxes, scores = make(seed, per_class=per_class)
    options = PostprocessOptions(conf=conf, iou=threshold)
    expected = expected_class_nms(boxes, scores, options)
    check(*select(boxes, scores, SIZE, options), expected)


def test_class_wise_nms_suppresses_within_a_class_only():
    boxes = torch.tensor([[0.0, 0, 50, 50], [1, 1, 50, 50], [0, 0, 50, 50]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]])
    detection, rows = select(boxes, scores, SIZE, PostprocessOptions())
    assert detection["labels"].tolist() == [0, 1] and rows.tolist() == [0, 2]


def test_many_classes_of_large_boxes_do_not_blur_the_overlap():
    """Boxes are shifted apart by class; the shift must not eat the precision of the overlap."""
    base = torch.tensor([1000.0, 1000, 1010, 1010])
    boxes = torch.stack((base, base + torch.tensor([0, 0, 0, 6.6])))  # overlap 10 / 16.6 = 0.602
    scores = torch.zeros(2, 1203)
    scores[0, 1202], scores[1, 1202] = 0.9, 0.8
    for threshold, kept in ((0.601, 1), (0.604, 2)):
        detection, _ = select(boxes, scores, (2000, 2000), PostprocessOptions(iou=threshold))
        assert len(detection["boxes"]) == kept


@pytest.mark.parametrize("kind", NMS_KINDS)
@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("per_class", [True, False])
def test_rows_point_to_where_a_detection_came_from(kind, multi_label, per_class):
    boxes, scores = make(3, per_class=per_class)
    options = PostprocessOptions(conf=0.2, nms=kind, multi_label=multi_label)
    detection, rows = select(boxes, scores, SIZE, options)
    assert len(rows) >= 5
    for box, label, score, row in zip(detection["boxes"], detection["labels"], detection["scores"], rows, strict=True):
        # a vote changes the label afterwards, never box or score
        source = int(scores[row].argmax()) if kind == "majority" else int(label)
        assert score == scores[row, source]
        assert torch.equal(box, clip_boxes_to_image(boxes[row] if not per_class else boxes[row, source], SIZE))
    assert (detection["scores"].diff() <= 0).all(), "best first"


def test_multi_label_counts_every_class_of_a_box_and_single_label_the_best():
    boxes = torch.tensor([[0.0, 0, 50, 50]])
    scores = torch.tensor([[0.3, 0.6, 0.0005, 0.1]])
    many, _ = select(boxes, scores, SIZE, PostprocessOptions())
    assert many["labels"].tolist() == [1, 0, 3]
    one, _ = select(boxes, scores, SIZE, PostprocessOptions(multi_label=False))
    assert one["labels"].tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.sampled_from([1, 3, 10]), levels=st.sampled_from([5, 1000]))
def test_looking_at_the_best_first_finds_what_nms_over_all_finds(seed, number, levels):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(0, 600, (), generator=generator))
    corner = torch.rand(n, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(n, 2, generator=generator)], dim=1)
    scores = (torch.rand(n, generator=generator) * levels).floor().sort(descending=True).values / levels  # with ties
    assert torch.equal(first_survivors(boxes, scores, 0.4, number), nms(boxes, scores, 0.4)[:number])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_single_label_equals_multi_label_with_the_other_scores_erased(seed):
    boxes, scores = make(seed)
    best = torch.where(scores == scores.max(1, keepdim=True).values, scores, torch.zeros(()))
    expected = expected_class_nms(boxes, best, PostprocessOptions())
    check(*select(boxes, scores, SIZE, PostprocessOptions(multi_label=False)), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_agnostic_nms_equals_torchvisions_on_all_classes_at_once(seed):
    boxes, scores = make(seed)
    options = PostprocessOptions(nms="agnostic", multi_label=False, iou=0.4)
    detection, rows = select(boxes, scores, SIZE, options)
    clipped = clip_boxes_to_image(boxes, SIZE)
    solid = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(1).nonzero().flatten()
    best, labels = scores.max(1)
    keep = solid[nms(clipped[solid], best[solid], 0.4)]
    check(detection, rows, (clipped[keep], labels[keep], best[keep], keep))


@pytest.mark.parametrize("kind", NMS_KINDS)
def test_at_most_max_det_are_kept_and_they_are_the_best(kind):
    boxes, scores = make(1)
    everything, all_rows = select(boxes, scores, SIZE, PostprocessOptions(nms=kind))
    assert len(all_rows) > 4
    few, rows = select(boxes, scores, SIZE, PostprocessOptions(nms=kind, max_det=4))
    check(few, rows, (*(everything[k][:4] for k in ("boxes", "labels", "scores")), all_rows[:4]))


@pytest.mark.parametrize("kind", NMS_KINDS)
def test_other_labels_suppress_as_ever_but_take_no_places(kind):
    boxes, scores = make(1)
    everything, all_rows = select(boxes, scores, SIZE, PostprocessOptions(nms=kind, max_det=4096))
    wanted = torch.isin(everything["labels"], torch.tensor([0, 2]))
    assert 3 < wanted.sum() < len(all_rows)
    few, rows = select(boxes, scores, SIZE, PostprocessOptions(nms=kind, max_det=3, only=(0, 2)))
    check(few, rows, (*(everything[k][wanted][:3] for k in ("boxes", "labels", "scores")), all_rows[wanted][:3]))


def test_only_the_best_candidates_enter_nms():
    boxes, scores = make(2)
    options = PostprocessOptions(max_det=5, max_candidates=5, iou=1.0)
    detection, _ = select(boxes + 40, scores, (500, 500), options)
    assert detection["scores"].tolist() == scores.flatten().sort(descending=True).values[:5].tolist()


@pytest.mark.parametrize("kind", NMS_KINDS)
def test_equal_scores_keep_row_order(kind):
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10]])
    _, rows = select(boxes, torch.full((3, 1), 0.5), SIZE, PostprocessOptions(nms=kind))
    assert rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", NMS_KINDS)
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("per_class", [True, False])
def test_no_candidates_give_an_empty_detection(kind, rows, per_class):
    boxes, _ = make(0, n=5, per_class=per_class)
    detection, found = select(boxes[:rows], torch.zeros(rows, 4), SIZE, PostprocessOptions(nms=kind))
    assert detection["boxes"].shape == (0, 4)
    assert detection["labels"].shape == detection["scores"].shape == found.shape == (0,)
    assert detection["labels"].dtype == torch.int64


def test_threshold_is_exclusive():
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    scores = torch.tensor([[0.25]])
    assert not len(select(boxes, scores, SIZE, PostprocessOptions(conf=0.25))[1])
    assert len(select(boxes, scores, SIZE, PostprocessOptions(conf=0.2499))[1])


def test_boxes_outside_the_image_are_clipped_or_dropped():
    boxes = torch.tensor([[-20.0, -20, 10, 10], [-20, -20, -5, -5], [130, 0, 140, 10], [5, 5, 5, 20]])
    detection, rows = select(boxes, torch.full((4, 1), 0.5), SIZE, PostprocessOptions())
    assert rows.tolist() == [0]
    assert detection["boxes"].tolist() == [[0, 0, 10, 10]]


# -- majority vote -----------------------------------------------------------------------------------------------------


def slow_majority(boxes, scores, conf, threshold):
    """The vote as it is described, one box at a time: [(row, label, score)]."""
    best, labels = scores.max(1)
    clipped = clip_boxes_to_image(boxes, SIZE)
    left = sorted((r for r in range(len(boxes)) if best[r] > conf), key=lambda r: -float(best[r]))
    left = [r for r in left if clipped[r, 2] > clipped[r, 0] and clipped[r, 3] > clipped[r, 1]]
    overlap, out = box_iou(clipped, clipped), []
    while left:
        head, *others = left
        suppressed = [r for r in others if overlap[head, r] > threshold]
        voters = [int(labels[r]) for r in suppressed]
        label = int(labels[head])
        if len(set(voters)) >= 2:
            label = min(set(voters), key=lambda c: (-voters.count(c), c))
        out.append((head, label, float(best[head])))
        left = [r for r in others if r not in suppressed]
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.45, 0.6]))
def test_majority_vote_equals_the_slow_one(seed, threshold):
    boxes, scores = make(seed)
    options = PostprocessOptions(nms="majority", conf=0.2, iou=threshold)
    detection, rows = select(boxes, scores, SIZE, options)
    got = list(zip(rows.tolist(), detection["labels"].tolist(), detection["scores"].tolist(), strict=True))
    assert got == slow_majority(boxes, scores, 0.2, threshold)


def vote(*classes):
    """The label of the best of a pile of boxes of these classes, best first."""
    n = len(classes)
    boxes = torch.tensor([[10.0, 10, 60, 60]]).repeat(n, 1) + 0.1 * torch.arange(n)[:, None]
    scores = torch.zeros(n, 5)
    for row, label in enumerate(classes):
        scores[row, label] = 0.9 - 0.01 * row
    detection, rows = select(boxes, scores, SIZE, PostprocessOptions(nms="majority"))
    assert rows.tolist() == [0] and detection["scores"].tolist() == pytest.approx([0.9])
    return int(detection["labels"][0])


@pytest.mark.parametrize(
    ("pile", "label"),
    [
        ((3,), 3),
        ((3, 1), 3),  # one voter
        ((3, 1, 1, 1), 3),  # unanimous against it: it keeps its own
        ((3, 1, 1, 2), 1),  # two classes among the voters: the more frequent
        ((3, 2, 1), 1),  # a tie: the lowest class
        ((3, 3, 2, 2, 1), 2),  # its own class may vote too
        ((3, 3, 3, 2), 3),
    ],
)
def test_suppressed_boxes_vote_as_in_the_original(pile, label):
    assert vote(*pile) == label


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nms": "soft"}, "nms: expected one of class, agnostic, majority, got 'soft'"),
        ({"conf": -0.1}, r"conf: expected a number in \[0, 1\], got -0.1"),
        ({"iou": 1.5}, r"iou: expected a number in \[0, 1\], got 1.5"),
        ({"conf": float("nan")}, r"conf: expected a number in \[0, 1\], got nan"),
        ({"max_det": 0}, "max_det: expected 1…4096, got 0"),
        ({"max_det": 5000}, "max_det: expected 1…4096, got 5000"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PostprocessOptions(**options)


def test_defaults_are_those_of_validation():
    options = PostprocessOptions()
    assert (options.conf, options.max_det, options.nms, options.multi_label) == (0.001, 300, "class", True)
