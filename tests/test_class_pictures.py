"""Pictures that a run of a classifier leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from iifdet import class_pictures
from iifdet.class_pictures import draw_batch
from iifdet.classifiers import CLASSIFIERS
from iifdet.datasets.classification import ArrayImages, ClassIndex
from iifdet.evaluation import ClassificationEvaluator
from iifdet.longtail import ClassCounts
from iifdet.pictures import PICTURES
from iifdet.types import Batch, MixedLabels

NAMES = ["ant", "bee", "cow"]


def batch_of(count: int, side: int = 32) -> Batch:
    labels = torch.arange(count) % 3
    return Batch(torch.full((count, 3, side, side), 90, dtype=torch.uint8), labels)  # type: ignore[arg-type]


def captions(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, Any]]]:
    """What is written under the images from now on."""
    seen: list[Any] = []
    real = class_pictures.plots.add_caption
    monkeypatch.setattr(
        class_pictures.plots, "add_caption", lambda image, lines: (seen.append(lines), real(image, lines))[1]
    )
    return seen


def test_predictions_say_what_is_right_and_what_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = captions(monkeypatch)
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0]])
    draw_batch(batch_of(5), NAMES, tmp_path / "pred.png", scores)
    (right, nothing), (wrong, truth) = seen
    assert right[0] == "ant 0.90" and nothing[0] == "" and wrong[0] == "ant 0.70" and truth[0] == "is bee"
    assert right[1] != wrong[1]
    assert cv2.imread(str(tmp_path / "pred.png")).shape[1] == 2 * 160 + 4


def test_labels_and_blended_labels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = captions(monkeypatch)
    batch = batch_of(2)
    draw_batch(batch, NAMES, tmp_path / "labels.png")
    assert [[text for text, _ in lines] for lines in seen] == [["ant"], ["bee"]]
    labels = batch.targets
    for share in (torch.tensor(0.7), torch.tensor([0.7, 0.7])):
        seen.clear()
        mixed = Batch(batch.images.float() / 255, MixedLabels(labels, labels.flip(0), share))  # type: ignore[arg-type]
        draw_batch(mixed, NAMES, tmp_path / "mixed.png")
        assert [[text for text, _ in lines] for lines in seen] == [["ant 70%", "bee 30%"], ["bee 70%", "ant 30%"]]


def shown_of(labels: torch.Tensor, size: int = 32, loss: str = "ce") -> tuple[Batch, torch.Tensor]:
    """What is drawn of a split whose image n has the shade n, in batches; its logits are 0, and n for class 0."""
    model = CLASSIFIERS["se_resnet20"](3)
    model.set_class_loss(loss)
    choice = PICTURES["classify"].choose(model)
    assert choice.shown() is None
    for rows in torch.arange(len(labels)).split(size):
        images = rows.byte()[:, None, None, None].expand(-1, 3, 4, 4)
        logits = torch.nn.functional.pad(rows.float()[:, None], (0, 2))
        choice.add(Batch(images, labels[rows]), logits)  # type: ignore[arg-type]
    return choice.shown()  # type: ignore[no-any-return]


def test_the_classes_of_an_ordered_split_take_turns() -> None:
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] * 3)
    batch, scores = shown_of(labels)
    turns = [0, 40, 80, 1, 41, 81, 2, 42, 82]
    rows = turns + [start + i for i in range(3, 15) for start in (0, 40)][: 32 - len(turns)]
    assert [int(image[0, 0, 0]) for image in batch.images] == rows
    assert batch.targets.tolist() == labels[rows].tolist()  # type: ignore[union-attr]
    torch.testing.assert_close(scores[:, 0], torch.stack([torch.tensor([float(r), 0, 0]).softmax(0)[0] for r in rows]))
    again, same = shown_of(labels, size=83)
    assert torch.equal(torch.stack(list(again.images)), torch.stack(list(batch.images))) and torch.equal(same, scores)


def test_little_is_kept_of_a_split_and_large_images_are_not_enlarged(tmp_path: Path) -> None:
    batch, scores = shown_of(torch.arange(100) % 3)
    assert len(batch) == 32 and scores.shape == (32, 3)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(32))
    assert batch.images[0].untyped_storage().nbytes() == 48, "a copy, which holds no batch"  # type: ignore[union-attr]
    torch.testing.assert_close(shown_of(torch.zeros(1, dtype=torch.int64), loss="bce")[1], torch.full((1, 3), 0.5))
    draw_batch(batch_of(1, 300), NAMES, tmp_path / "large.png")
    assert cv2.imread(str(tmp_path / "large.png")).shape[1] == 300


@pytest.mark.parametrize("known", [True, False])
def test_a_result_leaves_its_pictures(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(30) % 3
    images = ArrayImages(np.zeros((30, 1, 1, 3), np.uint8), [str(i) for i in range(30)])
    evaluator = ClassificationEvaluator(ClassIndex.of(NAMES, images, labels.numpy()))
    evaluator.update(torch.randn(30, 3), Batch(torch.zeros(30, 3, 1, 1), labels))  # type: ignore[arg-type]
    counts = ClassCounts(NAMES[::-1], *[torch.tensor([3, 50, 200])] * 2, num_images=253) if known else None
    result = evaluator.compute()
    PICTURES["classify"].result(tmp_path, result, evaluator, counts, result.metrics(counts))
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"confusion_matrix.png", "reliability.png", *(["tail.png"] if known else [])}
    monkeypatch.setattr(class_pictures, "MOST_CLASSES", 2)
    (tmp_path / "again").mkdir()
    class_pictures.draw_result(tmp_path / "again", result, evaluator, counts, result.metrics(counts))
    assert not (tmp_path / "again" / "confusion_matrix.png").exists()


def test_groups_and_order_are_those_of_the_training_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(30) % 3
    images = ArrayImages(np.zeros((30, 1, 1, 3), np.uint8), [str(i) for i in range(30)])
    evaluator = ClassificationEvaluator(ClassIndex.of(NAMES, images, labels.numpy()))
    evaluator.update(torch.eye(3)[labels], Batch(torch.zeros(30, 3, 1, 1), labels))  # type: ignore[arg-type]
    counts = ClassCounts(NAMES, *[torch.tensor([3, 50, 200])] * 2, num_images=253)
    seen: dict[str, Any] = {}
    for name in ("plot_confusion", "plot_group_reliability", "plot_tail"):
        monkeypatch.setattr(class_pictures.plots, name, lambda *a, _name=name, **k: seen.update({_name: (a, k)}))
    result = evaluator.compute()
    class_pictures.draw_result(tmp_path, result, evaluator, counts, result.metrics(counts, groups=(4, 60)))
    assert seen["plot_confusion"][0][3] == [2, 1, 0]
    groups = seen["plot_group_reliability"][0][0]
    assert {name: int(r.count.sum()) for name, r in groups.items()} == {"all": 30, "many": 10, "medium": 10, "few": 10}
    assert seen["plot_tail"][0][5] == {"many": [2], "medium": [1], "few": [0]}
