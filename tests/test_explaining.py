"""Explanations: geometry, what is chosen, heat maps, gradients and maps, against independent ways to get them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from explaining_models import SIZE, SMALL, C, Planted, make, picture, plain_view, spearman
from torch import Tensor, nn

from iifdet.datasets import EvalTransform
from iifdet.detectors.layout import Grid, Layout
from iifdet.errors import InputError
from iifdet.explaining import (
    METHODS,
    SCALARS,
    Choice,
    View,
    attribute,
    class_activation_map,
    class_heat,
    confidence_heat,
    deletion_and_insertion,
    explain,
    find_layers,
    look,
    principal_map,
)
from iifdet.explaining.curves import blurred, detection_score
from iifdet.explaining.heat import NO_CLASS, confidence
from iifdet.types import ImageInfo, RawPredictions


@pytest.fixture(scope="module", params=SMALL)
def base(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


# -- where rows and maps lie -------------------------------------------------------------------------------------------


def test_a_row_stands_where_the_layout_says(base: Any) -> None:
    """With offsets of zero a box's centre lies in its row's cell; RetinaNet's anchors stand on the cell's corner."""
    model, size = copy.deepcopy(base), (70, 90)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in (".box.", "bbox_reg")):
                parameter.zero_()
        raw = model.raw([picture(size=size)])[0]
    view = plain_view(model, size)
    rows = sum(grid.size for grid in view.layout.levels)
    if not rows:
        assert raw.boxes.ndim == 3  # proposals stand anywhere
        return
    assert rows == len(raw.class_logits)
    x, y = ((raw.boxes[:, :2] + raw.boxes[:, 2:]) / 2 + 0.01).T.numpy()
    inside = np.flatnonzero((x < size[1]) & (y < size[0]))
    assert len(inside) > rows / 4
    for row in inside[:: max(1, len(inside) // 200)]:
        assert row in view.rows_at(x[row], y[row])


def test_a_map_comes_back_to_the_pixels_it_was_made_from(base: Any) -> None:
    """What the network really sees, averaged over small cells, comes back bright where it was painted."""
    seen: list[Tensor] = []
    backbone = base.net.backbone if hasattr(base, "net") else base.backbone
    hook = backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = np.zeros((150, 200, 3), np.uint8)
    image[90:110, 130:150] = 255
    out = EvalTransform(120)(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    tensor = torch.from_numpy(out.image).permute(2, 0, 1).float() / 255
    tensor[:, : int(out.offset[1])] = tensor[:, tensor.shape[1] - int(out.offset[1]) :] = 0  # no grey margins
    with torch.no_grad():
        base.raw(tensor[None])
    hook.remove()
    view = View(ImageInfo(0, 0, "", (150, 200), out.scale, out.offset), (120, 120), base.layout((120, 120)))
    assert tuple(seen[0].shape[-2:]) == view.layout.input
    height, width = view.layout.content
    bright = torch.zeros(view.layout.input)
    bright[:height, :width] = (seen[0][0] - seen[0][0, :, :1, :1]).abs().sum(0)[:height, :width]
    side = 5 if view.layout.input == (300, 300) else 4
    placed = view.upsample(nn.functional.avg_pool2d(bright[None, None], side)[0, 0].numpy())
    assert placed.shape == (150, 200)
    y, x = np.indices(placed.shape)
    centre = [(axis * placed).sum() / placed.sum() + 0.5 for axis in (x, y)]
    assert centre == pytest.approx([140, 100], abs=1.5)


def test_cells_keep_their_edges_and_smooth_maps_their_centres() -> None:
    view = View(ImageInfo(0, 0, "", (4, 8)), (4, 8), Layout((4, 8), (4, 8)))
    values = np.array([[0.0, 1.0]], np.float32)
    assert view.upsample(values, smooth=False).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 4
    assert view.upsample(values)[0].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]


# -- what is explained -------------------------------------------------------------------------------------------------

GRID = Layout((64, 64), (64, 64), (Grid(2, 2, 1, (32, 32)),))
BOXES = torch.tensor([[2.0, 2, 28, 28], [34, 2, 62, 30], [2, 34, 30, 62], [34, 34, 62, 62]])
LOGITS = torch.tensor([[4.0, 0, 0], [0, 3, 0], [0, 0, 1], [1, 0, 0.5]])
VIEW = View(ImageInfo(0, 0, "x.png", (64, 64)), (64, 64), GRID)


def planted(**parts: Any) -> RawPredictions:
    return RawPredictions(boxes=BOXES, class_logits=LOGITS.clone(), size=(64, 64), **parts)


@pytest.mark.parametrize(
    ("choice", "row", "label"),
    [
        (Choice(), 0, 0),
        (Choice(detection=2), 1, 1),
        (Choice(label=1), 1, 1),
        (Choice(detection=2, label=0), 3, 0),
        (Choice(box=torch.tensor([30.0, 30, 60, 60]), label=2), 3, 2),  # asks for its class, whatever is likelier
        (Choice(box=torch.tensor([40.0, 4, 41, 5]), label=0), 1, 0),  # nothing overlaps it by half: the nearest
        (Choice(cell=(5.0, 60.0)), 2, 2),
        (Choice(cell=(40.0, 40.0)), 3, 0),
        (Choice(cell=(40.0, 40.0), label=1), 3, 1),
    ],
)
def test_the_row_that_a_choice_means(choice: Choice, row: int, label: int) -> None:
    chosen = chosen_of(Planted(planted()), choice)
    assert (chosen.row, chosen.label) == (row, label)
    assert chosen.score == pytest.approx(float(LOGITS.softmax(1)[row, label]))
    assert torch.equal(chosen.box, BOXES[row])


def chosen_of(model: Planted, choice: Choice) -> Any:
    from iifdet.explaining import choose

    raw = model.adjusted(model.raw(None))
    found, rows = model.postprocess(raw)
    return choose(model, raw[0], found[0], rows[0], VIEW, choice)


@pytest.mark.parametrize("choice", [Choice(detection=2), Choice(label=1), Choice(box=torch.ones(4), label=0)])
def test_what_is_not_there_is_nothing(choice: Choice) -> None:
    assert chosen_of(Planted(planted(), conf=0.94), choice) is None


# -- how sure of what, where -------------------------------------------------------------------------------------------


def test_confidence_is_objectness_or_what_background_leaves_or_the_best_class() -> None:
    objectness, background = torch.tensor([2.0, 1, 0, -1]), torch.tensor([3.0, 0, -1, 1])
    with_objectness = planted(objectness=objectness)
    assert torch.equal(confidence(Planted(with_objectness), with_objectness), objectness.sigmoid())
    softmax = planted(background=background)
    expected = 1 - torch.cat((background[:, None], LOGITS), 1).softmax(1)[:, 0]
    torch.testing.assert_close(confidence(Planted(softmax), softmax), expected)
    for sigmoid in (planted(), planted(background=background)):
        found = confidence(Planted(sigmoid, class_loss="bce"), sigmoid)
        torch.testing.assert_close(found, LOGITS.sigmoid().amax(1))


def test_heat_maps_show_each_cell_at_its_place() -> None:
    raw = planted(objectness=torch.tensor([3.0, 0, -3, 1]))
    model = Planted(raw)
    heat = confidence_heat(model, raw, VIEW)
    middles = heat[[16, 16, 48, 48], [16, 48, 16, 48]]
    assert middles.tolist() == pytest.approx(torch.tensor([3.0, 0, -3, 1]).sigmoid().tolist())
    scores = model.scores(raw).amax(1)
    classes = class_heat(model, raw, VIEW, above=float(scores[2]))
    assert classes.labels[[16, 16, 48, 48], [16, 48, 16, 48]].tolist() == [0, 1, NO_CLASS, 0]
    assert classes.scores[48, 16] == pytest.approx(float(scores[2]))


def test_proposals_fill_their_boxes_and_the_surest_lies_on_top() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [20, 20, 60, 60]])[:, None].repeat(1, 3, 1)
    raw = RawPredictions(boxes, torch.tensor([[2.0, 0, 0], [0, 5, 0]]), (64, 64), background=torch.zeros(2))
    view = View(ImageInfo(0, 0, "", (64, 64)), (64, 64), Layout((64, 64), (64, 64)))
    model = Planted(raw)
    low, high = confidence(model, raw).tolist()
    heat = confidence_heat(model, raw, view)
    assert heat[[10, 30, 50, 62], [10, 30, 50, 62]].tolist() == pytest.approx([low, high, high, 0])
    assert class_heat(model, raw, view, 0.1).labels[[10, 30, 62], [10, 30, 62]].tolist() == [0, 1, NO_CLASS]


# -- the gradient ------------------------------------------------------------------------------------------------------


def test_the_scalar_is_that_of_the_row_that_made_the_detection(base: Any) -> None:
    base.set_adjustment(torch.tensor([1.0, 2, 3]), when="infer")
    image, view = picture(), plain_view(base)
    with torch.inference_mode():
        raw = base.adjusted(base.raw(image[None]))
        rows = base.postprocess(raw)[1][0]
        detection = base(image[None])[0]
    for number in (1, 2):
        seen = explain(base, image, view, Choice(detection=number), scalar="score", method="layercam")
        assert seen.chosen is not None and seen.chosen.row == rows[number - 1]
        assert seen.value == pytest.approx(float(detection["scores"][number - 1]), rel=1e-4)
        assert seen.chosen.label == detection["labels"][number - 1]
        torch.testing.assert_close(seen.chosen.box, detection["boxes"][number - 1], atol=1e-2, rtol=1e-4)
        logit = explain(base, image, view, Choice(detection=number)).value
        assert logit == pytest.approx(float(raw[0].class_logits[rows[number - 1], seen.chosen.label]), rel=1e-4)
    base.set_adjustment()


def test_looking_leaves_the_model_as_it_was(base: Any) -> None:
    before = [p.requires_grad for p in base.parameters()]
    weights, hooks = copy.deepcopy(base.state_dict()), [len(m._forward_hooks) for m in base.modules()]
    assert explain(base, picture(), plain_view(base)).cam is not None
    assert [p.requires_grad for p in base.parameters()] == before and all(p.grad is None for p in base.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in base.state_dict().items())
    assert [len(m._forward_hooks) for m in base.modules()] == hooks
    for parameter in base.parameters():
        parameter.requires_grad_(False)  # a frozen model has gradients at its layers all the same
    assert explain(base, picture(), plain_view(base)).cam is not None
    for parameter, asked in zip(base.parameters(), before, strict=True):
        parameter.requires_grad_(asked)


@pytest.mark.parametrize(
    ("name", "scalar"),
    [
        ("yolov3-nano", "logit"),
        ("yolov3-nano", "score"),
        *((n, "logit") for n in ("ssd300", "fasterrcnn", "retinanet")),
    ],
)
def test_the_gradient_is_the_slope_along_a_random_direction(name: str, scalar: str) -> None:
    """Finite differences in float64 at the layer that the row sees; an R-CNN's proposals are held fixed, as in the
    gradient.
    """
    model, image = make(name).double(), picture().double()
    layers = model.cam_layers()
    with fixed_proposals(model, image):
        raw, seen = look(model, image, layers)
        row, label = int(raw.class_logits.detach()[:, 0].argmax()), 0
        gradients = torch.autograd.grad(
            SCALARS[scalar](model, raw, row, label), [value for _, value in seen], allow_unused=True
        )
        found = [(n, g) for (n, _), g in zip(seen, gradients, strict=True) if g is not None and g.any()]
        layer, gradient = found[-1]
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        # Along the gradient where it lives, so that the slope is not lost among other directions.
        direction = direction * (gradient != 0)

        def value(step: float) -> float:
            hook = layers[layer].register_forward_hook(lambda _, __, out: out + step * direction)
            with torch.no_grad():
                found = SCALARS[scalar](model, model.adjusted(model.raw(image[None]))[0], row, label)
            hook.remove()
            return float(found)

        # scores are float32 by contract, so that their steps must be larger
        step = 1e-7 if scalar == "logit" else 1e-3 / float(direction.norm() + 1)
        slope = (value(step) - value(-step)) / (2 * step)
    expected = float((gradient * direction).sum())
    assert abs(expected) > 1e-9
    assert slope == pytest.approx(expected, rel=1e-4 if scalar == "logit" else 0.05, abs=1e-3 * abs(expected) + 1e-7)


@contextmanager
def fixed_proposals(model: Any, image: Tensor) -> Iterator[None]:
    if not hasattr(getattr(model, "net", None), "rpn"):
        yield
        return
    with torch.no_grad():
        proposals = model._encode(image[None]).proposals
    forward = model.net.rpn.forward
    model.net.rpn.forward = lambda *_: ([p[:30] for p in proposals], {})
    try:
        yield
    finally:
        model.net.rpn.forward = forward


# -- the maps ----------------------------------------------------------------------------------------------------------


def test_maps_equal_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(1, 5, 4, 6, generator=generator) for _ in range(2))
    grad_cam = (g.mean((2, 3), keepdim=True) * a).sum(1)[0].relu()
    layer_cam = (g.relu() * a).sum(1)[0].relu()
    assert class_activation_map("gradcam", a, g) == pytest.approx(grad_cam.numpy(), abs=1e-5)
    assert class_activation_map("layercam", a, g) == pytest.approx(layer_cam.numpy(), abs=1e-5)
    for method in METHODS:
        assert (class_activation_map(method, a, g) >= 0).all()


def test_the_principal_map_is_pytorch_grad_cams_but_for_the_sign() -> None:
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    a = torch.randn(1, 7, 4, 6, generator=torch.Generator().manual_seed(1)).numpy()
    theirs, ours = get_2d_projection(a)[0], principal_map(a[0])
    assert ours == pytest.approx(theirs, abs=1e-4) or ours == pytest.approx(-theirs, abs=1e-4)
    assert ours.max() >= -ours.min()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam"])
def test_ours_is_what_pytorch_grad_cam_makes_with_hooks_of_its_own(method: str) -> None:
    import pytorch_grad_cam

    class Seam(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Any:
            return self.model.adjusted(self.model.raw(images))

    model, image = make("yolov3-nano"), picture()
    seen = explain(model, image, plain_view(model), method=method)
    assert seen.chosen is not None and seen.cam is not None
    row, label, layer = seen.chosen.row, seen.chosen.label, model.cam_layers()[seen.layer]
    with getattr(pytorch_grad_cam, METHODS[method])(model=Seam(model), target_layers=[layer]) as tool:
        tool(image[None], [lambda raw: raw.class_logits[row, label]])
        a, g = tool.activations_and_grads.activations[0], tool.activations_and_grads.gradients[0]
        theirs = tool.get_cam_image(None, None, None, a.numpy(), g.numpy(), False)[0]
    raw, kept = look(model, image, {seen.layer: layer})
    ours = attribute(raw.class_logits[row, label], kept, method)[0].values
    assert ours.max() > 0
    np.testing.assert_allclose(ours, np.maximum(theirs, 0), rtol=1e-3, atol=1e-6 * float(np.abs(theirs).max()))


def test_a_map_at_the_head_is_the_logit_map_itself_and_ours_is_not() -> None:
    """Why hooks never sit on head outputs, nor in YOLO on the layer that only a 1x1 convolution follows."""
    model, image = make("yolov3-nano"), picture(size=(128, 128))
    view = plain_view(model, (128, 128))
    seen = explain(model, image, view)
    assert seen.chosen is not None
    level = list(model.cam_layers()).index(seen.layer)
    grid, start = view.layout.levels[level], sum(g.size for g in view.layout.levels[:level])
    anchor = (seen.chosen.row - start) % grid.per_cell
    logits = model.raw(image[None])[0].class_logits[start : start + grid.size, seen.chosen.label].detach()
    logit_map = logits.view(grid.rows, grid.columns, grid.per_cell)[..., anchor]

    def at(layer: str) -> np.ndarray:
        raw, kept = look(model, image, find_layers(model, layer))
        return attribute(raw.class_logits[seen.chosen.row, seen.chosen.label], kept, "gradcam", layer)[0].values

    head = at(f"scales.{level}.predict.cls")
    assert head * head.size == pytest.approx(logit_map.relu().numpy(), rel=1e-3, abs=1e-4)
    bias = model.scales[level].predict.cls.bias[anchor * C + seen.chosen.label].detach()
    last = at(f"scales.{level}.last")
    assert last * last.size == pytest.approx((logit_map - bias).relu().numpy(), rel=1e-3, abs=1e-3)
    assert spearman(at(seen.layer), logit_map.numpy()) < 0.8


def test_the_layer_is_the_one_that_the_row_sees() -> None:
    model, image = make("yolov3-nano"), picture()
    view = plain_view(model)
    names, starts = list(model.cam_layers()), np.cumsum([0, *(g.size for g in view.layout.levels)])
    raw, kept = look(model, image, model.cam_layers())
    for level, name in enumerate(names):
        scalar = raw.class_logits[int(starts[level]), 0]
        gradients = torch.autograd.grad(scalar, [v for _, v in kept], retain_graph=True, allow_unused=True)
        depends = [n for (n, _), g in zip(kept, gradients, strict=True) if g is not None and g.any()]
        assert depends[-1] == name
        raw, kept = look(model, image, model.cam_layers())
        assert [m.layer for m in attribute(raw.class_logits[int(starts[level]), 0], kept)] == [name]
        raw, kept = look(model, image, model.cam_layers())
        assert [m.layer for m in attribute(raw.class_logits[int(starts[level]), 0], kept, layer="all")] == depends
        raw, kept = look(model, image, model.cam_layers())


def test_layers_that_are_not_there_or_see_nothing_of_the_row_are_refused() -> None:
    model, view = make("yolov3-nano"), plain_view(make("yolov3-nano"))
    with pytest.raises(InputError, match=r"did you mean 'stride16'"):
        find_layers(model, "stide16")
    with pytest.raises(InputError, match=r"layer: expected one that gives a map"):
        explain(model, picture(), view, layer="scales.0")
    seen = explain(model, picture(), view)
    other = f"scales.{0 if seen.layer == 'stride8' else 2}.last"
    with pytest.raises(InputError, match="depends on"):
        explain(model, picture(), view, layer=other)


# -- deletion and insertion --------------------------------------------------------------------------------------------


def test_curves_have_the_areas_that_can_be_worked_out() -> None:
    """The score is the mean of a quarter of the pixels. Their own map takes it to 0 in a quarter of the way."""
    image, used = torch.ones(3, 20, 20), torch.zeros(20, 20)
    used[5:15, 5:15] = 1

    def score(x: Tensor) -> float:
        return float((x[0] * used).sum() / used.sum())

    black = torch.zeros_like(image)
    right = deletion_and_insertion(score, image, used, steps=20, baseline=black)
    assert right.deletion_area == pytest.approx(0.125) and right.insertion_area == pytest.approx(0.875)
    assert right.deletion[[0, 5, 20]].tolist() == pytest.approx([1, 0, 0])
    random = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    chance = deletion_and_insertion(score, image, random, steps=20, baseline=black)
    assert chance.deletion_area == pytest.approx(0.5, abs=0.06) and chance.insertion_area == pytest.approx(
        0.5, abs=0.06
    )
    wrong = deletion_and_insertion(score, image, -used, steps=20, baseline=black)
    assert wrong.deletion_area == pytest.approx(0.875)
    with pytest.raises(ValueError, match="cam: expected shape"):
        deletion_and_insertion(score, image, torch.zeros(3, 3))


def test_a_detection_s_score_asks_for_its_class_where_its_box_is() -> None:
    score = detection_score(Planted(planted()), BOXES[1], 1)
    assert score(picture()) == pytest.approx(float(LOGITS.softmax(1)[1, 1]))
    assert detection_score(Planted(planted()), torch.tensor([34.0, 2, 62, 16]), 1)(picture()) == pytest.approx(
        float(LOGITS.softmax(1)[1, 1]) / 2
    )
    flat = blurred(torch.full((3, SIZE, SIZE), 0.3))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))
