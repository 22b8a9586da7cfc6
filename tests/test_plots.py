"""Pictures exist, have a size to read them at, show something, and survive what real runs hand them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from iifdet import plots
from iifdet.evaluation.curves import Reliability
from iifdet.longtail import VARIANTS, ClassCounts, iif_weights
from iifdet.plots import class_colour, draw_boxes, mosaic_grid
from iifdet.plots.figure import new_figure, save, shorten, tidy, write_atomically

SIZES = (1, 31, 1203)
NAN = float("nan")


def long_tail(num_classes: int) -> ClassCounts:
    """Exponential counts, in an order that is not that of the classes; the last class never appears."""
    images = (2000 * 0.001 ** torch.linspace(0, 1, num_classes)).long().clamp(min=1).flip(0)
    if num_classes > 1:
        images[-1] = 0
    names = [f"class {c} with a rather long name" if c % 7 == 0 else f"class {c}" for c in range(num_classes)]
    return ClassCounts(names, images, images * 3, num_images=5000)


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None, f"{path} is no picture"
    return picture


def assert_shows_something(path: Path) -> None:
    picture = read(path)
    height, width = picture.shape[:2]
    assert 400 <= height <= 2000 and 600 <= width <= 2400
    ink = (picture < 250).any(axis=2).mean()
    assert 0.002 < ink < 0.95
    assert picture.std() > 5
    assert [p.name for p in path.parent.iterdir()] == [path.name], "left a temporary file behind"


def labels(counts: ClassCounts, path: Path) -> None:
    plots.plot_labels(counts, iif_weights(counts), path)


def weight_curves(counts: ClassCounts, path: Path) -> None:
    seen = ClassCounts(counts.names, counts.images.clamp(min=1), counts.instances.clamp(min=1), counts.num_images)
    weights = {v: iif_weights(seen, v, on_nonpositive="allow") for v in VARIANTS} if len(seen) > 1 else {}
    plots.plot_weight_curves(seen, path, weights)


def results(counts: ClassCounts, path: Path) -> None:
    rows = [
        {
            "epoch": e,
            "loss_box": 3 / e,
            "loss_cls": str(2 / e),
            "lr": 0.01,
            "AP": NAN if e == 1 else 0.1 * e,
            "tail5": "",
        }
        for e in range(1, len(counts) + 1)
    ]
    plots.plot_results(rows, path)


def class_results(counts: ClassCounts, path: Path) -> None:
    groups = {"many": 0.9, "medium": 0.5, "few": None}
    rows = [
        {"epoch": e, "loss": 3 / e, "lr": 0.1, "top1": 0.8, "top5": 1.0, "mean_class": 0.4, **groups, "nll": 25.9}
        for e in range(1, len(counts) + 1)
    ]
    plots.plot_results(rows, path, "held-out training images")


def pr_curve(counts: ClassCounts, path: Path) -> None:
    recall = torch.linspace(0, 1, 101)
    ap50 = torch.linspace(0.1, 0.9, len(counts))
    precision = (1 - recall[:, None] / ap50).clamp(min=0)
    if len(counts) > 1:
        ap50[1], precision[:, 1] = NAN, -1
    plots.plot_pr_curve(recall, precision, counts.names, ap50, path)


def confusion(counts: ClassCounts, path: Path) -> None:
    matrix = np.diag(np.append(np.full(len(counts), 20), 0))
    matrix[0, -1], matrix[-1, 0] = 5, 7
    matrix[0, len(counts) // 2] += 3
    plots.plot_confusion(matrix.astype(np.uint64), counts.names, path)


def tail(counts: ClassCounts, path: Path) -> None:
    ap = torch.linspace(0.1, 0.6, len(counts))
    ap[len(counts) // 2] = NAN if len(counts) > 1 else 0.3
    groups = {"frequent": range(len(counts) // 2, len(counts)), "rare": range(len(counts) // 2), "none": []}
    plots.plot_tail(ap, counts, counts.names, {"tail5": 0.2, "tail10": NAN, "tail20": None}, path, groups)


def reliability(counts: ClassCounts, path: Path) -> None:
    confidence = (np.arange(10) + 0.5) / 10
    confidence[-1] = NAN
    plots.plot_reliability(confidence, confidence * 0.8, np.append(np.full(9, 10 * len(counts)), 0), 0.1, path)


def class_confusion(counts: ClassCounts, path: Path) -> None:
    matrix = np.diag(np.full(len(counts), 20))
    matrix[0, len(counts) // 2] += 3
    plots.plot_confusion(matrix, counts.names, path, range(len(counts))[::-1], background=False)


def accuracy(counts: ClassCounts, path: Path) -> None:
    plots.plot_tail(torch.linspace(1, 0.1, len(counts)), counts, counts.names, {}, path, what="accuracy")


def group_reliability(counts: ClassCounts, path: Path) -> None:
    confidence = (np.arange(10) + 0.5) / 10
    some = Reliability(np.arange(11) / 10, confidence, confidence * 0.8, np.full(10, len(counts)), 0.1, 0.2)
    none = Reliability(np.arange(11) / 10, confidence * NAN, confidence * NAN, np.zeros(10), NAN, 0.0)
    plots.plot_group_reliability({"all": some, "many": some, "few": none}, path)


def differences(counts: ClassCounts, path: Path) -> None:
    value = torch.linspace(-0.1, 0.1, len(counts))
    value[len(counts) // 2] = NAN if len(counts) > 1 else 0.1
    groups = {"rare": range(len(counts) // 2), "frequent": range(len(counts) // 2, len(counts))}
    table = torch.stack((value, value - 0.03, value + 0.03), dim=1)
    plots.plot_differences(table, counts.names, path, counts, groups, title="b − a")


def weight_norms(counts: ClassCounts, path: Path) -> None:
    norms = {"softmax": torch.linspace(1, 2, len(counts)), "iif": torch.ones(len(counts))}
    plots.plot_weight_norms(norms, counts, path)


@pytest.fixture(scope="module", autouse=True)
def font_list(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first chart on a fresh machine makes matplotlib look for fonts, which is not what is timed here."""
    plots.plot_results([], tmp_path_factory.mktemp("first") / "chart.png")


CHARTS: list[Callable[[ClassCounts, Path], None]] = [
    labels,
    weight_curves,
    results,
    class_results,
    pr_curve,
    confusion,
    class_confusion,
    tail,
    accuracy,
    reliability,
    group_reliability,
    differences,
    weight_norms,
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_classes", SIZES)
@pytest.mark.parametrize("chart", CHARTS)
def test_chart_shows_something_and_warns_of_nothing_at_any_number_of_classes(
    chart: Any, num_classes: int, tmp_path: Path
) -> None:
    start = time.process_time()
    chart(long_tail(num_classes), tmp_path / "new" / "chart.png")
    assert time.process_time() - start < 3
    assert_shows_something(tmp_path / "new" / "chart.png")


def panels(monkeypatch: pytest.MonkeyPatch, path: Path, *args: Any) -> dict[str, tuple[str, list[str]]]:
    """Title of each panel of results.png -> what its y axis says, and which curves it has."""
    seen: list[Any] = []
    monkeypatch.setattr("iifdet.plots.results.save", lambda figure, _: seen.append(figure))
    plots.plot_results(args[0], path, *args[1:])
    return {
        ax.get_title(loc="left"): (ax.get_ylabel(), [str(line.get_label()) for line in ax.get_lines()])
        for ax in seen[0].axes
    }


def test_results_of_a_classifier_are_accuracy_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"top1": 0.8, "top5": 1.0, "mean_class": 0.4, "many": 0.9, "medium": 0.5, "few": 0.1, "nll": 9.0}
    rows = [{"epoch": e, "loss": 1.0, "lr": 0.1, **figures} for e in (1, 2)]
    _, _, accuracy, groups = panels(monkeypatch, tmp_path, rows).items()
    assert accuracy == ("accuracy: top1 ends at 0.800, best 0.800 (epoch 1)", ("", ["top1", "mean_class"]))
    assert groups == ("groups: many ends at 0.900, best 0.900 (epoch 1)", ("", ["many", "medium", "few"]))
    said = [said for said, _ in panels(monkeypatch, tmp_path, rows, "held-out training images").values()]
    assert said == ["", "", *["on held-out training images"] * 2]


def test_results_of_a_detector_are_ap_and_tails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"epoch": 1, "loss": 1.0, "lr": 0.1, "AP": 0.2, "mask_AP": 0.1, "tail5": 0.1, "rare": 0.1}]
    assert [curves for _, curves in panels(monkeypatch, tmp_path, rows).values()][2:] == [["AP", "mask_AP"], ["tail5"]]


NONE = ClassCounts([], torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), num_images=0)
ZERO = ClassCounts(["a", "b"], torch.tensor([0, 0]), torch.tensor([0, 0]), num_images=0)
NANS = torch.tensor([NAN, NAN])
SOME = Reliability(np.linspace(0, 1, 3), np.array([0.2, 0.7]), np.array([0.1, 0.8]), np.array([4, 9]), 0.1, 0.1)
SOME_GROUPS = dict.fromkeys(("all", "frequent", "common"), SOME)
NOTHING = Reliability(np.linspace(0, 1, 3), np.full(2, NAN), np.full(2, NAN), np.zeros(2), NAN, NAN)
EMPTY_INPUTS: dict[str, Callable[[Path], None]] = {
    "labels, no classes": lambda p: plots.plot_labels(NONE, None, p),
    "labels, no classes with weights": lambda p: plots.plot_labels(NONE, torch.tensor([]), p),
    "labels, no images": lambda p: plots.plot_labels(ZERO, NANS, p),
    "curves, no classes": lambda p: plots.plot_weight_curves(NONE, p, {"smooth": torch.tensor([])}),
    "curves, no variants": lambda p: plots.plot_weight_curves(ZERO, p, {}),
    "curves, no images": lambda p: plots.plot_weight_curves(ZERO, p, {"smooth": NANS}, by="instance"),
    "results, no rows": lambda p: plots.plot_results([], p),
    "results, nothing finite": lambda p: plots.plot_results([{"epoch": 1, "loss": "nan", "AP": None}], p),
    "results, text": lambda p: plots.plot_results([{"epoch": "?", "loss": 1.0}], p),
    "pr, no classes": lambda p: plots.plot_pr_curve(np.linspace(0, 1, 101), np.zeros((101, 0)), [], [], p),
    "pr, nothing at all": lambda p: plots.plot_pr_curve([], np.zeros((0, 2)), ["a", "b"], [NAN, NAN], p),
    "pr, no ground truth": lambda p: plots.plot_pr_curve([0, 1], -np.ones((2, 2)), ["a", "b"], [-1, -1], p),
    "confusion, no classes": lambda p: plots.plot_confusion(np.zeros((1, 1)), [], p),
    "confusion, zeros": lambda p: plots.plot_confusion(np.zeros((3, 3)), ["a", "b"], p),
    "class confusion, no classes": lambda p: plots.plot_confusion(np.zeros((0, 0)), [], p, background=False),
    "class confusion, zeros": lambda p: plots.plot_confusion(np.zeros((2, 2)), ["a", "b"], p, background=False),
    "group reliability, no groups": lambda p: plots.plot_group_reliability({}, p),
    "confusion, NaN": lambda p: plots.plot_confusion(np.full((3, 3), NAN), ["a", "b"], p),
    "tail, no classes": lambda p: plots.plot_tail([], NONE, [], {}, p),
    "tail, no ground truth": lambda p: plots.plot_tail(NANS, ZERO, ZERO.names, {"tail5": NAN}, p, {"rare": [0, 1]}),
    "tail, all zero": lambda p: plots.plot_tail([0, 0], ZERO, ZERO.names, {"tail5": 0.0}, p),
    "differences, no classes": lambda p: plots.plot_differences(np.zeros((0, 3)), [], p),
    "differences, nothing known": lambda p: plots.plot_differences(np.full((2, 3), NAN), ["a", "b"], p, ZERO),
    "differences, no intervals": lambda p: plots.plot_differences([[0.1, NAN, NAN]], ["a"], p),
    "norms, no models": lambda p: plots.plot_weight_norms({}, ZERO, p),
    "norms, all zero": lambda p: plots.plot_weight_norms({"a": [0, 0]}, ZERO, p),
    "intervals, no runs": lambda p: plots.plot_intervals({}, p),
    "intervals, nothing known": lambda p: plots.plot_intervals({"a": {"AP": (NAN, NAN, NAN)}}, p),
    "errors, no runs": lambda p: plots.plot_errors({}, p),
    "reliabilities, no runs": lambda p: plots.plot_reliabilities({}, p),
    "reliabilities, a group of nothing": lambda p: plots.plot_reliabilities({"a": {**SOME_GROUPS, "rare": NOTHING}}, p),
    "reliability, no bins": lambda p: plots.plot_reliability([], [], [], NAN, p),
    "reliability, no detections": lambda p: plots.plot_reliability(NANS, NANS, [0, 0], NAN, p),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", EMPTY_INPUTS)
def test_nothing_to_show_is_a_picture_too(case: str, tmp_path: Path) -> None:
    EMPTY_INPUTS[case](tmp_path / "chart.png")
    assert_shows_something(tmp_path / "chart.png")


def test_a_long_title_stays_inside_the_picture(tmp_path: Path) -> None:
    """It has the names of the runs, which may be long."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    tidy(axes, title="a run with a long name minus " * 6)
    save(figure, tmp_path / "chart.png")
    box = axes.get_tightbbox()
    assert box is not None and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


def test_charts_accept_half_precision_and_gradients(tmp_path: Path) -> None:
    counts = long_tail(3)
    ap = torch.tensor([0.1, 0.2, 0.3], dtype=torch.bfloat16, requires_grad=True)
    plots.plot_tail(ap, counts, counts.names, {"tail5": 0.2}, tmp_path / "chart.png")
    assert_shows_something(tmp_path / "chart.png")


def test_importing_plots_loads_no_matplotlib() -> None:
    code = "import sys, iifdet.plots; assert not any(m.startswith('matplotlib') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["short", "x" * 24, "traffic_light_with_a_red_arrow_to_the_left"])
def test_shortened_names_keep_both_ends(name: str) -> None:
    short = shorten(name)
    assert len(short) <= 24 and short[0] == name[0] and short[-1] == name[-1]


# ---- boxes


def test_box_is_drawn_where_it_is_and_the_image_stays_as_it_was() -> None:
    image = np.full((120, 160, 3), 128, np.uint8)
    drawn = draw_boxes(image, [[40, 50, 100, 90]], [1], ["a", "b"], [0.9])
    assert (image == 128).all()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert tuple(drawn[70, 40]) == tuple(drawn[90, 70]) == class_colour(1)
    assert (drawn[60:80, 50:90] == 128).all(), "the object itself stays visible"


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("label", range(40))
def test_label_text_is_readable_on_any_background(shade: int, label: int) -> None:
    image = np.full((100, 200, 3), shade, np.uint8)
    plate = draw_boxes(image, [[20, 40, 180, 90]], [label], ["Name"] * 40)[26:38, 22:50].reshape(-1, 3)
    brightness = plate @ np.array([0.299, 0.587, 0.114])
    assert brightness.max() - brightness.min() > 80


def test_boxes_off_the_image_and_broken_ones_are_no_trouble() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    boxes = torch.tensor(
        [[NAN, 0, 1, 1], [-1e12, -1e12, 1e12, 1e12], [70, 55, 300, 300], [10, -20, 30, 2], [5, 5, 5, 5]]
    )
    drawn = draw_boxes(image, boxes, torch.tensor([0, 1, 2, 99, 0]), ["a very long name indeed, too long", "b", "c"])
    assert drawn.shape == image.shape and drawn.any()


def test_no_boxes_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    assert (draw_boxes(image, torch.zeros(0, 4), torch.zeros(0), ["a"], torch.zeros(0)) == image).all()


def test_best_score_lies_on_top() -> None:
    image, box = np.zeros((60, 80, 3), np.uint8), [[10, 20, 60, 50]] * 2
    assert tuple(draw_boxes(image, box, [0, 1], ["a", "b"], [0.2, 0.9])[35, 10]) == class_colour(1)
    assert tuple(draw_boxes(image, box, [0, 1], ["a", "b"], [0.9, 0.2])[35, 10]) == class_colour(0)
    assert tuple(draw_boxes(image, box, [0, 1], ["a", "b"])[35, 10]) == class_colour(0)


def test_masks_are_blended_and_outlined() -> None:
    image, mask = np.full((60, 80, 3), 100, np.uint8), torch.zeros(1, 60, 80)
    mask[0, 30:40, 30:40] = 1
    drawn = draw_boxes(image, [[10, 20, 60, 50]], [0], ["a"], masks=mask)
    assert np.allclose(drawn[35, 35], 0.65 * 100 + 0.35 * np.array(class_colour(0)), atol=1)
    assert tuple(drawn[35, 30]) == class_colour(0) and (drawn[35, 29] == 255).all()  # the outline, seen on any ground
    assert (drawn[45, 45] == 100).all()


def test_class_colours_are_stable_and_differ() -> None:
    colours = [class_colour(c) for c in range(40)]
    assert colours == [class_colour(c) for c in range(40)]
    assert len(set(colours)) == 40


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_grid_holds_every_image(suffix: str, tmp_path: Path) -> None:
    shades = [40, 80, 120, 160, 200]
    images = [np.full((50 + 10 * (i % 2), 70, 3), (s, 0, 0), np.uint8) for i, s in enumerate(shades)]
    mosaic_grid(images, tmp_path / f"grid{suffix}", columns=2)
    grid = read(tmp_path / f"grid{suffix}")
    assert grid.shape == (3 * 64 - 4, 2 * 74 - 4, 3)
    seen = [grid[64 * (i // 2) + 25, 74 * (i % 2) + 35] for i in range(5)]  # BGR: red comes last
    assert np.allclose([s[2] for s in seen], shades, atol=6) and max(int(s[0]) for s in seen) < 10


def test_large_grid_is_shrunk_and_empty_one_says_so(tmp_path: Path) -> None:
    mosaic_grid([np.zeros((900, 1000, 3), np.uint8)] * 16, tmp_path / "large.jpg")
    assert max(read(tmp_path / "large.jpg").shape) <= 2560
    mosaic_grid([], tmp_path / "empty.jpg")
    assert read(tmp_path / "empty.jpg").std() > 5


def test_the_confusion_matrix_goes_by_the_order_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iifdet.plots import confusion

    seen: list[Any] = []
    monkeypatch.setattr(confusion, "_list_confusions", lambda ax, *seen_: seen.append(seen_))
    matrix = np.array([[5, 1, 0], [2, 7, 3], [4, 0, 0]])
    plots.plot_confusion(matrix, ["rare", "common"], tmp_path / "a.png", [1, 0])
    (between, share, labels), *_ = seen
    assert labels == ["common", "rare", "background"]
    assert between.tolist() == [[7, 2], [1, 5]]
    assert (share * [[12], [6], [4]]).round(6).tolist() == [[7, 2, 3], [1, 5, 0], [0, 4, 0]]


def test_neighbouring_classes_are_put_together_where_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iifdet.plots import confusion

    drawn: list[Any] = []
    monkeypatch.setattr(confusion, "_draw_cells", lambda figure, ax, *cells: drawn.append(cells))
    monkeypatch.setattr(confusion, "MOST_BLOCKS", 2)
    matrix = np.array([[1, 1, 0], [0, 1, 1], [0, 2, 0]])
    plots.plot_confusion(matrix, ["a", "b", "c"], tmp_path / "a.png", background=False)
    cells, block, rows = drawn[0]
    assert (block, rows) == (2, 3)
    assert cells.tolist() == [[3 / 4, 1 / 4], [1, 0]]


def test_a_caption_stands_below_a_copy_of_the_image() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    long, short = (plots.add_caption(image, [(text, (255, 0, 0)), ("", (0, 0, 0))]) for text in ("w" * 80, "w"))
    assert long.shape == short.shape and long.shape[1] == 60 and not long[:40].any()
    assert (long[40:] == (255, 0, 0)).all(axis=2).any() or (long[40:, :, 1] < 200).any()
    assert (long[40:, 58:] == 255).all() and (short[40:, 30:] == 255).all(), "text is made to fit"


def test_a_note_is_written_on_a_copy() -> None:
    image = np.zeros((40, 120, 3), np.uint8)
    noted = plots.write_note(image, "nothing")
    assert not image.any() and noted.any() and noted.shape == image.shape
